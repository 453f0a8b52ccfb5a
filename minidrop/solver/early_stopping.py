"""EarlyStopping: ends a training when its tests no longer get better."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.config import SolverConfig, SolverParameter, decimal
from minidrop.config.numbers import real_number, whole_number
from minidrop.errors import ConfigError, SnapshotError, in_short, nearest
from minidrop.solver.events import Event
from minidrop.solver.named import checked_state

if TYPE_CHECKING:
    from minidrop.net import Net

log = logging.getLogger(__name__)

MODES = ("min", "max")


class EarlyStopping:
    """A callback that ends a training when an output of the tests no longer gets better.

        solver.add_callback(EarlyStopping("accuracy", "max", patience=5, min_delta=0.001))

    A value is better if it is more than min_delta above ("max") or below ("min") the best before; a NaN or
    infinity never is. Training ends behind the `patience`-th test in a row that is not better, before the
    next iteration. metric: an output that is one number, or total_loss (with test_compute_loss); of several
    test nets with such an output, that of the first.

    `best`, `best_iteration`: the best value, None before the first, and its iteration. `waited`: the number
    of tests since. Snapshots keep them, so that a resumed run ends where the uninterrupted one does; a test
    that is made again at the same iteration does not count again. Raises ConfigError.

    Source: Prechelt 1998, Early Stopping - But When?
    """

    def __init__(self, metric: str, mode: str, patience: int = 3, min_delta: float = 0.0):
        mode = mode.lower() if isinstance(mode, str) else mode
        if not (isinstance(mode, str) and mode in MODES):
            raise ConfigError(f"early stopping: mode must be min or max, got {in_short(mode)}"
                              f"{nearest(str(mode), MODES)}")
        self.metric, self.mode = metric, mode
        self.patience = whole_number("early stopping: patience", patience, 1)
        self.min_delta = real_number("early stopping: min_delta", min_delta, "a number from 0 on",
                                     lambda delta: 0 <= delta < math.inf)
        self.name = f"early stopping by {metric}"
        self.restart()

    @classmethod
    def of(cls, settings: SolverParameter) -> EarlyStopping | None:
        """Return what a solver's `early_stopping` asks for, None for nothing; the fields are sound."""
        if not settings.HasField("early_stopping"):
            return None
        own = settings.early_stopping
        return cls(own.metric, own.Mode.Name(own.mode), own.patience, decimal(own.min_delta))

    def restart(self) -> None:
        """Forget all tests."""
        self.best: float | None = None
        self.best_iteration: int | None = None
        self.waited = 0
        self._counted = -1          # the iteration of the last test that counted

    def __call__(self, event: Event) -> None:
        solver = event.solver
        if event.kind != "test" or solver is None or event.net != self._net(solver):
            return
        value = event.values.get(self.metric)
        if not isinstance(value, int | float):
            raise ConfigError(f"early stopping: expected {self.metric!r} to be one number, got {value!r:.80}")
        if event.iteration != self._counted:
            self._count(event.iteration, float(value))
        if self.waited >= self.patience and event.iteration < solver.settings.max_iter:
            log.info("early stopping at iteration %d: in %d tests in a row %s was not %s; %s",
                     event.iteration, self.waited, self.metric, self._better_than(), self._which())
            solver.stop()

    def _count(self, iteration, value):
        self._counted = iteration
        sign = 1 if self.mode == "max" else -1
        best = -math.inf if self.best is None else sign * self.best
        if math.isfinite(value) and sign * value > best + self.min_delta:
            self.best, self.best_iteration, self.waited = value, iteration, 0
        else:
            self.waited += 1

    def _better_than(self):
        if self.best is None:
            return "a number"
        word = "above" if self.mode == "max" else "below"
        return f"{word} {self.best:.6g}" + (f" by more than {self.min_delta:g}" if self.min_delta else "")

    def _which(self):
        if self.best is None:
            return "none was"
        return f"the best is that of iteration {self.best_iteration}"

    def _net(self, solver):
        """Return the number of the test net to watch; raises ConfigError if there is none."""
        found = net_with(self.metric, solver.settings, solver.test_nets)
        if found is None:
            outputs = sorted({name for net in solver.test_nets for name in net.outputs})
            raise ConfigError(f"early stopping: the test nets have no output {self.metric!r}"
                              f"{nearest(self.metric, outputs)} (outputs: {', '.join(outputs) or 'none'})")
        return found

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return {"best": (1,) float64, "counts": (3,) int64: iteration, -1 for none; waited; counted}."""
        return {"best": np.array([self.best or 0.0], np.float64),
                "counts": np.array([-1 if self.best_iteration is None else self.best_iteration, self.waited,
                                    self._counted], np.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned. Raises SnapshotError, with nothing changed, for another
        one."""
        found = checked_state(self.name, state, self.state_dict())
        best, (iteration, waited, counted) = float(found["best"][0]), found["counts"].tolist()
        if min(iteration, counted) < -1 or waited < 0:
            raise SnapshotError(f"{self.name}: expected counts from 0 on, got {found['counts'].tolist()}")
        self.best, self.best_iteration = (None, None) if iteration < 0 else (best, iteration)
        self.waited, self._counted = waited, counted

    def __repr__(self):
        return (f"EarlyStopping({self.metric!r}, {self.mode!r}, patience={self.patience}, "
                f"min_delta={self.min_delta:g})")


def net_with(metric: str, settings: SolverParameter, test_nets: list[Net]) -> int | None:
    """Return the number of the first test net whose tests report `metric`, None if there is none."""
    everywhere = metric == "total_loss" and settings.test_compute_loss
    return next((i for i, net in enumerate(test_nets) if everywhere or metric in net.outputs), None)


def early_stopping_problems(config: SolverConfig, test_nets: list[Net]) -> list[str]:
    """Return what is wrong with early_stopping, as "file:line:column: what"."""
    settings = config.message
    if not settings.HasField("early_stopping"):
        return []
    own, where = settings.early_stopping, config.where("early_stopping")
    outputs = [output for net in test_nets for output in net.outputs]
    problems = []
    if not own.metric:
        problems.append("needs a metric, the name of an output of a test net")
    elif net_with(own.metric, settings, test_nets) is None:
        problems.append(f"the test nets have no output {own.metric!r}{nearest(own.metric, outputs)} "
                        f"(outputs: {', '.join(outputs) or 'none, there is no test net'})")
    if not own.HasField("mode"):
        problems.append("needs a mode: MIN for outputs that should be small, such as a loss, MAX for those "
                        "that should be large, such as an accuracy")
    if not own.patience:
        problems.append("patience must be at least 1, got 0")
    if not 0 <= own.min_delta < math.inf:
        problems.append(f"min_delta must be a number from 0 on, got {own.min_delta:g}")
    return [f"{where}: early_stopping: {problem}" for problem in problems]
