"""UNIT: keep an exact number of units chosen at random, the same for the whole batch."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, floor, log

from minidrop import streams
from minidrop.kept import Kept
from minidrop.patterns.base import MANY, Pattern, PatternDistribution, PatternFamily, register_pattern


@dataclass(frozen=True)
class UnitPattern(Pattern):
    """Keep `share` of the units of an axis, chosen by `key`."""

    key: int
    share: Fraction

    def kept(self, total):
        """Return the Kept of an axis of length `total`."""
        return _random_units(self.key, self.share, total)


@lru_cache(maxsize=64)
def _random_units(key, share, total):
    if share == 1:
        return Kept.all(total)
    rng = streams.generator(key, "units", total)
    count = random_count(rng, share, total)
    indices = rng.permutation(total)[:count]
    indices.sort()
    return Kept.of(indices, total)


def random_count(rng, share, total):
    """Return share * total, rounded up or down at random so that its mean is exact."""
    exact = share * total
    return floor(exact) + int(rng.random() < exact - floor(exact))


def count_entropy(share, total, ways):
    """Return the entropy, in nats, of drawing a count by `random_count`, then one of `ways(count)` sets of that size."""
    least, rest = divmod(share * total, 1)
    odds = {least: 1 - rest, least + 1: rest}
    return sum(float(q) * (log(ways(count)) - log(q)) for count, q in odds.items() if q)


@register_pattern("UNIT")
class UnitFamily(PatternFamily):
    """(1 - p) n of n units live, every such set equally likely.

    Where (1 - p) n is no integer, the two integers next to it are drawn in the proportion that makes the mean exact.
    Any two units live together with nearly (1 - p)^2, as if they were independent: the pattern closest to ordinary
    dropout, and the one that needs an index for every unit.
    Source: Graham, Reizenstein and Robinson, arXiv 1502.02478 (batchwise dropout); Sarma et al., arXiv 2106.12089.
    """

    def build_distribution(self):
        return PatternDistribution(("units",), [1.0], self.settings.rate)

    def offsets(self, choice):
        return MANY if self.settings.rate else 1

    def pattern(self, choice, offset):
        share = 1 - self.settings.exact_rate
        return UnitPattern(self.settings.rate, self.scale_of(float(share)), offset, share)

    def submodels(self, total):
        least, rest = divmod((1 - self.settings.exact_rate) * total, 1)
        return comb(total, least) + (comb(total, least + 1) if rest else 0)

    def pattern_entropy(self, total):
        return count_entropy(1 - self.settings.exact_rate, total, lambda count: comb(total, count))

    def describe(self, choice):
        return f"{1 - self.settings.rate:g} of all"
