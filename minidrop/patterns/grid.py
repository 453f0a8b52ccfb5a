"""BlockGrid: which blocks of activations live, as one small table; BlockGroups: the same, group by group."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from minidrop.errors import ShapeError
from minidrop.kept import Kept


class BlockGrid:
    """Activations (samples, units) in blocks of block_samples x block_units; the last may be smaller.

    lives: uint8 (groups of samples, blocks of units), 1 where a block lives and 0 where it is dropped.
    """

    def __init__(self, lives: np.ndarray, block_samples: int, block_units: int):
        self._lives, self.block_samples, self.block_units = lives, block_samples, block_units

    @property
    def lives(self) -> np.ndarray:
        """Which blocks live, see the class."""
        return self._lives

    @property
    def block_shape(self) -> tuple[int, int]:
        """(samples, units) of one block."""
        return self.block_samples, self.block_units

    @property
    def shape(self) -> tuple[int, int]:
        """(groups of samples, blocks of units)."""
        return self.lives.shape

    def check(self, samples: int, units: int) -> None:
        """Raise ShapeError unless this is the grid of activations (samples, units)."""
        needed = -(-samples // self.block_samples), -(-units // self.block_units)
        if self.shape != needed:
            raise ShapeError(f"blocks of {self.block_samples} x {self.block_units} of activations "
                             f"({samples}, {units}) need a grid of {needed[0]} x {needed[1]}, got "
                             f"{self.shape[0]} x {self.shape[1]}")

    def mask(self, samples: int, units: int) -> np.ndarray:
        """Return the dense bool mask (samples, units), on the host."""
        self.check(samples, units)
        rows, columns = np.arange(samples) // self.block_samples, np.arange(units) // self.block_units
        return self.lives[rows[:, None], columns].astype(bool)


class BlockGroups(Sequence):
    """Sequence of (first, last, Kept), one per group of samples: what samples first .. last - 1 keep.

    For activations (samples, total). Computed from `grid`, a BlockGrid, on first access: code that reads the
    grid alone never needs them.
    """

    def __init__(self, grid: Any, samples: int, total: int):
        self.grid, self.samples, self.total = grid, samples, total

    @cached_property
    def _groups(self):
        size, width = self.grid.block_samples, self.grid.block_units
        return tuple((i * size, min((i + 1) * size, self.samples),
                      Kept.of(np.flatnonzero(lives.repeat(width)[:self.total]), self.total))
                     for i, lives in enumerate(self.grid.lives))

    def __len__(self):
        return self.grid.shape[0]

    def __getitem__(self, place):
        return self._groups[place]

    def __eq__(self, other):
        """Equal to a tuple of the same groups."""
        return isinstance(other, tuple | BlockGroups) and self._groups == tuple(other)

    def __repr__(self):
        return f"BlockGroups({self._groups})"
