"""What a Net is beside its passes: one thread's at a time, copied as a whole, and replaced in its place."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from minidrop.errors import DataError, SnapshotError, fits_into_memory

if TYPE_CHECKING:
    from minidrop.backend import Backend
    from minidrop.config import NetConfig
    from minidrop.layers.base import Layer
    from minidrop.net.graph import Graph
    from minidrop.net.net import Net


class OneThread:
    """Refuses a second thread in a net where one is at work: the layers hold what a single pass needs.

    Also refused is what a thread asks of its own pass where another thread has run one since.
    """

    def __init__(self) -> None:
        self._lock, self._own = threading.RLock(), threading.local()
        self._last: int | None = None       # the thread of the last pass

    @contextmanager
    def __call__(self, wait: bool = False) -> Iterator[None]:
        """Within this context no other thread is let in. Where one is in, wait for it, or raise DataError."""
        if not self._lock.acquire(blocking=wait):
            raise DataError(_ONE)
        try:
            yield
        finally:
            self._lock.release()

    def note(self) -> None:
        """Note that this thread begins a pass."""
        self._own.ran, self._last = True, threading.get_ident()

    def check(self) -> None:
        """Raise DataError where this thread has run a pass, but another one the last."""
        if self._last != threading.get_ident() and hasattr(self._own, "ran"):
            raise DataError(_ONE)


_ONE = ("another thread runs this net: a Net serves one thread at a time; give each thread a net of its own, "
        "built with share=net where they are to have the same weights")


class Lifetime:
    """The part of Net that outlasts passes: states, copies, a net in the place of another."""

    layers: dict[str, Layer]
    graph: Graph
    config: NetConfig
    backend: Backend
    dtype: str

    @property
    def states(self) -> dict:
        """{(layer, name): array} of what recurrent layers carry; every forward pass makes new arrays."""
        return {(name, key): array for name, layer in self.layers.items()
                for key, array in layer.state.items()}

    def set_states(self, states: dict) -> None:
        """Let the next forward pass go on from `states`, as the property gives them."""
        for (name, key), array in states.items():
            self.layers[name].state[key] = array

    def reset_states(self) -> None:
        """Let the next forward pass begin with all states 0."""
        for node in self.graph.nodes:
            with fits_into_memory(f"{self.config.where(node.index)}: layer {node.name!r}: its state"):
                node.layer.state = {name: self.backend.zeros(shape, self.dtype)
                                    for name, shape in node.layer.state_shapes().items()}

    def __deepcopy__(self: Any, memo: dict) -> Net:
        """Return a net of the same description, with weights, gradients, states, places of its own.

        Data are read from the same sources. The tensors of the last pass are not copied; the net that
        this one shares parameters with is.
        """
        share = copy.deepcopy(self.share, memo)
        new = type(self)(self.config, self.phase, self.backend, self.dtype, self.seed, self.level,
                         self.stages, share)
        memo[id(self)] = new
        for layer, own in self.params.items():
            for name, parameter in own.items():
                if id(parameter) not in memo:
                    memo[id(parameter)] = new.params[layer][name]
                    new.params[layer][name].copy_from(parameter)
        for name, layer in self.layers.items():
            new.layers[name].adopt(layer)
        new.seek(self.positions)
        new.set_states({place: array.copy() for place, array in self.states.items()})
        new.drops.state, new._forwards = self.drops.state, self._forwards
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise SnapshotError("a Net cannot be pickled: it holds files, threads and device memory. Build it "
                            "from its description, and load a snapshot (Solver.snapshot, Solver.restore, "
                            "--weights); within a process copy.deepcopy copies it")

    def become(self: Any, new: Net) -> None:
        """Take the place of a net that was built anew from the same description, `new`, which is given up.

        The mode stays, and so does what the caller has set to be read: arrays and inputs.
        """
        mode, share = self.mode, self.share
        for name, layer in self.layers.items():
            new.layers[name].adopt(layer)
        self.close()
        vars(self).update(vars(new))
        self.mode, self.share = mode, share
        self.show({})
