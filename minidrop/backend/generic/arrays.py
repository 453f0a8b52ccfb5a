"""Arrays, moving them to a device and back, and capturing its work."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minidrop.errors import CaptureError

_HERE = nullcontext()       # for any number of `with` at a time


class Linkable(NamedTuple):
    """device: what tells it from others of its host; library: what links them; problem: why it does not."""

    device: str = ""
    library: str = ""
    problem: str = ""


class Arrays:
    """Making, moving and joining arrays; synchronizing with a device and capturing its work.

    The families of operations are written on it: each names as its base what else it needs.
    """

    xp: ModuleType
    name: str
    capturing: bool

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        """Return an uninitialised C-contiguous array."""
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return an array of zeros."""
        out = self.empty(shape, dtype)
        out.fill(0)
        return out

    def asarray(self, x: np.ndarray, dtype: Any = None) -> np.ndarray:
        """Return `x` (host array, device array or nested lists) as an array of this device."""
        return self.xp.asarray(x, dtype)

    def to_host(self, x: np.ndarray) -> np.ndarray:
        """Return `x` as a NumPy array."""
        return np.asarray(x)

    def active(self) -> Any:
        """Return a context that makes this device the current one for new arrays and work."""
        return _HERE

    def exp_of_nonpositive(self, x: np.ndarray) -> None:
        """x = exp(x) in place, x <= 0; what is less than the smallest normal number may be 0."""
        self.xp.exp(x, out=x)

    def concatenate(self, arrays: Sequence[np.ndarray], axis: int = 0) -> np.ndarray:
        """Return arrays joined along `axis`.

        Each is written into its place; a single kernel would need a list of addresses on the device first.
        """
        axis %= arrays[0].ndim
        shape = list(arrays[0].shape)
        shape[axis] = sum(x.shape[axis] for x in arrays)
        out, first = self.empty(tuple(shape), arrays[0].dtype), 0
        for x in arrays:
            last = first + x.shape[axis]
            out[(slice(None),) * axis + (slice(first, last),)] = x
            first = last
        return out

    def linkable(self) -> Linkable:
        """Return what tells whether this device can exchange arrays with those of other processes."""
        return Linkable()

    def link_key(self) -> bytes:
        """Return the key of a new link, for `link` of all processes. Only where the device is linkable."""
        raise NotImplementedError

    def link(self, key: bytes, rank: int, size: int) -> Any:
        """Return what moves arrays between the devices of `size` processes, see `cuda.nccl.NcclLink`.

        Waits until all have called it. Raises ParallelError.
        """
        raise NotImplementedError

    def trim(self) -> None:
        """Return memory that is held for reuse to the system."""

    def in_chunks(self, work: Callable, rows: int, columns: int, itemsize: int) -> None:
        """Call work(first, last) until each of rows 0 .. rows-1 was in one call: here in a single one.

        A device may use smaller chunks, in any order and in parallel: the same ones for the same arguments.
        """
        work(0, rows)

    def synchronize(self) -> None:
        """Wait until all queued work of the device is done."""

    def describe(self) -> str:
        """Return one line for users: the device and the libraries that compute on it."""
        return self.name

    def pinned(self, x: np.ndarray) -> np.ndarray:
        """Return a host array as one that `upload` can copy asynchronously. Thread-safe.

        It may be the same array. It must not be changed after it has been passed to `upload`.
        """
        return x

    def upload(self, owner: Any, arrays: list) -> list[np.ndarray]:
        """Return the arrays of a batch on this device; dtypes stay, and arrays of this device are not copied.

        The result is valid until eight later uploads of the same `owner`, any weakly referenceable object.
        """
        return [self.asarray(x) for x in arrays]

    def send(self, target: Any, source: Any) -> None:
        """Copy a host array to an array of this device of the same shape and dtype, in stream order.

        `source` is in memory that `pinned` returned, and must not change before the copy is done. The call
        does not wait for it.
        """
        target[...] = self.asarray(source)

    def fetch(self, x: Any) -> Any:
        """Return an object whose get() returns the present value of x on the host, copied asynchronously."""
        return _Fetched(self.to_host(x).copy())

    def refuse(self, wrong: np.ndarray, error: Callable) -> None:
        """Raise the exception error() if an entry of the bool array `wrong` is True.

        A step that is being captured cannot look at values: it sets a flag on the device, which is checked
        after a replay (see solver.captured).
        """
        if bool(wrong.any()):
            raise error()

    def capture(self, work: Callable) -> Any:
        """Return the device work of work() as a graph that `launch()` replays. Raises CaptureError."""
        raise CaptureError(f"{self.name} captures nothing")


class _Fetched:
    def __init__(self, x):
        self.get = lambda: x
