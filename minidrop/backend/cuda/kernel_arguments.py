"""How arrays and kept sets become the arguments of kernels: copies where needed, tables on the device."""

import math
from functools import lru_cache
from typing import Any

import numpy as np

from minidrop.backend.cuda.table_kept import TableKept
from minidrop.backend.device_sets import RepeatedKept
from minidrop.backend.generic import Backend
from minidrop.kept import Kept, are_disjoint, are_family
from minidrop.kernels import cuda
from minidrop.kernels.loader import AxisValue, axis_value


class KernelArguments(Backend):
    """Needs `self.kernels`, the device (see kernels/loader.py); `_start_kernels` after it is set."""

    held = None         # while a graph is captured: what it reads of the caches

    def _start_kernels(self):
        """Make the caches of what kept sets need on the device."""
        self._index_table = lru_cache(maxsize=256)(lambda kept: self._table(kept.indices))
        self._place_table = lru_cache(maxsize=256)(self._new_place_table)
        self._group_ends = lru_cache(maxsize=256)(lambda ends: self._table(np.array(ends, np.int64)))
        self._known_rest = lru_cache(maxsize=256)(rest_of)

    def _table(self, array):
        """Return a host array on the device: a constant, so the first iteration of a form may send it, but no
        graph."""
        was, self.capturing = self.capturing, self.held is not None
        try:
            return self.asarray(array)
        finally:
            self.capturing = was

    def _hold(self, table):
        """Return a table of one of the caches; one that a graph reads must live as long as the graph."""
        if self.held is not None:
            self.held.append(table)
        return table

    def _run(self, kernel, macros=None, /, **values):
        """Launch a kernel of kernels/cuda.py."""
        kernel(self.kernels, values, **macros or {})

    # -- what kernels are given ------------------------------------------------------------------------------
    def _rows(self, x, shape):
        """Return `x` as a matrix (or vector) whose rows a kernel can read, copied if need be."""
        if x.shape != shape:
            x = self.xp.ascontiguousarray(x).reshape(shape)
        return x if is_straight(x) else self.xp.ascontiguousarray(x)

    def _flat(self, x):
        return self.xp.ascontiguousarray(x).reshape(-1)

    def _axis(self, kept, total):
        """Return what a kernel needs to find the j-th kept entry."""
        return self._axis_value(kept, total, self._index_table)

    def _places(self, kept, total):
        """Return what a kernel needs to find where an entry stands among the kept ones."""
        return self._axis_value(kept, total, self._place_table)

    def _axis_value(self, kept, total, table_of):
        if isinstance(kept, TableKept):
            return AxisValue(kept.count, kept.total, 0, 1, 1, kept.ids if table_of is self._index_table
                             else kept.places)
        if isinstance(kept, RepeatedKept):
            return AxisValue(kept.count, kept.total, 0, 1, 1,
                             self._tables(kept)[table_of is self._place_table])
        kept = Kept.all(total) if kept is None else kept
        return axis_value(kept, None if kept.on_device or kept.regular else self._hold(table_of(kept)))

    def _tables(self, kept):
        """Return (units, places) of a RepeatedKept: made once, by the step that reads them."""
        if kept.tables is None:
            part, times = kept.part, kept.times
            units, places = self.empty((times, part.count),
                                       np.int64), self.empty((times, part.total), np.int32)
            self._run(cuda.repeat_kept, kept=self._axis(part, part.total), units=units, places=places)
            kept.tables = units.reshape(-1), places.reshape(-1)
        return kept.tables

    def _new_place_table(self, kept):
        places = np.full(kept.total, -1, np.int32)
        places[kept.indices] = np.arange(kept.count, dtype=np.int32)
        return self._table(places)

    def _as_matrix(self, shape, kept, axis):
        """Return (shape, rows, cols) that mean the same for a matrix; None where the set has no regular form
        to do it."""
        before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1:])
        if after == 1:
            return (before, shape[axis]), None, kept
        if before == 1:
            return (shape[axis], after), kept, None
        if kept.on_device:
            return (before, shape[axis] * after), None, kept.spread(after)
        if kept.regular is None:
            return None
        # Every entry of the axis is a run of `after` neighbours.
        return (before, shape[axis] * after), None, Kept(*(after * n for n in (*kept.regular, kept.total)))


def is_straight(x: Any) -> bool:
    """True for a vector, or a matrix of rows whose entries are neighbours, in which later rows lie further
    on."""
    if x.ndim == 1:
        return x.strides[0] >= 0
    return x.ndim == 2 and (x.shape[1] <= 1 or x.strides[1] == x.itemsize) and x.strides[0] >= 0


def rest_of(parts: Any, total: int) -> Any:
    """Return the Kept of the rows that no part has; None where two parts share a row, or where only the
    device knows it."""
    if are_family(parts):
        return Kept.of([], total)
    if not are_disjoint(parts, total):
        return None
    rest = np.ones(total, np.bool_)
    for kept in parts:
        rest[slice(None) if kept is None else kept.index] = False
    return Kept.of(np.flatnonzero(rest), total)
