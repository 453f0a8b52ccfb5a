"""TILE: keep one tile of weights in every dp, dp drawn anew each iteration (the paper's tile pattern)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, gcd
from typing import Any

import numpy as np

from minidrop.errors import ConfigError
from minidrop.kept import Kept
from minidrop.patterns.base import Pattern, PatternDistribution, register_pattern
from minidrop.patterns.periods import PeriodFamily
from minidrop.patterns.sites import Sites, pieces

TILE_SIZE = 32


@dataclass(frozen=True)
class TilePattern(Pattern):
    """Of the tiles of size x size weights, numbered row by row, tile t lives iff t mod period = offset.

    Tiles at the right and bottom edges end where the weights end. size 0: `tile_size`, so that the shorter
    side has at least `columns` tiles.
    """

    period: int
    offset: int
    size: int
    columns: int = 1

    def kept(self, total: int) -> Kept:
        """Return the Kept of an axis of length `total`, in runs of `size`, as of a matrix one tile wide.

        Runs are shorter where there would be fewer of them than the period: some offset would keep none.
        """
        if self.period == 1:
            return Kept.all(total)
        size = self.size or tile_size(total, self.columns)
        if -(-total // size) < self.period:
            size = max(1, total // self.period)
        return Kept(self.offset * size, self.period * size, size, total)

    def tiles(self, outputs: int, inputs: int) -> tuple[tuple[Kept, Kept], ...]:
        """Return what lives of weights (outputs, inputs) as pairs of Kept, one per class of tile rows.

        The tile rows of a class keep the same tile columns. There are `period` classes. No two share an
        output or an input, and together they cover all of both, so the whole product is one compact product
        per class, and so is each of its gradients.
        """
        size = self.size or tile_size(min(outputs, inputs), self.columns)
        return _classes(self.period, self.offset, size, outputs, inputs)

    def weight_mask(self, outputs: int, inputs: int) -> np.ndarray:
        """Return the dense 0/1 array (outputs, inputs), tile by tile from the definition."""
        size = self.size or tile_size(min(outputs, inputs), self.columns)
        rows, columns = -(-outputs // size), -(-inputs // size)
        number = np.arange(rows)[:, None] * counted_columns(columns, self.period) + np.arange(columns)
        living = (number % self.period == self.offset).astype(np.float64)
        return living[np.arange(outputs) // size][:, np.arange(inputs) // size]


def tile_size(length: int, columns: int) -> int:
    """Return the default tile size: TILE_SIZE, or less so that an axis of `length` has `columns` tiles.

    With fewer tile columns than dp some outputs would lose all their inputs; with a single tile row all
    outputs would keep the same ones.
    """
    return max(1, min(TILE_SIZE, length // columns))


def counted_columns(columns: int, period: int) -> int:
    """Return how far tile numbers advance from one tile row to the next: `columns`, or slightly more.

    If columns and period had a common divisor, the same tile columns would survive in many rows, and in all
    of them if the period divides columns: input units would be dropped, not weights. So nonexistent tiles are
    numbered as well.
    """
    while gcd(columns, period) != 1:
        columns += 1
    return columns


@lru_cache(maxsize=64)
def _classes(period, offset, size, outputs, inputs):
    if period == 1:
        return ((Kept.all(outputs), Kept.all(inputs)),)
    # Tile (i, j) lives iff i * columns + j = offset (mod period).
    # The rows of class j0 keep the columns j = j0 (mod period).
    inverse = pow(counted_columns(-(-inputs // size), period), -1, period)
    return tuple((Kept((offset - j0) * inverse % period * size, period * size, size, outputs),
                  Kept(j0 * size, period * size, size, inputs)) for j0 in range(period))


@register_pattern("TILE")
class TileFamily(PeriodFamily):
    """Tile (i, j) of tile_size x tile_size weights lives iff (i C + j) mod dp = b, b uniform in 0 .. dp - 1.

    C: number of tile columns; how dp is drawn: see `PeriodFamily`. Drops weights of the product that precedes
    the drop layer, so a share 1 / dp of the matrix product remains. A drop that follows no product drops
    whole units, in runs of tile_size, or shorter ones on a short axis, so that no iteration drops all.
    Source: Song and Jiang, arXiv 1805.08939, tile pattern, with tiles of 32 x 32.
    """

    drops = "weights"
    uses = PeriodFamily.uses | {"tile_size"}

    def build_distribution(self) -> PatternDistribution:
        distribution = super().build_distribution()
        self.columns = max(distribution.choices[-1], ceil(2 / (1 - self.settings.exact_rate)))
        return distribution

    def pattern(self, choice: int, offset: int) -> Pattern:
        return TilePattern(1 - 1 / choice, self.scale_of(1 / choice), choice, offset, self.settings.tile_size,
                           self.columns, drops="weights")

    def check_weights(self, outputs: int, inputs: int) -> None:
        asked, longest = self.settings.tile_size, self.distribution.choices[-1]
        tiles = -(-inputs // (asked or 1))
        if asked and tiles < longest and self.settings.rate:
            raise ConfigError(f"tile_size {asked} cuts {inputs} inputs into {tiles} "
                              f"tile{'s' * (tiles != 1)}, but one of up to {longest} is kept, so outputs "
                              f"would be left without any input; set tile_size to "
                              f"{max(1, inputs // longest)} or less, or remove it")

    def sites(self, units: int, inputs: int | None = None) -> Any:
        """Return the tiles, numbered row by row, as Sites."""
        inputs = inputs or units
        size = self.settings.tile_size or tile_size(min(units, inputs), self.columns)
        return Sites("tiles", self.drops, units, inputs, (pieces(size, units), pieces(size, inputs)))

    def live(self, pattern: Any, sites: Any) -> Any:
        return replace(pattern, size=1).weight_mask(*sites.shape).astype(bool).ravel()
