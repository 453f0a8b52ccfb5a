"""PERIODIC, the default: keep a run of `width` units of every `step`, from a random start; a steady rate."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, Any

from minidrop.errors import ConfigError
from minidrop.patterns.base import (
    BY_GROUPS,
    PatternDistribution,
    PatternFamily,
    get_family,
    register_pattern,
)

if TYPE_CHECKING:
    from minidrop.patterns.base import Pattern, PatternSettings

DEFAULT_STEP = 30
LONGEST_STEP = 65536
NEGLIGIBLE = Fraction(1, 10**9)     # of a unit: 1/3 as a float misses a third of 30 by less


@register_pattern("PERIODIC")
class PeriodicFamily(PatternFamily):
    """Unit i lives iff (i - start) mod step < width, start uniform in 0 .. step - 1.

    width = (1 - p) step if that is an integer; otherwise the two nearest integers, in the proportion that
    makes the mean rate exactly p. `step` is 30 by default, or the least that keeps one unit (p = 0.98: 50),
    but never more than the length of the axis. So no iteration drops everything. With several groups of
    samples it is a divisor of that length near that, if there is one (see `suited`). A choice is a width.
    """

    uses = BY_GROUPS | {"step"}

    def build_distribution(self) -> PatternDistribution:
        share = 1 - self.settings.exact_rate
        self.step = self.choose_step(share)
        narrow = floor(share * self.step + NEGLIGIBLE)
        beyond = float(share * self.step - narrow)
        if beyond < NEGLIGIBLE:
            return PatternDistribution((narrow,), [1.0], self.settings.rate)
        return PatternDistribution((narrow, narrow + 1), [1 - beyond, beyond], self.settings.rate)

    def choose_step(self, share: Any) -> int:
        """Return the step for a kept share. Raises ConfigError if it would keep less than one unit."""
        asked, least = self.settings.step, ceil(1 / share)
        step = asked or max(DEFAULT_STEP, least)
        if asked and asked < least:
            raise ConfigError(f"step {asked} is too small for rate {self.settings.rate!r}: it would keep "
                              f"less than one unit of {asked}; set step to at least {least}, or remove it")
        if step > LONGEST_STEP:
            got = f"got step: {asked}" if asked else f"rate {self.settings.rate!r} needs {least}"
            raise ConfigError(f"pattern PERIODIC has steps up to {LONGEST_STEP}; {got}; lower it")
        return step

    def suited(self, total: int, even: bool = False) -> PatternFamily:
        """Return the family with a step that divides `total`, near the default, if there are several groups.

        All groups then keep as many units, and several axes (`even`), one after the other, are as regular. Of
        such steps the nearest to the default whose kept share is a whole number, failing that the nearest.
        """
        share = 1 - self.settings.exact_rate
        first = max(ceil(1 / share), ceil(self.step * 4 / 5))
        steps = [step for step in range(first, self.step * 4 // 3 + 1) if total % step == 0]
        if self.settings.step or (self.groups == 1 and not even) or not (steps and self.settings.rate):
            return self
        best = min(steps, key=lambda step: (share * step % 1 != 0, abs(step - self.step), step))
        return get_family(replace(self.settings, step=best))

    def fit(self, settings: PatternSettings, total: int) -> PatternSettings:
        step = settings.step or max(DEFAULT_STEP, ceil(1 / (1 - settings.exact_rate)))
        return replace(settings, step=total) if step > total else settings

    def offsets(self, choice: int) -> int:
        return 1 if choice == self.step else self.step

    def pattern(self, choice: int, offset: int) -> Pattern:
        return self.regular(offset, self.step, choice)

    def describe(self, choice: int) -> str:
        return f"{choice} of {self.step}"
