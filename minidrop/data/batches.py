"""Batches: the batches of a training run, made from any Records."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

import numpy as np

from minidrop.data.orders import BlockOrder, Order
from minidrop.errors import DataError

if TYPE_CHECKING:
    from minidrop.data.records import Records
    from minidrop.patterns.part import Part


class BatchSource(Protocol):
    """What a DataLayer reads: batch n, a pure function of n, and where its records come from."""

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return the arrays of batch n by name."""

    def where(self, n: int, place: int) -> str:
        """Describe the record at `place` of batch n, for messages; "" where there is nothing to say."""


class Batches:
    """The batches of a run: batch(n) is a pure function of n, so resuming needs only the next number.

    Records are taken epoch after epoch; a batch is never partial but continues into the next epoch. `whole`:
    all are of the first epoch instead, whose last batch has the records that are left, and batch n is batch n
    % batches_per_pass. With `shuffle` each epoch has its own order, which depends on (seed, layer_name,
    epoch) alone: as in Caffe that of the parts (of files), which are not mixed, and of the records in each
    part; or, with `across`, of the records of all parts together (`BlockOrder`, which says how well they are
    mixed). The first `skip` records of the first epoch are left out.

    Memory: one window of neighbouring batches, which are read together, as many as fit into `window_bytes`
    (at least one, at most about an epoch); what the Records need for reading (for HDF5 files one block of 2
    MiB); and for `shuffle` what the order needs. Records that gain nothing by a window are read without one,
    and the arrays of a batch are theirs, perhaps views. Thread-safe. Raises DataError for no record, or a
    batch_size below 1.
    """

    def __init__(self, records: Records, batch_size: int, shuffle: bool = False, seed: int = 0,
                 layer_name: str = "", window_bytes: int = 32 << 20, skip: int = 0, across: bool = False,
                 whole: bool = False):
        if batch_size < 1:
            raise DataError(f"layer {layer_name!r}: expected a batch_size of at least 1, got {batch_size}; "
                            "correct it")
        if not len(records):
            raise DataError(f"layer {layer_name!r}: expected at least one record, got none; name another "
                            "source")
        self.records, self.batch_size, self.shuffle = records, int(batch_size), bool(shuffle)
        self.seed, self.layer_name, self.skip, self.whole = seed, layer_name, skip, whole
        self.across = across
        self.order = (BlockOrder(records.parts, records.record_bytes, seed, layer_name, records.run)
                      if shuffle and across else Order(records.parts, shuffle, seed, layer_name))
        self.window_bytes, self.batches_per_pass = window_bytes, -(-len(records) // self.batch_size)
        self.window_batches = 1
        if records.windowed:
            fitting = max(1, window_bytes // max(1, records.record_bytes * self.batch_size))
            self.window_batches = min(fitting, self.batches_per_pass)
        self._window: dict[str, np.ndarray] = {}
        self._window_of: tuple[int, Part | None] | None = None
        self._lock = threading.Lock()

    def one_pass(self) -> Batches:
        """Return the same batches of one epoch, each record once; see `whole`."""
        return Batches(self.records, self.batch_size, self.shuffle, self.seed, self.layer_name,
                       self.window_bytes, across=self.across, whole=True)

    def share(self, n: int) -> float:
        """Return how many records batch n has, divided by batch_size."""
        return self._records_from(self._number(n) * self.batch_size, self.batch_size) / self.batch_size

    def batch(self, n: int, part: Part | None = None) -> dict[str, np.ndarray]:
        """Return batch n (0, 1, ...) as {name: array (batch_size, *record shape)}, of the records' dtype.

        part: only these records of it, of a run without end (`whole`).
        """
        n = self._number(n)
        number, place = divmod(n, self.window_batches)
        offset, size = (0, self.batch_size) if part is None else (part.first, part.count)
        with self._lock:
            if not self.records.windowed:
                first = n * self.batch_size + offset
                runs = [indices for indices, _ in self._runs(first, self._records_from(first, size))]
                return self.records.read(np.concatenate(runs) if len(runs) > 1 else runs[0])
            if (number, part) != self._window_of:
                # Drop the old window first, so that there are never two.
                self._window, self._window_of = {}, None
                self._window = self._fill(number) if part is None else self._fill_parts(number, offset, size)
                self._window_of = number, part
            own = slice(place * size, (place + 1) * size)
            return {name: array[own].copy() for name, array in self._window.items()}

    def where(self, n: int, place: int) -> str:
        """Describe the record that is entry `place` of batch n, for messages."""
        with self._lock:
            indices, _ = next(self._runs(self._number(n) * self.batch_size + place, 1))
        return self.records.where(int(indices[0]))

    def _number(self, n):
        if n < 0:
            raise ValueError(f"batch numbers begin at 0; got {n}")
        return int(n) % self.batches_per_pass if self.whole else int(n)

    def _records_from(self, first, count):
        """Return how many records there are from number `first` of a run on, at most `count`."""
        return min(count, len(self.records) - first) if self.whole else count

    def _fill(self, number):
        first = number * self.window_batches * self.batch_size
        size = self._records_from(first, self.window_batches * self.batch_size)
        window = self.records.empty(size)
        self._read(window, 0, first, size)
        return window

    def _fill_parts(self, number, offset, size):
        """Return `size` records from number `offset` on of each batch of a window."""
        window = self.records.empty(self.window_batches * size)
        for i in range(self.window_batches):
            self._read(window, i * size, (number * self.window_batches + i) * self.batch_size + offset, size)
        return window

    def _read(self, window, begin, first, size):
        """Read `size` records from number `first` of a run on to place `begin` of a window."""
        for indices, place in self._runs(first, size):
            part = slice(begin + place, begin + place + len(indices))
            self.records.read_into({name: array[part] for name, array in window.items()}, indices)

    def _runs(self, position, size):
        """Yield (indices, place): some records, and where in the result they begin.

        Together they are the `size` records from `position` on, which does not count those that are skipped.
        """
        total, place = len(self.records), 0
        while place < size:
            epoch, begin = divmod(self.skip + position + place, total)
            for indices in self.order.runs(epoch, begin, min(total, begin + size - place)):
                yield indices, place
                place += len(indices)
