"""How often each period dp is drawn by families that keep one in every dp: ROW of units, TILE of weights."""

from dataclasses import replace
from math import ceil, floor

from minidrop.errors import ConfigError
from minidrop.patterns.base import PatternDistribution, PatternFamily, PatternSettings
from minidrop.patterns.search import exact_search, sgd_search

LONGEST_PERIOD = 1024


class PeriodFamily(PatternFamily):
    """A period dp in 1 .. N drawn from the distribution, and an offset uniform in 0 .. dp - 1.

    A choice is a dp, which drops (dp - 1) / dp; the probabilities of 1 .. N make the mean rate p (search
    EXACT), or nearly p (search SGD). N is max_period, by default floor(1 / (1 - p)) + 1. From iteration to
    iteration the rate varies between 0 and (N - 1) / N: with a larger N it varies more, and nets learn worse
    (docs/benchmarks.md).
    """

    uses = frozenset({"max_period", "search"})

    def build_distribution(self) -> PatternDistribution:
        p = self.settings.rate
        longest = self.longest_period()
        if p == 0:
            return PatternDistribution((1,), [1.0], 0.0)
        periods = tuple(range(1, longest + 1))
        rates = [(dp - 1) / dp for dp in periods]
        if p == rates[-1]:
            return PatternDistribution((longest,), [1.0], p)
        if self.settings.search == "EXACT":
            return PatternDistribution(periods, exact_search(rates, p), p)
        probabilities = sgd_search(rates, p)
        return PatternDistribution(periods, probabilities, float(probabilities @ rates))

    def longest_period(self) -> int:
        """Return N. Raises ConfigError if max_period, or any N up to the limit, cannot reach the rate."""
        share = 1 - self.settings.exact_rate
        asked = self.settings.max_period
        least = ceil(1 / share)
        longest = asked or _default_period(self.settings)
        if longest > LONGEST_PERIOD:
            got = f"got max_period: {asked}" if asked else f"rate {self.settings.rate!r} needs {longest}"
            raise ConfigError(f"pattern {self.name} has periods up to {LONGEST_PERIOD}; {got}; lower it")
        if longest < least:
            raise ConfigError(f"max_period {longest} is too small for rate {self.settings.rate!r}: one "
                              f"of {longest} drops {(longest - 1) / longest:.4g}; set max_period to at least "
                              f"{least}, or remove it")
        return longest

    def fit(self, settings: PatternSettings, total: int) -> PatternSettings:
        longest = settings.max_period or _default_period(settings)
        return replace(settings, max_period=total) if longest > total else settings

    def offsets(self, choice: int) -> int:
        return choice

    def describe(self, choice: int | str) -> str:
        return f"1 of {choice}"


def _default_period(settings):
    return floor(1 / (1 - settings.exact_rate)) + 1
