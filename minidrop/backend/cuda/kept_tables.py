"""Kept sets as arguments of kernels: numbers if they are regular, otherwise tables on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend.cuda.table_kept import TableKept
from minidrop.backend.device_sets import RepeatedKept
from minidrop.backend.generic.products import Products
from minidrop.kept import Kept, are_disjoint, are_family
from minidrop.kernels import cuda
from minidrop.kernels.loader import AxisValue, axis_value

if TYPE_CHECKING:
    from minidrop.backend.cuda.kernels import CupyKernels
    from minidrop.patterns.grid import BlockGrid


class KeptTables:
    """Caches of the tables in device memory that kernels need to read kept sets and grids.

    A table that a graph reads lives as long as the graph.
    """

    def __init__(self, backend: CupyKernels):
        self.backend = backend
        self._index = lru_cache(maxsize=256)(lambda kept: self._sent(kept.indices))
        self._place = lru_cache(maxsize=256)(self._new_places)
        self._ends = lru_cache(maxsize=256)(lambda ends: self._sent(np.array(ends, np.int64)))
        self._rest = lru_cache(maxsize=256)(rest_of)
        self._lives = lru_cache(maxsize=64)(lambda grid: Products.block_mask(backend, grid))

    def axis(self, kept: Kept | TableKept | None, total: int) -> AxisValue:
        """Return the AxisValue with which a kernel finds the j-th kept entry of an axis."""
        return self._value(kept, total, self._index)

    def places(self, kept: Kept | TableKept | None, total: int) -> AxisValue:
        """Return the AxisValue with which a kernel finds the position of an entry among the kept ones."""
        return self._value(kept, total, self._place)

    def index(self, kept: Kept) -> Any:
        """Return the kept entries as a slice, or as an int64 array on the device."""
        return kept.index if isinstance(kept.index, slice) else self._index(kept)

    def ends(self, ends: Sequence[int]) -> np.ndarray:
        """Return the ends of groups of samples as an int64 array on the device."""
        return self._held(self._ends(tuple(ends)))

    def lives(self, grid: BlockGrid) -> np.ndarray:
        """Return which blocks of a grid live, on the device, uploaded once for all layers that read it."""
        return self._lives(grid)

    def rest(self, parts: tuple[Kept | None, ...], total: int) -> Kept | None:
        """As `rest_of`, cached if possible."""
        # Moving sets compare equal if they share their start, whatever their step and count: no cache keys.
        known = not any(kept is not None and kept.on_device for kept in parts)
        return (self._rest if known else rest_of)(parts, total)

    def _value(self, kept, total, table_of):
        if isinstance(kept, TableKept):
            table = kept.ids if table_of is self._index else kept.places
            return AxisValue(kept.count, kept.total, 0, 1, 1, table)
        if isinstance(kept, RepeatedKept):
            return AxisValue(kept.count, kept.total, 0, 1, 1,
                             self._repeated(kept)[table_of is self._place])
        kept = Kept.all(total) if kept is None else kept
        return axis_value(kept, None if kept.on_device or kept.regular else self._held(table_of(kept)))

    def _repeated(self, kept):
        """Return (units, places) of a RepeatedKept, made once, by the first step that reads them."""
        if kept.tables is None:
            part, times = kept.part, kept.times
            units = self.backend.empty((times, part.count), np.int64)
            places = self.backend.empty((times, part.total), np.int32)
            cuda.repeat_kept(self.backend.kernels,
                             dict(kept=self.axis(part, part.total), units=units, places=places))
            kept.tables = units.reshape(-1), places.reshape(-1)
        return kept.tables

    def _new_places(self, kept):
        places = np.full(kept.total, -1, np.int32)
        places[kept.indices] = np.arange(kept.count, dtype=np.int32)
        return self._sent(places)

    def _sent(self, array):
        """Return a constant host array on the device. A step done as if captured may send it, a graph not."""
        backend = self.backend
        was, backend.capturing = backend.capturing, backend.graphs.held is not None
        try:
            return backend.asarray(array)
        finally:
            backend.capturing = was

    def _held(self, table):
        """Return a cached table, and keep it alive for the graph that is being captured, if any."""
        if self.backend.graphs.held is not None:
            self.backend.graphs.held.append(table)
        return table


def rest_of(parts: tuple[Kept | None, ...], total: int) -> Kept | None:
    """Return the Kept of the rows in no part; None if parts share a row, or only the device knows whether."""
    if are_family(parts):
        return Kept.of([], total)
    if not are_disjoint(list(parts), total):
        return None
    rest = np.ones(total, np.bool_)
    for kept in parts:
        rest[slice(None) if kept is None else kept.index] = False
    return Kept.of(np.flatnonzero(rest), total)
