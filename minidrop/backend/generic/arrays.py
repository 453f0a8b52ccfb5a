"""Arrays, how they come to the device and go from it, and what of its work may be captured."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from minidrop.errors import CaptureError


class Arrays:
    """Making, moving and joining arrays; what differs where work waits on a device."""

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
        """Return a context in which new arrays and work belong to this device, whatever the thread used
        before."""
        return nullcontext()

    def concatenate(self, arrays: Sequence[np.ndarray], axis: int = 0) -> np.ndarray:
        """Return arrays joined along `axis`, each written into its place: a list of addresses would go to the
        device first."""
        axis %= arrays[0].ndim
        shape = list(arrays[0].shape)
        shape[axis] = sum(x.shape[axis] for x in arrays)
        out, first = self.empty(tuple(shape), arrays[0].dtype), 0
        for x in arrays:
            last = first + x.shape[axis]
            out[(slice(None),) * axis + (slice(first, last),)] = x
            first = last
        return out

    def trim(self) -> None:
        """Give memory that is held for reuse back to the system."""

    def in_chunks(self, work: Callable, rows: int, columns: int, itemsize: int) -> None:
        """Call work(first, last) until all rows 0 .. rows-1 of a matrix have been in one call: here in one.

        A device may have a reason for smaller pieces, in any order and at the same time.
        """
        work(0, rows)

    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""

    def describe(self) -> str:
        """Return one line for people: the device and what computes on it."""
        return self.name

    def pinned(self, x: np.ndarray) -> np.ndarray:
        """Return a host array as one that `upload` can copy while the host goes on; threads may call it.

        It may be the same array. It must not change any more once it has been given to `upload`.
        """
        return x

    def upload(self, owner: Any, arrays: list) -> list[np.ndarray] | None:
        """Return the arrays of a batch on this device; types stay, and what is there already is not copied.

        What is returned holds until eight later uploads of the same `owner`, any object that can be referred
        to weakly.
        """
        return [self.asarray(x) for x in arrays]

    def send(self, target: Any, source: Any) -> None:
        """Copy a host array to an array of this device like it, in the order of all other work.

        `source` lies in memory that `pinned` returned, and must not change before the copy is done, which
        nobody waits for.
        """
        target[...] = self.asarray(source)

    def fetch(self, x: Any) -> Any:
        """Return an object whose get() returns the content that x has now on the host; a device copies
        meanwhile."""
        return _Fetched(self.to_host(x).copy())

    def refuse(self, wrong: np.ndarray, error: Callable) -> None:
        """Raise the exception error() where an entry of the bool array `wrong` is True.

        A step that is being captured cannot look: it notes on the device that something is wrong, and whoever
        replays it looks later (see solver.captured).
        """
        if bool(wrong.any()):
            raise error()

    def capture(self, work: Callable) -> Any:
        """Return what work() gives the device to do as a graph: `launch()` does it, as often as wanted.
        CaptureError."""
        raise CaptureError(f"{self.name} captures nothing")


class _Fetched:
    def __init__(self, x):
        self.get = lambda: x
