"""SLICE: keep one run of neighbouring units from a random start, the same for the whole batch."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from minidrop import streams
from minidrop.kept import Kept
from minidrop.patterns.base import MANY, Pattern, PatternDistribution, PatternFamily, register_pattern
from minidrop.patterns.unit import count_entropy, random_count


@dataclass(frozen=True)
class SlicePattern(Pattern):
    """Keep a run of `share` of the units of an axis, from a start that `key` chooses; past the end it goes on at 0."""

    key: int
    share: Fraction

    def kept(self, total):
        """Return the Kept of an axis of length `total`."""
        return _random_slice(self.key, self.share, total)


@lru_cache(maxsize=64)
def _random_slice(key, share, total):
    if share == 1 or total == 0:
        return Kept.all(total)
    rng = streams.generator(key, "slice", total)
    count = random_count(rng, share, total)
    start = int(rng.integers(total))
    if count in (0, total):
        return Kept.all(total) if count else Kept.of([], total)
    return Kept(start if start + count <= total else start - total, total, count, total)


@register_pattern("SLICE")
class SliceFamily(PatternFamily):
    """Units start, start + 1, ..., start + (1 - p) n - 1 live, counted mod n, start uniform in 0 .. n - 1.

    What lives is a straight block of the weights, found without an index. A run that passes the end goes on at unit 0, so
    that the units near the ends live as often as all others; such a run is two straight blocks.
    Where (1 - p) n is no integer, the two integers next to it are drawn in the proportion that makes the mean exact.
    Source: Notin et al., SliceOut, arXiv 2007.10909, where runs end at the last unit: there, units in the middle live
    more often than those at the ends.
    """

    def build_distribution(self):
        return PatternDistribution(("run",), [1.0], self.settings.rate)

    def offsets(self, choice):
        return MANY if self.settings.rate else 1

    def pattern(self, choice, offset):
        share = 1 - self.settings.exact_rate
        return SlicePattern(self.settings.rate, self.scale_of(float(share)), offset, share)

    def submodels(self, total):
        least, rest = divmod((1 - self.settings.exact_rate) * total, 1)
        counts = [least, least + 1] if rest else [least]
        return sum(1 if count in (0, total) else total for count in counts)

    def pattern_entropy(self, total):
        return count_entropy(1 - self.settings.exact_rate, total, lambda count: 1 if count in (0, total) else total)

    def describe(self, choice):
        return f"a run of {1 - self.settings.rate:g}"
