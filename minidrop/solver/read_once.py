"""Settings that a solver has read once it is made, so that a later change of them would do nothing."""

from __future__ import annotations

from typing import Any

from minidrop.config import SolverParameter, decimal
from minidrop.errors import ConfigError
from minidrop.solver.lr_policy import SHAPING

# What the loop reads when it needs it.
_LATER = frozenset({
    "test_interval", "test_compute_loss", "test_initialization", "display", "max_iter", "iter_size",
    "snapshot", "snapshot_keep", "snapshot_best", "snapshot_after_train", "snapshot_format", "debug_info",
    "ema_test"})
RATES = frozenset({"base_lr", "lr_policy", "warmup_iter", *SHAPING})
_IS_A_NET = ("net_param", "train_net_param", "test_net_param", "train_state", "test_state")


class ReadOnce:
    """The settings of a solver that it reads when it is made, as they were then.

    later: those that are read in each iteration. remedy: what changes `later` that is left out here.
    """

    def __init__(self, settings: SolverParameter, later: frozenset[str] = RATES, remedy: str = ""):
        self.names = [field.name for field in SolverParameter.DESCRIPTOR.fields
                      if field.name not in _LATER | later and field.name not in _IS_A_NET]
        self.remedy = remedy
        self.values = self._of(settings)

    def _of(self, settings):
        values = (getattr(settings, name) for name in self.names)
        return [value if isinstance(value, int | float | str) else str(value) for value in values]

    def check(self, settings: SolverParameter) -> None:
        """Raise ConfigError for the first setting that was changed."""
        for name, before, now in zip(self.names, self.values, self._of(settings), strict=True):
            if now != before:
                why = (self.remedy if self.remedy and name in RATES else
                       "make another solver, and restore the snapshot of this one")
                raise ConfigError(f"solver.settings.{name} was changed from {_shown(before)} to "
                                  f"{_shown(now)}, but a solver reads it only when it is made; {why}")


def _shown(value: Any) -> Any:
    return f"{decimal(value):g}" if isinstance(value, float) else repr(value)
