"""Events: what a Solver tells its callbacks, and what they may answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from minidrop.autograd import Tensor
from minidrop.errors import ConfigError, MinidropError, in_short
from minidrop.solver.evaluation import as_plain

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver

log = logging.getLogger(__name__)

MOST_VALUES = 100       # in an output that an Event shows


class StopTraining(MinidropError):
    """A callback raises it to end the training as `Solver.stop` does; its text is logged."""


@dataclass
class Event:
    """The argument of a callback: kind, iteration, and values by name.

    `kind` is "test", "step", "display" or "snapshot". A "step" has `loss`, `lr` and, with log_gradient_norm,
    `gradient_norm`; a "display" also the net's small outputs, except one called loss. There `loss` is the
    training loss: the weighted sum of all losses of the net, without weight decay, averaged over the last
    `average_loss` iterations. A "test" has `net`, the number of the test net, and the mean of each output:
    there `loss` is the output of that name, and `total_loss`, with test_compute_loss, the weighted sum of
    all losses. A "snapshot" has the value "path". On a GPU, reading the loss or the norm of a "step" waits
    for the device; it must be read within the callback.

    A callback may call `solver.stop()`, or raise StopTraining, which does the same. Any other error that it
    raises ends the run, and reaches the caller unchanged: of a "test" before the iteration, of a "display"
    after the update and of a "step" or "snapshot" behind it, so that the solver has done whole iterations
    and can go on, write a snapshot or restore one.
    """

    kind: str
    iteration: int
    values: Mapping
    net: int = 0
    solver: Solver | None = field(default=None, compare=False, repr=False)


@runtime_checkable
class Stateful(Protocol):
    """A callback whose state snapshots keep, under its `name`."""

    name: str

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return the state as arrays by name."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state; raises SnapshotError, with nothing changed, for another one."""

    def restart(self) -> None:
        """Begin anew, as a new object would."""


def tell(solver: Solver, kind: str, values: Mapping, net: int = 0) -> None:
    """Call every callback of a solver with an Event; StopTraining ends its training."""
    event = Event(kind, solver.iteration, values, net, solver)
    for function in tuple(solver.callbacks):
        try:
            function(event)
        except StopTraining as reason:
            if str(reason):
                log.info("%s", reason)
            solver.stop()


def small_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that an Event shows: those of at most MOST_VALUES numbers."""
    return {name: value for name, value in values.items() if np.size(value) <= MOST_VALUES}


def small_outputs(outputs: Mapping[str, Tensor]) -> dict[str, float | list]:
    """Return the small outputs as plain numbers, without `loss`, which is shown smoothed."""
    return {name: as_plain(tensor.numpy()) for name, tensor in outputs.items()
            if name != "loss" and tensor.data.size <= MOST_VALUES}


def checked_callback(solver: Solver, function: Any) -> Any:
    """Return a function that is to be a callback of a solver; raises ConfigError for what is none, for a
    Stateful one of the name of another, of which snapshots could keep one state alone, and for one that has a
    state, but is no Stateful: it would be lost without a word."""
    if not callable(function):
        raise ConfigError(f"add_callback: expected a function of an Event, got {in_short(function)}")
    if isinstance(function, Stateful) and any(one.name == function.name for one in stateful(solver)):
        raise ConfigError(f"add_callback: there is a callback of the name {function.name!r} already, and "
                          f"snapshots keep one state for a name; set another `name`")
    lacks = [name for name in ("name", "load_state_dict", "restart") if not hasattr(function, name)]
    if lacks and hasattr(function, "state_dict"):
        raise ConfigError(f"add_callback: {type(function).__name__} has a state_dict, but no "
                          f"{' and no '.join(lacks)}, so that snapshots would not keep its state; add "
                          f"what it lacks")
    return function


def stateful(solver: Solver) -> Iterator[Stateful]:
    """Yield the callbacks of a solver whose state snapshots keep."""
    for function in solver.callbacks:
        if isinstance(function, Stateful):
            yield function
