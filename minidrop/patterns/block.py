"""BLOCK: drop blocks of activations, a group of samples by a run of units, each on its own (SparseDrop)."""

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, comb, exp, log, log1p
from typing import Any

import numpy as np

from minidrop.errors import ConfigError
from minidrop.kept import Kept
from minidrop.patterns.base import MANY, Pattern, PatternDistribution, PatternFamily, register_pattern
from minidrop.patterns.grid import BlockGrid, BlockGroups
from minidrop.patterns.sites import Sites, pieces
from minidrop.rng import generator

BLOCK_SAMPLES = BLOCK_UNITS = 128


@dataclass(frozen=True)
class BlockPattern(Pattern):
    """Blocks of block_samples x block_units, dropped or kept by random numbers from `key`.

    block_units 0: as wide as suits the axis, see `block_units`.
    """

    key: int
    block_samples: int
    block_units: int

    def kept(self, total: int) -> Kept:
        """Return the Kept of an axis of length `total` in the first group of samples."""
        return self.groups(1, total)[0][2]

    def groups(self, samples: int, total: int) -> Any:
        """Return (first, last, Kept) for each group of samples: what samples first .. last - 1 keep.

        A pattern that drops anything returns BlockGroups, which have a grid: its shape does not depend on the
        draw, only its entries do.
        """
        if not self.rate:
            return tuple((first, min(first + self.block_samples, samples), Kept.all(total))
                         for first in range(0, samples, self.block_samples))
        return _random_groups(self.key, self.rate, self.block_samples, self._width(total), samples, total)

    def grid(self, samples: int, total: int) -> BlockGrid:
        """Return the BlockGrid of activations (samples, total)."""
        return _random_groups(self.key, self.rate, self.block_samples, self._width(total), samples,
                              total).grid

    def _width(self, total):
        return self.block_units or block_units(self.rate, total)


@lru_cache(maxsize=64)
def block_units(rate: float, total: int) -> int:
    """Return the default width of a block: 128 units, or fewer if the axis is short.

    Fewer, so that the axis has twice the 1 / (1 - p) blocks it needs.
    """
    return max(1, min(BLOCK_UNITS, total // ceil(2 / (1 - Fraction(repr(rate))))))


@lru_cache(maxsize=64)
def _random_groups(key, rate, block_samples, width, samples, total):
    lives = np.ones((-(-samples // block_samples), -(-total // width)), np.uint8)
    if rate and total:
        for number, group in enumerate(lives):
            group[:] = _living_blocks(key, number, rate, group.size)
    lives.flags.writeable = False
    return BlockGroups(BlockGrid(lives, block_samples, width), samples, total)


@lru_cache(maxsize=256)
def _living_blocks(key, number, rate, blocks):
    """Return a bool array (blocks,): which blocks of a group of samples live, for a rate above 0."""
    rng = generator(key, "blocks", number)
    lives = rng.random(blocks) >= guarded_rate(rate, blocks)
    spared = rng.integers(blocks)
    if not lives.any() and can_guard(rate, blocks):
        lives[spared] = True
    lives.flags.writeable = False
    return lives


def can_guard(rate: float, blocks: int) -> bool:
    """True if one block can always live although each is dropped with probability `rate`."""
    return rate <= 1 - 1 / blocks


@lru_cache(maxsize=64)
def guarded_rate(rate: float, blocks: int) -> float:
    """Return the probability q of dropping a block before the guard that makes it `rate` after the guard.

    If all blocks are dropped, the guard spares one at random: rate = q - q^blocks / blocks. No q solves that
    on an axis of fewer than 1 / (1 - rate) blocks; then q is the rate and there is no guard.
    """
    if not can_guard(rate, blocks):
        return rate
    if rate == 1 - 1 / blocks:
        return 1.0              # always one block
    low, high = rate, 1.0
    for _ in range(60):
        q = (low + high) / 2
        low, high = (q, high) if q - q ** blocks / blocks < rate else (low, q)
    return high


@register_pattern("BLOCK")
class BlockFamily(PatternFamily):
    """Drop each block of block_samples x block_units activations independently with probability p.

    Default: 128 x 128, narrower where the axis is short. A group of samples that would lose all its blocks
    keeps one, and the others are dropped slightly more often to make up for it, so each block's rate stays p
    (`guarded_rate`). The product before the drop computes, and the product after it reads, only what lives of
    each group of samples.
    Source: Lo, SparseDrop 2024, where all blocks may be dropped and sizes must be multiples of 128.
    """

    drops = "blocks"
    uses = frozenset({"block_samples", "block_units"})
    scales = ("RATE",)      # what lives differs from group to group, and a pattern has one scale

    def build_distribution(self) -> PatternDistribution:
        return PatternDistribution(("blocks",), [1.0], self.settings.rate)

    def offsets(self, choice: str) -> int:
        return MANY if self.settings.rate else 1

    def pattern(self, choice: str, offset: int) -> Pattern:
        settings = self.settings
        return BlockPattern(settings.rate, self.scale_of(1 - settings.rate), offset,
                            settings.block_samples or BLOCK_SAMPLES, settings.block_units, drops="blocks")

    def check_total(self, total: int) -> None:
        asked, blocks = self.settings.block_units, -(-total // (self.settings.block_units or 1))
        if asked and total and not can_guard(min(self.settings.rate, (total - 1) / total), blocks):
            least = ceil(1 / (1 - self.settings.exact_rate))
            raise ConfigError(f"block_units {asked} cuts {total} units into {blocks} "
                              f"block{'s' * (blocks != 1)}, but rate {self.settings.rate!r} needs {least} at "
                              f"least, or a whole layer would be dropped; set block_units to "
                              f"{max(1, total // least)} or less, or remove it")

    def sites(self, units: int, inputs: Any = None) -> Sites:
        """Return the blocks of the first group of samples as Sites."""
        width = self.settings.block_units or block_units(self.settings.rate, units)
        return Sites("blocks", self.drops, units, sides=(pieces(width, units),))

    def live(self, pattern: Any, sites: Any) -> np.ndarray:
        if not pattern.rate:
            return np.ones(sites.count, bool)
        return _living_blocks(pattern.key, 0, pattern.rate, sites.count)

    def submodels(self, total: int) -> int:
        """Return the number of different kept sets of one group of samples."""
        if not self.settings.rate:
            return 1
        blocks = -(-total // (self.settings.block_units or block_units(self.settings.rate, total)))
        if not can_guard(self.settings.rate, blocks):
            return 2 ** blocks
        return blocks if guarded_rate(self.settings.rate, blocks) == 1 else 2 ** blocks - 1

    def pattern_entropy(self, total: int) -> float:
        """Return the entropy, in nats, of one group of samples; exact, guard included."""
        p = self.settings.rate
        if not p:
            return 0.0
        blocks = -(-total // (self.settings.block_units or block_units(p, total)))
        q = guarded_rate(p, blocks)
        guarded = can_guard(p, blocks)
        if q == 1:
            return log(blocks)
        nats = 0.0
        for live in range(guarded, blocks + 1):
            # log of the probability of one particular set of `live` blocks; comb() counts such sets
            one = live * log1p(-q) + (blocks - live) * log(q)
            if live == 1 and guarded:
                one = float(np.logaddexp(one, blocks * log(q) - log(blocks)))
            nats -= exp(log(comb(blocks, live)) + one) * one
        return nats

    def describe(self, choice: str) -> str:
        return f"{1 - self.settings.rate:g} of the blocks"
