"""LossScale: dynamic loss scaling for training in float16."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from minidrop.errors import SnapshotError

FIRST, LEAST, MOST = 2.0**16, 1.0, 2.0**24
GROWS_AFTER = 2000      # updates without an overflow


class LossScale:
    """A power of two by which the loss is multiplied before backward and the gradients are divided after it.

    float16 ranges from 6e-8 to 65504, so small gradients would underflow in its products. The scale is kept
    as large as possible: if a gradient overflows, it is halved and the update is skipped; after GROWS_AFTER
    updates in a row it is doubled. Source: Micikevicius et al. 2018, arXiv 1710.03740, section 3.2.
    """

    def __init__(self, value: float = FIRST, good_steps: int = 0, skipped: int = 0):
        self.value, self.good_steps, self.skipped = value, good_steps, skipped

    def note(self, finite: bool) -> bool:
        """Adapt the scale after a step; returns False if gradients overflow even at the smallest scale."""
        if not finite:
            self.skipped += 1
            self.good_steps = 0
            possible = self.value > LEAST
            self.value = max(LEAST, self.value / 2)
            return possible
        self.good_steps += 1
        if self.good_steps == GROWS_AFTER:
            self.value, self.good_steps = min(MOST, self.value * 2), 0
        return True

    @property
    def values(self) -> dict[str, float]:
        """The values shown in the events of a Solver."""
        return {"loss_scale": self.value, "skipped_steps": self.skipped}

    @property
    def state(self) -> dict[str, float]:
        """The attributes stored in a snapshot."""
        return {**self.values, "good_steps": self.good_steps}

    @classmethod
    def of(cls, path: str | PathLike, attrs: Mapping) -> LossScale:
        """Return the LossScale of a snapshot's attributes, or a new one. May raise SnapshotError."""
        if "loss_scale" not in attrs:
            return cls()
        found: list[Any] = [attrs.get(name) for name in ("loss_scale", "good_steps", "skipped_steps")]
        value, good, skipped = found
        if not (isinstance(value, float) and LEAST <= value <= MOST and all(
                isinstance(n, int) and n >= 0 for n in (good, skipped)) and good < GROWS_AFTER):
            raise SnapshotError(f"{path}: refused as a snapshot: expected loss_scale from {LEAST:g} to "
                                f"{MOST:g} and counts of good_steps and skipped_steps, got {value!r}, "
                                f"{good!r} and {skipped!r}")
        return cls(value, good, skipped)
