"""ROW: keep one unit in every dp, dp drawn anew each iteration (the paper's row pattern)."""

from fractions import Fraction
from math import ceil, floor

from minidrop.errors import ConfigError
from minidrop.patterns.base import PatternDistribution, PatternFamily, register_pattern
from minidrop.patterns.search import exact_search, sgd_search

LONGEST_PERIOD = 1024


@register_pattern("ROW")
class RowFamily(PatternFamily):
    """Unit i lives iff i mod dp = b: dp in 1 .. N by the distribution, b uniform in 0 .. dp - 1.

    dp drops (dp - 1) / dp of the units; the probabilities of 1 .. N make the mean rate p (search EXACT), or
    nearly (search SGD). N is max_period, by default max(8, ceil(2 / (1 - p))), twice what p needs at least.
    The rate swings between 0 and (N - 1) / N from iteration to iteration. A choice is a dp.
    Source: Song and Jiang, arXiv 1805.08939, row pattern; scale PATTERN is their dp, if they scale so.
    """

    uses = frozenset({"max_period", "search"})

    def build_distribution(self):
        p = self.settings.rate
        longest = self.longest_period()
        if p == 0:
            return PatternDistribution((1,), [1.0], 0.0)
        periods = tuple(range(1, longest + 1))
        rates = [(dp - 1) / dp for dp in periods]
        if self.settings.search == "EXACT":
            return PatternDistribution(periods, exact_search(rates, p), p)
        probabilities = sgd_search(rates, p)
        return PatternDistribution(periods, probabilities, float(probabilities @ rates))

    def longest_period(self):
        """Return N; raises ConfigError where the one asked for, or any within the limit, misses the rate."""
        share = 1 - self.settings.exact_rate
        asked = self.settings.max_period
        longest = asked or max(8, ceil(2 / share))
        if longest > LONGEST_PERIOD:
            got = f"got max_period: {asked}" if asked else f"rate {self.settings.rate!r} needs {longest}"
            raise ConfigError(f"pattern ROW has periods up to {LONGEST_PERIOD}; {got}; lower it")
        if 1 - Fraction(1, longest) <= self.settings.exact_rate:
            raise ConfigError(f"max_period {longest} is too small for rate {self.settings.rate!r}: one unit "
                              f"of {longest} drops {(longest - 1) / longest:.4g}; set max_period to at least "
                              f"{floor(1 / share) + 1}, or remove it")
        return longest

    def offsets(self, choice):
        return choice

    def pattern(self, choice, offset):
        return self.regular(offset, choice, 1)

    def describe(self, choice):
        return f"1 of {choice}"
