"""SLICE: keep one run of neighbouring units from a random start, the same for a group of samples."""

from typing import Any

import numpy as np

from minidrop.kept import Kept
from minidrop.patterns.base import register_pattern
from minidrop.patterns.counts import CountFamily, CountPattern


class SlicePattern(CountPattern):
    """Keep a run of `share` of the units of an axis, from a start drawn with `key`; it wraps around."""

    stream = "slice"

    @staticmethod
    def draw(rng: np.random.Generator, total: int) -> int:
        return int(rng.integers(total))

    @staticmethod
    def choose(drawn: int, count: int, total: int, first: int) -> Kept:
        if count == total:
            return Kept.all(total)
        if not count:
            return Kept.of([], total)
        start = (drawn + first) % total
        return Kept(start if start + count <= total else start - total, total, count, total)


@register_pattern("SLICE")
class SliceFamily(CountFamily):
    """Units start, start + 1, ..., start + (1 - p) n - 1 live, counted mod n, start uniform in 0 .. n - 1.

    What lives is a contiguous block of the weights, found without an index. A run that passes the end wraps
    around to unit 0, so that units near the ends live as often as all others; such a run is two contiguous
    blocks. If (1 - p) n is not an integer: see `CountFamily`.
    Source: Notin et al., SliceOut, arXiv 2007.10909, where runs end at the last unit, so units in the middle
    live more often than those at the ends.
    """

    kind = SlicePattern

    def ways(self, count: int, total: int | None) -> Any:
        return 1 if count in (0, total) else total

    def describe(self, choice: int | str) -> str:
        return f"a run of {1 - self.settings.rate:g}"
