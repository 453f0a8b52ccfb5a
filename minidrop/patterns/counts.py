"""Families that fix how many units live and draw which: UNIT draws any set, SLICE a run."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import log
from typing import Any

import numpy as np

from minidrop.kept import Kept
from minidrop.patterns.base import BY_GROUPS, MANY, Pattern, PatternDistribution, PatternFamily
from minidrop.rng import generator


@dataclass(frozen=True)
class CountPattern(Pattern):
    """Keep `share` of the units of an axis, which the subclass draws with `key`.

    place: how far the pattern is moved on, as a share of the axis.
    """

    key: int
    share: Fraction
    place: Fraction = Fraction(0)

    stream = ""     # keeps the random numbers of different families apart

    def kept(self, total: int) -> Kept:
        """Return the Kept of an axis of length `total`; recent ones are shared, index arrays included."""
        share, place = self.share, self.place       # as integers: to hash a fraction takes a microsecond
        return _random_kept(type(self), self.key, share.numerator, share.denominator, place.numerator,
                            place.denominator, total)

    def moved(self, share: Fraction) -> CountPattern:
        return replace(self, place=(self.place + share) % 1)

    @staticmethod
    @abstractmethod
    def draw(rng: np.random.Generator, total: int) -> Any:
        """Return what is drawn for an axis of `total` units, once for all groups of samples."""

    @staticmethod
    @abstractmethod
    def choose(drawn: Any, count: int, total: int, first: int) -> Kept:
        """Return a Kept of `count` of `total` units from what was drawn, moved on by `first` places."""


@lru_cache(maxsize=64)
def _random_kept(kind, key, share, of_share, place, of_place, total):
    """Return what lives: share / of_share of `total` units, moved on by place / of_place of them."""
    if share == of_share:
        return Kept.all(total)
    count, drawn = _draw(kind, key, share, of_share, total)
    return kind.choose(drawn, count, total, place * total // of_place)


@lru_cache(maxsize=16)
def _draw(kind, key, share, of_share, total):
    rng = generator(key, kind.stream, total)
    return _random_count(rng, share, of_share, total), kind.draw(rng, total) if total else None


def _random_count(rng, share, of_share, total):
    """Return total * share / of_share, rounded up or down at random so that its mean is exact."""
    count, rest = divmod(share * total, of_share)
    drawn = rng.random()
    return count + (rest > 0 and drawn < Fraction(rest, of_share))


class CountFamily(PatternFamily):
    """(1 - p) n of n units live, drawn anew each iteration.

    There is a single choice, and its offset is the key of a `kind`. If (1 - p) n is not an integer, the two
    nearest integers are drawn in the proportion that makes the mean exact.
    """

    kind: Any = CountPattern     # the subclass whose patterns are drawn
    uses = BY_GROUPS

    def build_distribution(self) -> PatternDistribution:
        self.share = 1 - self.settings.exact_rate
        return PatternDistribution(("count",), [1.0], self.settings.rate)

    def offsets(self, choice: str) -> int:
        return MANY if self.settings.rate else 1

    def pattern(self, choice: str, offset: int) -> Pattern:
        return self.kind(self.settings.rate, self.scale_of(float(self.share)), offset, self.share)

    @abstractmethod
    def ways(self, count: int, total: int) -> int:
        """Return how many equally likely sets of `count` of `total` units there are."""

    def submodels(self, total: int) -> int:
        return sum(self.ways(count, total) for count in self._odds(total))

    def pattern_entropy(self, total: int) -> Any:
        return sum(float(q) * (log(self.ways(count, total)) - log(q))
                   for count, q in self._odds(total).items())

    def _odds(self, total):
        """Return {count: probability} of what `random_count` draws."""
        least, rest = divmod(self.share * total, 1)
        return {least: 1 - rest, least + 1: rest} if rest else {least: 1}
