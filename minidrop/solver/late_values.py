"""LateValues: what callbacks read of a captured iteration, fetched when they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver


class LateValues(Mapping):
    """The values of a "step" event; reading one but lr fetches it, which waits for the device."""

    def __init__(self, solver: Solver, lr: float):
        self.solver = solver
        self._read: dict[str, Callable[[], float]] = {"loss": lambda: solver.smoothed_loss, "lr": lambda: lr}
        if solver.settings.log_gradient_norm:
            self._read["gradient_norm"] = self._norm

    def _norm(self):
        self.solver.steps.look()
        return self.solver.steps.gradient_norm

    def __getitem__(self, name: str) -> float:
        return self._read[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)
