"""BlockGrid: which blocks of activations live, as one small table. BlockGroups: the same, group by group of
samples."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from minidrop.errors import CaptureError, ShapeError
from minidrop.kept import Kept


class BlockGrid:
    """Activations (samples, units) cut into blocks of block_samples x block_units, the last ones cut off
    where they end.

    lives: uint8 (groups of samples, blocks of units), 1 where a block lives and 0 where it is dropped. None
    where only the device knows, when it runs: what needs it then raises CaptureError. lives_at: None, or an
    array like `lives` on the device, which is read instead, whenever a kernel runs.
    """

    def __init__(self, lives, block_samples, block_units, lives_at=None):
        self.lives, self.lives_at = lives, lives_at
        self.block_samples, self.block_units = block_samples, block_units

    @property
    def block_shape(self):
        """(samples, units) of one block."""
        return self.block_samples, self.block_units

    @property
    def shape(self):
        """(groups of samples, blocks of units)."""
        return (self.lives if self.lives_at is None else self.lives_at).shape

    def check(self, samples, units):
        """Raise ShapeError unless this is the grid of activations (samples, units)."""
        needed = -(-samples // self.block_samples), -(-units // self.block_units)
        if self.shape != needed:
            raise ShapeError(f"blocks of {self.block_samples} x {self.block_units} of activations "
                             f"({samples}, {units}) need a grid of {needed[0]} x {needed[1]}, got "
                             f"{self.shape[0]} x {self.shape[1]}")

    def known(self):
        """Return `lives`; CaptureError where only the device knows."""
        if self.lives is None:
            raise CaptureError("what lives is asked for, but a captured step knows only how many blocks "
                               "there are")
        return self.lives

    def mask(self, samples, units):
        """Return the dense bool mask (samples, units), on the host."""
        self.check(samples, units)
        rows, columns = np.arange(samples) // self.block_samples, np.arange(units) // self.block_units
        return self.known()[rows[:, None], columns].astype(bool)


class BlockGroups(Sequence):
    """(first, last, Kept) for each group of samples of activations (samples, total): what samples first ..
    last - 1 keep.

    Made from `grid`, a BlockGrid, when they are asked for: what reads the grid alone, say with `lives_at`,
    needs none of them.
    """

    def __init__(self, grid, samples, total):
        self.grid, self.samples, self.total = grid, samples, total

    @cached_property
    def _groups(self):
        size, width = self.grid.block_samples, self.grid.block_units
        return tuple((i * size, min((i + 1) * size, self.samples),
                      Kept.of(np.flatnonzero(lives.repeat(width)[:self.total]), self.total))
                     for i, lives in enumerate(self.grid.known()))

    def moving(self, lives_at):
        """Return the groups that a captured step is given instead: what lives is what an array on the device
        says."""
        return BlockGroups(BlockGrid(None, self.grid.block_samples, self.grid.block_units, lives_at),
                           self.samples, self.total)

    def __len__(self):
        return self.grid.shape[0]

    def __getitem__(self, place):
        return self._groups[place]

    def __eq__(self, other):
        """Equal to a tuple of the same groups."""
        return isinstance(other, tuple | BlockGroups) and self._groups == tuple(other)

    __hash__ = None

    def __repr__(self):
        return f"BlockGroups({self._groups})"
