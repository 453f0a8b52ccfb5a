"""UNIT: keep an exact number of units chosen at random, the same for a group of samples."""

from math import comb
from typing import Any

import numpy as np

from minidrop.kept import Kept
from minidrop.patterns.base import register_pattern
from minidrop.patterns.counts import CountFamily, CountPattern


class UnitPattern(CountPattern):
    """Keep `share` of the units of an axis, any set, drawn with `key`."""

    stream = "units"

    @staticmethod
    def draw(rng: np.random.Generator, total: int) -> np.ndarray:
        return rng.permutation(total)

    @staticmethod
    def choose(drawn: np.ndarray, count: int, total: int, first: int) -> Kept:
        if not total:
            return Kept.all(0)
        last = first + count
        chosen = drawn[first:last] if last <= total else np.concatenate((drawn[first:], drawn[:last - total]))
        return Kept.of(np.sort(chosen), total)


@register_pattern("UNIT")
class UnitFamily(CountFamily):
    """(1 - p) n of n units live, every such set equally likely; if that is not an integer: see `CountFamily`.

    Any two units live together with a probability of nearly (1 - p)^2, as if they were independent: the
    pattern closest to ordinary dropout, and the one that needs an index for every unit.
    Source: Graham, Reizenstein and Robinson, arXiv 1502.02478 (batchwise dropout); Sarma et al., arXiv
    2106.12089.
    """

    kind = UnitPattern

    def ways(self, count: int, total: int) -> Any:
        return comb(total, count)

    def describe(self, choice: int | str) -> str:
        return f"{1 - self.settings.rate:g} of all"
