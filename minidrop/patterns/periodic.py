"""PERIODIC, the default: keep a run of `width` units of every `step`, from a random start; a steady rate."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, Any

from minidrop.errors import ConfigError
from minidrop.patterns.base import PatternDistribution, PatternFamily, register_pattern

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
    but never more than the length of the axis. So no iteration drops everything. A choice is a width.
    """

    uses = frozenset({"step", "groups", "grouping"})

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

    def fit(self, settings: PatternSettings, total: int) -> PatternSettings:
        step = settings.step or max(DEFAULT_STEP, ceil(1 / (1 - settings.exact_rate)))
        return replace(settings, step=total) if step > total else settings

    def offsets(self, choice: int) -> int:
        return 1 if choice == self.step else self.step

    def pattern(self, choice: int, offset: int) -> Pattern:
        return self.regular(offset, self.step, choice)

    def describe(self, choice: int) -> str:
        return f"{choice} of {self.step}"
