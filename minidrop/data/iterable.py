"""Datasets that can only be read from their beginning on: generators, streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from minidrop.data.collate import as_record, naming
from minidrop.errors import DataError
from minidrop.rng import generator


class IterableDataset:
    """Records that come one after the other. A subclass defines `records`.

    They have no index; a DataLoader skips records to resume, and shuffles them, if told to, through a buffer:
    of `buffer` records that have been read a random one comes next. length: the number of records of an
    epoch, which is checked; or None, if it is not known before.
    """

    length: int | None = None
    buffer = 0

    def records(self, epoch: int) -> Iterable[Any]:
        """Return the records of an epoch, tuples of arrays or numbers, anew with each call.

        They must be the same for the same epoch, so that runs can be repeated and resumed.
        """
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The name of this source in messages."""
        return f"the {type(self).__name__}"

    def map(self, function: Callable[..., Any]) -> IterableDataset:
        """Return this dataset with function(*arrays) in place of each record."""
        return _MappedIterable(self, function)

    def where(self, epoch: int, number: int) -> str:
        """Describe a record, for messages."""
        return f"record {number} of {self.name} in epoch {epoch}"


class GeneratorDataset(IterableDataset):
    """The records that function() yields, which is called anew for each epoch: a generator function.

        def lines():
            for line in open("numbers.txt"):
                yield np.array(line.split(), np.float32)

        loader = DataLoader(GeneratorDataset(lines, buffer=1000), 32, shuffle=True)

    With `per_epoch` it is function(epoch), epoch 0, 1, ... Raises DataError for what is no function.
    """

    def __init__(self, function: Callable[..., Iterable[Any]], length: int | None = None, buffer: int = 0,
                 per_epoch: bool = False):
        if not callable(function):
            raise DataError(f"GeneratorDataset: expected a function that returns a new iterator with each "
                            f"call, got a {type(function).__name__}; give the generator function itself, not "
                            "what it returns")
        self.function, self.per_epoch = function, per_epoch
        self.length, self.buffer = length, buffer

    def records(self, epoch: int) -> Iterable[Any]:
        return self.function(epoch) if self.per_epoch else self.function()

    @property
    def name(self) -> str:
        return f"the generator {getattr(self.function, '__name__', repr(self.function))}"


class _MappedIterable(IterableDataset):
    """An IterableDataset with function(*arrays) in place of each record."""

    def __init__(self, dataset, function):
        self.length, self.buffer = dataset.length, dataset.buffer
        self.dataset, self.function = dataset, function

    def records(self, epoch: int) -> Iterator[Any]:
        for record in self.dataset.records(epoch):
            yield self.function(*as_record(record))

    @property
    def name(self) -> str:
        return self.dataset.name


class Stream:
    """The batches of one epoch of an IterableDataset, for one thread: read(n) is a function of n.

    It is quick where n is one more than before; elsewhere the records before it are read and left out.
    """

    def __init__(self, dataset: IterableDataset, epoch: int, batch_size: int, drop_last: bool,
                 shuffle_seed: int | None, join: Callable[..., Any]):
        self.dataset, self.epoch, self.batch_size, self.drop_last = dataset, epoch, batch_size, drop_last
        self.shuffle_seed, self.join = shuffle_seed, join
        self._source: Any = None
        self._next = -1

    def read(self, n: int) -> list[Any]:
        """Return [batch n], or [] behind the last one. Raises DataError with the record."""
        if self._next != n:
            self._source = self._records()
            skipped = sum(1 for _ in islice(self._source, n * self.batch_size))
            self._check_skipped(n, skipped)
        self._next = -1         # after an error all is read anew
        found = list(islice(self._source, self.batch_size))
        self._next = n + 1
        if len(found) < self.batch_size and (self.drop_last or not found):
            if n == 0:
                wanted = f"at least {self.batch_size} records, for one batch" if found else "records"
                raise DataError(f"{self.dataset.name}: expected {wanted}, got {len(found) or 'none'} in "
                                f"epoch {self.epoch}")
            return []
        return [self.join(self.epoch, n, found, self._where)]

    def _check_skipped(self, n, skipped):
        least = n * self.batch_size if self.drop_last else (n - 1) * self.batch_size + 1
        if n and skipped < least:
            raise DataError(f"{self.dataset.name}: expected {least} records or more before batch {n} of "
                            f"epoch {self.epoch}, where reading goes on, got {skipped}; it must yield the "
                            "same records as before")

    def _where(self, number):
        return self.dataset.where(self.epoch, number)

    def _records(self):
        """Yield (number, record) of this epoch, as they come or through a buffer."""
        numbered = self._numbered()
        if self.shuffle_seed is None:
            yield from numbered
            return
        rng = generator(self.shuffle_seed, "shuffle buffer", self.epoch)
        buffer = list(islice(numbered, self.dataset.buffer))
        for record in numbered:
            place = int(rng.integers(len(buffer)))
            yield buffer[place]
            buffer[place] = record
        for place in rng.permutation(len(buffer)).tolist():
            yield buffer[place]

    def _numbered(self):
        def here():
            return self._where(number)

        number, length = 0, self.dataset.length
        with naming(here):
            source = iter(self.dataset.records(self.epoch))
        while True:
            with naming(here):
                record = next(source, _END)
            if record is _END:
                break
            if length is not None and number >= length:
                raise DataError(f"{self.dataset.name}: expected {length} records, its length, got more in "
                                f"epoch {self.epoch}; correct the length")
            yield number, record
            number += 1
        if length is not None and number < length:
            raise DataError(f"{self.dataset.name}: expected {length} records, its length, got {number} in "
                            f"epoch {self.epoch}; it ended early, or the length is wrong")


_END = object()


def check_iterable(dataset: IterableDataset, shuffle: bool) -> None:
    """Raise DataError if an IterableDataset cannot be shuffled, or has a length or buffer that is none."""
    for name, value, least in (("buffer", dataset.buffer, 0), ("length", dataset.length, 1)):
        if value is not None and (not isinstance(value, int | np.integer) or value < least):
            raise DataError(f"{dataset.name}: expected a {name} of at least {least}, got {value!r}")
    if shuffle and dataset.buffer < 2:
        raise DataError(f"{dataset.name}: its records have no index, so that they are shuffled in a buffer "
                        "alone; give the dataset a buffer, e.g. of 1000 records, or leave shuffle out")
