"""The parts of Net that outlast a pass: its one thread, recurrent states, copying, and replacement."""

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
    """Refuses a second thread while one runs the net, as the layers hold the state of a single pass.

    Also refuses to show a thread the results of its pass if another thread has run one since.
    """

    def __init__(self, refusal: str = "") -> None:
        self.refusal = refusal or _ONE
        self._lock, self._own = threading.RLock(), threading.local()
        self._last: int | None = None       # the thread of the last pass

    def __call__(self, wait: bool = False) -> OneThread:
        """Keep other threads out of this context; if one is in it, wait for it, or raise DataError.

        Enter it at once, as `with net.guard():` does.
        """
        if not self._lock.acquire(blocking=wait):
            raise DataError(self.refusal)
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def note(self) -> None:
        """Record that this thread begins a pass."""
        self._own.ran, self._last = True, threading.get_ident()

    def check(self) -> None:
        """Raise DataError if this thread has run a pass and another thread a later one."""
        if self._last != threading.get_ident() and hasattr(self._own, "ran"):
            raise DataError(self.refusal)


_ONE = ("another thread runs this net: a Net serves one thread at a time; give each thread a net of its own, "
        "built with share=net where they are to have the same weights")


class Lifetime:
    """The part of Net that outlasts passes: recurrent states, copying, replacement."""

    layers: dict[str, Layer]
    graph: Graph
    config: NetConfig
    backend: Backend
    dtype: str

    @property
    def states(self) -> dict:
        """{(layer, name): array} of the recurrent states; every forward pass makes new arrays."""
        return {(name, key): array for name, layer in self.layers.items()
                for key, array in layer.state.items()}

    def set_states(self, states: dict) -> None:
        """Let the next forward pass continue from `states`, in the form of the property."""
        for (name, key), array in states.items():
            self.layers[name].state[key] = array

    def reset_states(self) -> None:
        """Set all states to 0 for the next forward pass; raises BackendError if memory is short."""
        for node in self.graph.nodes:
            with fits_into_memory(f"{self.config.where(node.index)}: layer {node.name!r}: its state"):
                node.layer.state = {name: self.backend.zeros(shape, self.dtype)
                                    for name, shape in node.layer.state_shapes().items()}

    @contextmanager
    def restored(self: Any) -> Iterator[None]:
        """Restore on exit what passes change: mode, draws, place in the data, states, statistics of norms."""
        forwards, drops = self._forwards, self.drops.state
        positions, states = self.positions, self.states
        statistics = [(parameter, parameter.data.copy()) for parameter in self.statistics()]
        try:
            yield
        finally:
            self._forwards, self.drops.state = forwards, drops
            self.seek(positions)
            self.set_states(states)
            for parameter, before in statistics:
                parameter.data[...] = before

    def forget_pass(self: Any) -> None:
        """Hold nothing of the last pass: no blob, no graph, no input that it alone was given."""
        self.show({})
        self._give({})

    def __deepcopy__(self: Any, memo: dict) -> Net:
        """Return an independent net: weights, gradients, states and positions in the data are copied.

        Data are read from the same sources. The tensors of the last pass are not copied; a net that this one
        shares parameters with is.
        """
        share = copy.deepcopy(self.share, memo)
        handed = {name: layer.hands_on() for name, layer in self.layers.items() if layer.needs_handed}
        new = type(self)(self.config, self.phase, self.backend, self.dtype, self.seed, self.level,
                         self.stages, share, handed=handed, rank=self.parts.rank, ranks=self.parts.ranks)
        memo[id(self)] = new
        for layer, own in self.params.items():
            for name, parameter in own.items():
                if id(parameter) not in memo:
                    memo[id(parameter)] = new.params[layer][name]
                    new.params[layer][name].copy_from(parameter)
        for name, layer in self.layers.items():
            new.layers[name].adopt(layer)
        new.set_states({place: array.copy() for place, array in self.states.items()})
        new._go_on_from(self)
        return new

    def _go_on_from(self: Any, other: Net) -> None:
        """Take over where `other`, a net of the same description, stands in its data and its draws."""
        self.seek(other.positions)
        self.drops.state, self._forwards = other.drops.state, other._forwards

    def replace_by(self: Any, config: NetConfig) -> None:
        """Build the net anew from `config`, with the same parameters; go on in the data and the draws.

        Raises ConfigError, and leaves the net as it is, where `config` does not fit the parameters.
        """
        self.become(self.derived(config))

    def derived(self: Any, config: NetConfig) -> Net:
        """Return a net of `config` with the same parameters, which goes on in the data and the draws.

        Raises ConfigError where `config` does not fit the parameters.
        """
        handed = {name: layer.hands_on() for name, layer in self.layers.items()}
        new = type(self)(config, self.phase, self.backend, self.dtype, self.seed, self.level, self.stages,
                         self, handed={name: own for name, own in handed.items() if own is not None},
                         rank=self.parts.rank, ranks=self.parts.ranks)
        new._go_on_from(self)
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise SnapshotError("a Net cannot be pickled: it holds files, threads and device memory. Build it "
                            "from its description, and load a snapshot (Solver.snapshot, Solver.restore, "
                            "--weights); within a process copy.deepcopy copies it")

    def become(self: Any, new: Net) -> None:
        """Take over the contents of `new`, a net of the same description; do not use `new` afterwards.

        The mode stays, and so do the arrays and inputs that the caller has set.
        """
        mode, share = self.mode, self.share
        for name, layer in self.layers.items():
            new.layers[name].adopt(layer)
        self.close()
        vars(self).update(vars(new))
        self.mode, self.share = mode, share
        self.show({})
