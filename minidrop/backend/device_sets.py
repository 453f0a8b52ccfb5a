"""Kept sets and grids in device memory, from which a captured step reads them at launch."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from minidrop.errors import CaptureError
from minidrop.kept import Kept
from minidrop.patterns.grid import BlockGrid


class MovingKept(Kept):
    """A regular set whose start is read from device memory at launch: for captured steps.

    `start_at` is an array of one int32 there; step, width and total hold for every start that it will be
    given, and count is the largest for any start, rounded up to a `multiple`. If a start has fewer entries,
    the last ones do not exist: devices read zeros for them, and what they compute from those stays zero or is
    not read. Code that needs the entries themselves cannot be captured and raises CaptureError.

    Sets of one `family`, (any object, number of sets), never share an entry and together cover the axis.
    `made_of`: of a set that was made of another one, (that set, the method, its argument), else None.
    """

    is_all = False          # for some start, at least
    on_device = True

    __slots__ = ("step", "width", "start_at", "made_of", "_repeated", "_spread")

    def __init__(self, kept: Any, start_at: Any, family: Any = None, multiple: Any = 1):
        _, step, width = kept.regular
        most = kept.total // step * width + min(width, kept.total % step)
        self._set(start_at, family, step, width, kept.total, -(-most // multiple) * multiple)

    def _set(self, start_at, family, step, width, total, count):
        self.start_at, self.family, self.made_of = start_at, family, None
        self._repeated, self._spread = {}, {}
        self.step, self.width, self.total, self.count = step, width, total, count
        return self

    def repeated(self, times: Any) -> Any:
        """Return the set of `times` consecutive axes, each with this set; always the same object."""
        if times not in self._repeated:
            self._repeated[times] = RepeatedKept(self, times)
        return self._repeated[times]

    def spread(self, factor: int) -> Any:
        """Return the set in which every entry becomes `factor` neighbours; always the same object."""
        if factor == 1:
            return self
        if factor not in self._spread:
            start_at = self.start_at * self.start_at.dtype.type(factor)
            sizes = (factor * n for n in (self.step, self.width, self.total, self.count))
            made = self._spread[factor] = object.__new__(MovingKept)._set(start_at, None, *sizes)
            made.made_of = self, "spread", factor
        return self._spread[factor]

    def _unknown(self) -> NoReturn:
        raise CaptureError("the entries of a kept set are asked for, but a captured step knows only how many "
                           "there are")

    regular = indices = index = runs = property(_unknown)

    def mask(self, dtype: Any = bool) -> NoReturn:
        self._unknown()

    def __eq__(self, other):
        """Two are equal if they share their start."""
        return isinstance(other, MovingKept) and self.start_at is other.start_at and self.total == other.total

    def __hash__(self):
        return id(self.start_at)

    def __repr__(self):
        return f"MovingKept({self.count} of {self.total}: {self.width} of every {self.step})"


class RepeatedKept(MovingKept):
    """A MovingKept repeated for several consecutive axes: generally not regular, so the device makes tables.

    part: the set that is repeated `times` times. tables: None until the backend has made them.
    """

    __slots__ = ("part", "times", "tables")

    def __init__(self, part: Any, times: Any):
        self._set(part.start_at, None, part.step, part.width, part.total * times, part.count * times)
        self.part, self.times, self.tables = part, times, None
        self.made_of = part, "repeated", times

    def spread(self, factor: int) -> NoReturn:
        self._unknown()


class DeviceGrid(BlockGrid):
    """A BlockGrid whose `table`, like `lives` but on the device, is read whenever a kernel runs."""

    def __init__(self, table: np.ndarray, block_samples: int, block_units: int):
        self.table, self.block_samples, self.block_units = table, block_samples, block_units

    @property
    def shape(self) -> tuple[int, int]:
        return self.table.shape

    @property
    def lives(self) -> NoReturn:
        raise CaptureError("what lives is asked for, but a captured step knows only how many blocks there "
                           "are")
