"""LoaderBatches: the batches of a DataLoader, numbered through a training run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from minidrop.data.collate import as_numbers
from minidrop.data.loader import DataLoader
from minidrop.errors import DataError
from minidrop.patterns.part import Part


class LoaderBatches:
    """Batch n of a run, a function of n alone: of epoch n // (batches of an epoch), and so on.

    `names`: what the arrays of a batch are called. Batches that are asked for in turn come from one iterator
    of the loader, with the threads that it has; a batch elsewhere begins another. The loader's own place does
    not move. If it does not know its length, epochs are read to count their batches, each once; `whole`: all
    batches are of the first epoch.

    All batches have the shapes of the first one, but the last of an epoch may have fewer records. batch
    raises DataError for any other.
    """

    def __init__(self, loader: DataLoader, names: Sequence[str] = ()):
        self.loader, self.whole = loader, False
        self.call(names)
        self.batch_size = loader.batch_size
        self._counts: list[int] = []        # batches of each epoch, where the loader has no length
        self._records: dict[int, int] = {}  # of the batches so far that have fewer than batch_size
        self._iterator: Any = None
        self._next = -1                     # the number of the batch that it gives next,
        self._at = 0, 0                     # and its epoch and place there
        self._part: tuple[int, int] | None = None       # which part of each batch it gives
        self._known_axes: list[int] | None = None

    def call(self, names: Sequence[str]) -> None:
        """Call the arrays of a batch by other names."""
        self.names = list(names)

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the first batch of the first epoch, which is read for it."""
        return [array.shape for array in self._checked(next(iter(self.loader.iterate(0))))]

    @property
    def last_records(self) -> int | None:
        """How many records the last batch of an epoch has; None if that is not known."""
        if self.loader.drop_last:
            return self.batch_size
        records = self.loader.records
        return None if records is None else records % self.batch_size or self.batch_size

    @property
    def batches_per_pass(self) -> int:
        """The number of batches of the first epoch."""
        return self._batches_of(0)

    def one_pass(self) -> LoaderBatches:
        """Return the same batches of one epoch, each record once."""
        found = copy.copy(self)         # what is known of the shapes and lengths stays known
        found.whole, found._iterator, found._records = True, None, {}
        return found

    def share(self, n: int) -> float:
        """Return how many records batch n has, divided by batch_size."""
        if self.loader.records is None:
            return self._records.get(n, self.batch_size) / self.batch_size
        last = self.place(n)[1] == len(self.loader) - 1
        return ((self.last_records or self.batch_size) if last else self.batch_size) / self.batch_size

    def place(self, n: int) -> tuple[int, int]:
        """Return (epoch, batch) of batch n of a run."""
        if self.whole:
            return 0, n
        if self.loader.records is not None:
            return divmod(n, len(self.loader))
        if n == self._next:
            return self._at
        epoch = 0
        while n and n >= (count := self._batches_of(epoch)):
            n, epoch = n - count, epoch + 1
        return epoch, n

    def number(self, epoch: int, batch: int) -> int:
        """Return the n of a batch, the inverse of `place`."""
        return batch + sum(map(self._batches_of, range(epoch)))

    def _batches_of(self, epoch):
        if self.loader.records is not None:
            return len(self.loader)
        while len(self._counts) <= epoch:
            self._counts.append(sum(1 for _ in self.loader.iterate(len(self._counts))))
        return self._counts[epoch]

    def shapes_of(self, ranks: int) -> list[tuple[int, ...]]:
        """Return the shapes of one of so many equal parts of the first batch.

        Raises DataError where an array has no axis of records.
        """
        return [tuple(length // ranks if i == axis else length for i, length in enumerate(shape))
                for shape, axis in zip(self.shapes, self.axes(ranks), strict=True)]

    def axes(self, ranks: int) -> list[int]:
        """Return which axis of each array counts records.

        By comparison with a batch of fewer. Raises DataError as `shapes_of` does.
        """
        if self.loader.reads_parts:
            return [0] * len(self.shapes)
        if self._known_axes is None:
            own, size, axes = self.batch_size // ranks, self.batch_size, []
            less = [array.shape for array in self._checked(self.loader.sample(own))]
            for name, shape, part in zip(self.names, self.shapes, less, strict=True):
                differ = [i for i, both in enumerate(zip(shape, part, strict=False)) if both == (size, own)]
                if len(differ) != 1 or shape[:differ[0]] + shape[differ[0] + 1:] != (
                        part[:differ[0]] + part[differ[0] + 1:]):
                    raise DataError(f"{name} has shape {shape} in a batch of {size} records and {part} in "
                                    f"one of {own}, so that no axis can be shared by {ranks} ranks; let "
                                    f"`collate` give it one of the length of the batch, and change no other")
                axes += differ
            self._known_axes = axes
        return self._known_axes

    def batch(self, n: int, part: Part | None = None) -> dict[str, np.ndarray]:
        """Return batch n as {name: array}; raises DataError for one of other shapes than the first.

        part: only these records of it.
        """
        alone = part is not None and self.loader.reads_parts
        shapes = self.shapes if part is None or not alone else self.shapes_of(part.ranks)
        arrays = self._checked(self._read(n, (part.rank, part.ranks) if part is not None and alone else None))
        if len(arrays) != len(self.names):
            raise DataError(f"expected batches of {len(self.names)} arrays ({', '.join(self.names)}), as the "
                            f"first one is, got {len(arrays)}")
        for name, array, shape in zip(self.names, arrays, shapes, strict=True):
            if array.shape[1:] != shape[1:] or array.ndim and array.shape[0] > shape[0]:
                epoch, batch = self.place(n)
                raise DataError(f"batch {batch} of epoch {epoch}: expected {name} of shape {shape}, as in "
                                f"the first batch (the last one of an epoch may have fewer records), got "
                                f"{array.shape}. A Solver trains one net: make all batches alike "
                                f"(pad_sequences has `steps`; drop_last leaves out a smaller last batch), or "
                                f"write the loop by hand, where a module may be called with any shape")
        if arrays[0].ndim and len(arrays[0]) < shapes[0][0]:
            self._records[n] = len(arrays[0])
        if part is not None and not alone:
            own = part.of_share(self.share(n))
            arrays = tuple(own.along(axis).take(array)
                           for axis, array in zip(self.axes(part.ranks), arrays, strict=True))
        return dict(zip(self.names, arrays, strict=True))

    def _read(self, n, part):
        epoch, batch = self.place(n)
        if part != self._part:
            self.close()
            self._part = part
        # After an error all is read anew: the iterator is kept again with its batch.
        iterator, self._iterator = self._iterator, None
        found = None
        if iterator is not None and n == self._next and batch:
            found = next(iterator, None)
            if found is None and self.loader.records is None:       # the epoch has ended
                if len(self._counts) == epoch:
                    self._counts.append(batch)
                epoch, batch = epoch + 1, 0
        if found is None:
            if iterator is not None:
                iterator.close()
            iterator = self.loader.iterate(epoch, batch, part)
            found = next(iterator, None)
        if found is None:
            raise DataError(f"expected a batch {batch} in epoch {epoch}, got none; the loader must give the "
                            f"same batches as before")
        self._iterator, self._next, self._at = iterator, n + 1, (epoch, batch + 1)
        return found

    def _checked(self, batch):
        if not isinstance(batch, tuple | list) or not batch:
            raise DataError(f"expected a batch as a tuple of arrays, first the inputs of the model, then the "
                            f"targets of the loss, got {type(batch).__name__}; let `collate` return one")
        return tuple(as_numbers(array, "array {} of the batch", i) for i, array in enumerate(batch))

    def where(self, n: int, place: int) -> str:
        """Describe the record that is entry `place` of batch n, for messages."""
        return self.loader.where(*self.place(n), int(place))

    def close(self) -> None:
        """End the threads of the iterator that is being read; the next batch begins another."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None
