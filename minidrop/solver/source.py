"""Source: where the nets and the update rule of a Solver come from."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

from minidrop.config import NetChoice, SolverConfig, SolverParameter
from minidrop.net import Net
from minidrop.solver.early_stopping import EarlyStopping
from minidrop.solver.lr_policy import learning_rate
from minidrop.solver.prepare import as_solver_config, net_of
from minidrop.solver.read_once import ReadOnce
from minidrop.solver.updater import Updater

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver


class Source:
    """A solver file, its nets, and what its fields ask for. See Objects for one of Python objects.

    alike: what to do where a rank has another description.
    """

    alike = "start all ranks with the same files and options"

    def __init__(self, config: SolverConfig):
        self.config = config

    def net(self, choice: NetChoice, share: Net | None, **options: Any) -> Net:
        """Return the net that a solver trains or tests; `share` and options as for Net."""
        return net_of(choice, share, **options)

    def description(self) -> dict[str, object]:
        """Return what all ranks must have alike besides settings and nets, by names for messages."""
        return {}

    def updater(self, settings: SolverParameter, net: Net) -> Updater:
        """Return what updates the parameters of the net that is trained."""
        return Updater(settings, net)

    def learning_rate(self, settings: SolverParameter, iteration: int) -> float:
        """Return the learning rate of an iteration."""
        return learning_rate(settings, iteration)

    def early_stopping(self, settings: SolverParameter) -> EarlyStopping | None:
        """Return the callback that ends the training early, None for none."""
        return EarlyStopping.of(settings)

    def read(self, settings: SolverParameter) -> ReadOnce:
        """Return the settings that a solver reads when it is made."""
        return ReadOnce(settings)

    def begin(self, solver: Solver) -> None:
        """Bring a new solver to where the source stands, with the callbacks that it asks for."""
        self.read_once = self.read(solver.settings)
        if solver.early_stopping is not None:
            solver.add_callback(solver.early_stopping)

    def running(self, solver: Solver) -> AbstractContextManager[None]:
        """Return a context in which the solver runs; raises ConfigError where it may not."""
        self.read_once.check(solver.settings)
        return nullcontext()

    def follow(self, solver: Solver) -> None:
        """Let the source stand where the solver does, which has moved."""


Description: TypeAlias = Source | SolverConfig | SolverParameter | str | PathLike


def as_source(source: Description) -> Source:
    """Return the Source of a description of a solver, which may be the path of a file."""
    return source if isinstance(source, Source) else Source(as_solver_config(source))
