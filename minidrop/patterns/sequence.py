"""Which pattern each iteration uses: in exact proportion, shuffled, with nothing to save but the seed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from minidrop.rng import generator

BLOCK_LENGTH = 1000


class PatternSequence:
    """The patterns of one layer: at(counter) is a pure function of family, seed, layer name and counter.

    Iterations come in blocks of BLOCK_LENGTH (1000). In each block every choice appears in proportion to its
    probability, rounded to whole iterations by largest remainder, in shuffled order; the offset of each
    iteration is uniform and independent. So the mean rate of a block is within about 1 / BLOCK_LENGTH of the
    expected one, and a choice less likely than about 1 / (2 BLOCK_LENGTH) may never appear.
    Source: Song and Jiang, arXiv 1805.08939 (frequency = probability x iterations, unrolled and shuffled);
    split into blocks here, so that a sequence does not depend on the length of the training.
    """

    def __init__(self, family: Any, seed: int, layer_name: str):
        self.family = family
        self.seed = seed
        self.layer_name = layer_name
        self._counts = quotas(family.distribution.probabilities, BLOCK_LENGTH)
        self._choices = family.distribution.choices
        self._offsets = np.array([family.offsets(choice) for choice in self._choices], dtype=np.int64)
        self._cached: tuple[int | None, list] = None, []        # a block, and its draws
        # Whether iterations have few different draws, which come again and again.
        self.recurs = family.enumerable and (family.groups == 1 or family.settings.grouping == "STRATIFIED")

    def at(self, counter: int) -> Any:
        """Return the Pattern of iteration `counter` >= 0. Any order works; calls in order are cheapest."""
        choice, offset = self.drawn_at(counter)
        return self.family.pattern(self._choices[choice], offset)

    def groups_at(self, counter: int) -> tuple:
        """Return the Patterns of iteration `counter`, one for each group of samples, at(counter) first.

        All are of one choice (a count of UNIT or SLICE may be rounded otherwise).
        STRATIFIED: that of group i of G is moved on by i / G of its period.
        INDEPENDENT: each other one has an offset of its own, uniform and independent.
        """
        first, groups = self.at(counter), self.family.groups
        if groups == 1 or self.family.settings.grouping == "STRATIFIED":
            return moved(first, groups)
        choice = self.choice_at(counter)
        rng = generator(self.seed, "groups", self.layer_name, counter)
        offsets = rng.integers(self.family.offsets(choice), size=groups - 1)
        return first, *[self.family.pattern(choice, offset) for offset in offsets.tolist()]

    def choice_at(self, counter: int) -> Any:
        """Return the choice behind at(counter): it determines the cost, but not where the pattern drops."""
        return self._choices[self.drawn_at(counter)[0]]

    def drawn_at(self, counter: int) -> tuple[int, int]:
        """Return (the number of the choice, the offset) that at(counter) is made of."""
        if counter < 0:
            raise ValueError(f"iterations count from 0, got {counter}")
        block, position = divmod(int(counter), BLOCK_LENGTH)
        cached_block, draws = self._cached
        if block != cached_block:
            draws = self._draws(block)
            self._cached = (block, draws)
        return draws[position]

    def _draws(self, block):
        rng = generator(self.seed, "patterns", self.layer_name, block)
        choices = rng.permutation(np.repeat(np.arange(self._counts.size), self._counts))
        offsets = rng.integers(self._offsets[choices])
        return list(zip(choices.tolist(), offsets.tolist(), strict=True))


def moved(pattern: Any, groups: int) -> tuple:
    """Return the Patterns of `groups` groups, stratified: that of group i is moved on by i / groups."""
    return (pattern, *[pattern.moved(Fraction(i, groups)) for i in range(1, groups)])


def quotas(probabilities: np.ndarray, length: int) -> np.ndarray:
    """Apportion `length` by `probabilities` (largest remainder, ties to the first); return the counts."""
    exact = np.asarray(probabilities, dtype=np.float64) * length
    counts = np.floor(exact).astype(np.int64)
    missing = length - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts
