"""Part: which samples of a batch one of several ranks has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Part:
    """The samples of a batch of `whole` that rank `rank` of `ranks` has, along `axis` of an array.

    They are neighbours: `first` to `first + count - 1`. An axis that is several times as long holds batches
    one after the other, such as those of successive steps, and the part has these samples of each.
    `whole` is a multiple of `ranks`.
    """

    rank: int
    ranks: int
    whole: int
    axis: int = 0
    passed: int | None = None       # how many of its samples are left behind a Filter, None for all

    @property
    def count(self) -> int:
        """How many samples it has."""
        return self.whole // self.ranks if self.passed is None else self.passed

    @property
    def first(self) -> int:
        """The number of its first sample in the whole batch."""
        return self.rank * (self.whole // self.ranks)

    def along(self, axis: int) -> Part:
        """Return the same samples along another axis."""
        return replace(self, axis=axis)

    def of_share(self, share: float) -> Part:
        """Return the same rank's part of a batch that has only this share of the samples."""
        return self if share == 1 else replace(self, whole=round(self.whole * share))

    def holding(self, length: int) -> Part:
        """Return the same rank's part where its axis is this long.

        Behind a Filter that may be any length, and which records of the whole batch passed is not known: they
        are counted from the rank's first one on, so that no two ranks have the same places.
        """
        runs, rest = divmod(length, self.count)
        return replace(self, whole=self.whole * (runs + 1), passed=length) if rest else self

    def take(self, array: Any) -> Any:
        """Return these samples of an array of the whole batch, of any array library."""
        shape, axis = array.shape, self.axis
        split = array.reshape(*shape[:axis], shape[axis] // self.whole, self.whole, *shape[axis + 1:])
        own = split[(slice(None),) * (axis + 1) + (slice(self.first, self.first + self.count),)]
        return own.reshape(*shape[:axis], shape[axis] // self.whole * self.count, *shape[axis + 1:])

    def whole_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape for the whole batch of an array that is this shape for the part."""
        return tuple(n // self.count * self.whole if i == self.axis else n for i, n in enumerate(shape))

    def window(self, shape: Sequence[int]) -> tuple[tuple[int, int, int], int, tuple[int, int]]:
        """Return (outer, samples, inner), begin and strides of an array of this shape in that of the batch.

        Entry (a, r, c) of the first is element begin + a strides[0] + r strides[1] + c of the flat whole.
        """
        inner = math.prod(shape[self.axis + 1:])
        outer = math.prod(shape[:self.axis]) * (shape[self.axis] // self.count)
        return (outer, self.count, inner), self.first * inner, (self.whole * inner, inner)

    def place(self, place: int) -> int:
        """Return the place in a whole batch of a place in the part, both counted through the axes up to
        `axis`."""
        run, sample = divmod(place, self.count)
        return run * self.whole + self.first + sample
