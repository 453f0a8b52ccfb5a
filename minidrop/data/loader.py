"""DataLoader: the batches of a dataset, epoch after epoch, for a loop in a script."""

from __future__ import annotations

import copy
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np

from minidrop.config.numbers import truth, whole_number
from minidrop.data.collate import Join, naming, said
from minidrop.data.datasets import as_dataset
from minidrop.data.iterable import IterableDataset, Stream, check_iterable
from minidrop.data.prefetch import Prefetcher
from minidrop.errors import DataError, MinidropError
from minidrop.functions.explained import says_arguments
from minidrop.rng import stream_key


class DataLoader:
    """The batches of a dataset; each iteration is an epoch, 0, 1, 2, ...

        loader = DataLoader(ArrayDataset(images, labels), 128, shuffle=True, seed=1)
        for epoch in range(10):
            for x, y in loader:
                ...

    dataset: a Dataset, an IterableDataset, or an object with `__len__` and `__getitem__`. A batch is a tuple
    of arrays, records first, that are the caller's; the last one of an epoch is smaller if the records do not
    come out even, and with `drop_last` is left out. With `shuffle` each epoch has an order of its own, a
    function of (seed, epoch): the one that data layers without a name have. (For HDF5Dataset see there; an
    IterableDataset needs a buffer.)

    workers: threads that read ahead, `prefetch` batches each; 0: none. They change no batch and no order. An
    IterableDataset is read by one. They end with the epoch, with `close()`, or when nobody refers to the
    iterator any more.

    augment: function(rng, *arrays) that gives another record for each, with the random numbers of its batch,
    a function of (seed, epoch, number of the batch): random crops, noise. collate: function(records) that
    makes a batch of a list of tuples of arrays, of unequal shapes perhaps; what it returns is the batch.

    Two iterators at once are two epochs; `state_dict` is about the one that began last. Raises DataError for
    settings that do not fit, for a dataset without a record or (with drop_last) without a whole batch, and
    from an iterator with the name of the record where reading one fails. The next call then tries again.
    """

    @says_arguments
    def __init__(self, dataset: Any, batch_size: int, shuffle: bool | None = False, seed: int = 0,
                 drop_last: bool = False, workers: int = 0, prefetch: int = 2,
                 collate: Callable[[list], Any] | None = None, augment: Callable[..., Any] | None = None):
        self.dataset = dataset if isinstance(dataset, IterableDataset) else as_dataset(dataset)
        self.batch_size, self.seed = _whole("batch_size", batch_size, 1), _whole("seed", seed)
        self.workers, self.prefetch = _whole("workers", workers, 0), _whole("prefetch", prefetch, 1)
        self.shuffle = truth("DataLoader: shuffle", False if shuffle is None else shuffle, DataError)
        self.drop_last = truth("DataLoader: drop_last", drop_last, DataError)
        self._join = Join(self.seed, collate, augment)
        self._group = 1
        if isinstance(self.dataset, IterableDataset):
            check_iterable(self.dataset, self.shuffle)
            self.records = self.dataset.length
        else:
            self.records = len(self.dataset)
            self._group = _group(self.dataset, self.batch_size)
        least = self.batch_size if self.drop_last else 1
        if self.records is not None and self.records < least:
            why = ", for one batch, as drop_last leaves out smaller ones" if self.drop_last else ""
            raise DataError(f"DataLoader: expected a dataset with a length of at least {least}{why}, got "
                            f"{self.records}")
        self._next_epoch = 0
        self._resumed = 0                       # the batch with which the next iterator begins
        self._position = 0, 0                   # epoch and next batch of the newest iterator
        self._newest = 0
        self._running: weakref.WeakSet[_Epoch] = weakref.WeakSet()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SAID and "_running" in vars(self):      # else it is being made
            raise DataError(f"DataLoader: {name} is said where the loader is made; make another")
        super().__setattr__(name, value)

    def __len__(self) -> int:
        """The number of batches of an epoch. Raises TypeError if the dataset does not know its length."""
        if self.records is None:
            name = self.dataset.name if isinstance(self.dataset, IterableDataset) else "the dataset"
            raise TypeError(f"{name} has no length; give it one if it is known")
        return self.records // self.batch_size if self.drop_last else -(-self.records // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        epoch, batch = self._next_epoch, self._resumed
        self._next_epoch, self._resumed = epoch + 1, 0
        self._position = epoch, batch
        self._newest += 1
        return self._begun(self._newest, epoch, batch)

    def iterate(self, epoch: int, batch: int = 0, part: tuple[int, int] | None = None) -> Iterator[Any]:
        """Return an iterator over an epoch from one of its batches on; where the loader stands stays.

        part: (rank, ranks), of a loader that `reads_parts`: that one of so many equal parts of each batch.
        """
        return self._begun(_NO_NUMBER, epoch, batch, part)

    @property
    def reads_parts(self) -> bool:
        """Whether some records of a batch can be read alone, as no function makes the batch of them all."""
        return self._join.plain and not isinstance(self.dataset, IterableDataset)

    def sample(self, records: int) -> Any:
        """Return the batch that so many records would be, the first ones of the first epoch."""
        other = copy.copy(self)
        vars(other).update(batch_size=records, workers=0, drop_last=False, _group=1)
        return next(iter(other.iterate(0)))

    def _begun(self, number, epoch, batch, part=None):
        running = _Epoch(self, number, epoch, batch, self._reads(epoch, part))
        self._running.add(running)
        return running

    @property
    def epoch(self) -> int:
        """The number of the epoch that is being read, and after its last batch, of the next one."""
        return self._position[0]

    def state_dict(self) -> dict[str, Any]:
        """Return where the newest iterator stands: whole numbers (below 2**63), booleans and None, ready for
        JSON.

        A loader that is given them goes on with the next batch, all as without the interruption:

            loader.load_state_dict(state)
            for epoch in range(loader.epoch, 10):
                for x, y in loader:         # first the rest of this epoch, then whole ones
                    ...

        After the last batch of an epoch, but before its loop has ended, nothing is left of the epoch, and the
        next iterator ends at once: what a script does between two epochs is done, too.
        """
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch, **self._settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iterator begin where `state` says. Iterators that are there already are left alone.

        Raises DataError for a state of another dataset or of other settings.
        """
        known = self.state_dict()
        if not isinstance(state, Mapping) or set(state) != set(known):
            names = ", ".join(map(repr, state)) or "nothing" if isinstance(state, Mapping) else ""
            raise DataError(f"DataLoader: expected a state of {', '.join(known)}, got "
                            f"{names or type(state).__name__:.200}; is it the state of something else?")
        now = self._settings
        other = [name for name, value in now.items() if state[name] != value]
        if other:
            then, has = (", ".join(f"{name} {one[name]!r:.40}" for name in other) for one in (state, now))
            raise DataError(f"DataLoader: expected the settings that the state was saved with, {then}, got "
                            f"{has}; make the loader as it was, with the same dataset")
        epoch, batch = (_whole(f"{name} in the state", state[name], 0) for name in ("epoch", "batch"))
        if self.records is not None and batch > len(self):
            raise DataError(f"DataLoader: expected a state within {len(self)} batches, got batch {batch}")
        self.seek(epoch, batch)

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Let the next iterator begin with a batch of an epoch. Iterators that are there are left alone.

        Raises DataError for what are no whole numbers of 0 or more.
        """
        epoch, batch = _whole("seek: epoch", epoch, 0), _whole("seek: batch", batch, 0)
        self._next_epoch, self._resumed, self._position = epoch, batch, (epoch, batch)
        self._newest += 1

    def where(self, epoch: int, batch: int, place: int) -> str:
        """Describe record `place` of a batch, for messages; "" if it cannot be told, as for shuffled
        streams."""
        number = batch * self.batch_size + place
        if isinstance(self.dataset, IterableDataset):
            return "" if self.shuffle else self.dataset.where(epoch, number)
        order = self.dataset.order(self.shuffle, self.seed)
        index = next(iter(order.runs(epoch, number, number + 1)), None) if number < len(order) else None
        return "" if index is None else self.dataset.where(int(index[0]))

    def close(self) -> None:
        """End all threads; iterators that are there raise DataError. New ones may be made."""
        for running in list(self._running):
            running.close()

    def __enter__(self) -> DataLoader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def moved(self, number: int, epoch: int, batch: int) -> None:
        """Note where iterator `number` stands, if it is the newest."""
        if number == self._newest:
            self._position = epoch, batch

    @cached_property
    def _settings(self):
        """What decides which records batch n of an epoch has."""
        order = None
        if not isinstance(self.dataset, IterableDataset):
            order = self.dataset.order(self.shuffle, self.seed).key
        elif self.shuffle:
            order = stream_key(self.seed, "shuffle buffer", self.dataset.buffer) >> 1
        return {"batch_size": self.batch_size, "shuffle": self.shuffle, "seed": self.seed,
                "drop_last": self.drop_last, "records": self.records, "order": order}

    def _reads(self, epoch, part):
        """Return (read, group, depth): read(n) gives the batches n ... n + group - 1, [] behind the last."""
        if isinstance(self.dataset, IterableDataset):
            stream = Stream(self.dataset, epoch, self.batch_size, self.drop_last,
                            self.seed if self.shuffle else None, self._join)
            return stream.read, 1, self.prefetch
        reads = _Reads(self.dataset, self.dataset.order(self.shuffle, self.seed), epoch, self.batch_size,
                       len(self), self._group, self._join, part)
        return reads.read, self._group, -(-self.prefetch // self._group)


# Settings that give the order and the batches, and what PyTorch calls them. Others change at any time.
_SAID = frozenset({"dataset", "batch_size", "shuffle", "seed", "drop_last", "collate", "augment", "sampler",
                   "batch_sampler", "collate_fn", "num_workers"})
_NO_NUMBER = -1        # of an iterator that never is the newest


class _Epoch:
    """An iterator over the batches of one epoch."""

    def __init__(self, loader, number, epoch, batch, reads):
        self.loader, self.number, self.epoch, self.batch = loader, number, epoch, batch
        read, group, depth = reads
        workers = loader.workers
        if isinstance(loader.dataset, IterableDataset):
            workers = min(workers, 1)
        # Worker w reads the jobs w, w + workers, ...; they are taken in turn, so that the order stays.
        # The function must not refer to this iterator or the loader, which nobody could drop any more.
        self._turns = max(1, workers)
        self._readers = [Prefetcher(partial(_job, read, batch, group, self._turns, worker),
                                    depth if workers else 0) for worker in range(self._turns)]
        self._jobs = 0
        self._ready: deque[Any] = deque()
        self._ended = self._closed = False

    def __iter__(self):
        return self

    def __next__(self):
        if self._ended:
            raise StopIteration
        if self._closed:
            raise DataError("DataLoader: expected an open iterator, got one that has been closed; make a new "
                            "one with iter(loader)")
        if not self._ready:
            if not self._jobs:
                for reader in self._readers:
                    reader.start()
            self._ready.extend(self._readers[self._jobs % self._turns].get())
            self._jobs += 1
        if not self._ready:
            self._ended = True
            self.close()
            self.loader.moved(self.number, self.epoch + 1, 0)
            raise StopIteration
        self.batch += 1
        self.loader.moved(self.number, self.epoch, self.batch)
        return self._ready.popleft()

    def close(self):
        """End the threads."""
        self._closed = True
        self._ready.clear()
        for reader in self._readers:
            reader.close()
        self._readers = []


def _job(read, first, group, turns, worker, n):
    return read(first + (n * turns + worker) * group)


class _Reads:
    """The batches of one epoch of a Dataset, or one part (rank, ranks) of each, for several threads."""

    def __init__(self, dataset, order, epoch, batch_size, count, group, join, part):
        self.dataset, self.order, self.epoch, self.batch_size = dataset, order, epoch, batch_size
        self.count, self.group, self.join, self.part = count, group, join, part
        self._lock = threading.Lock()           # an Order holds what it has drawn

    def read(self, n):
        """Return the batches n ... n + group - 1, as far as there are."""
        size, end = self.batch_size, min(n + self.group, self.count)
        if n >= end:
            return []
        with self._lock:
            runs = list(self.order.runs(self.epoch, n * size, min(end * size, len(self.order))))
        indices = np.concatenate(runs) if len(runs) > 1 else runs[0]
        parts = [slice(begin, begin + size) for begin in range(0, len(indices), size)]
        if self.part is not None:
            rank, ranks = self.part
            own = [indices[part.start + length * rank // ranks:part.start + length * (rank + 1) // ranks]
                   for part in parts for length in [len(indices[part])]]
            ends = np.cumsum([0, *map(len, own)]).tolist()
            indices, parts = np.concatenate(own), list(map(slice, ends[:-1], ends[1:]))
        if self.join.plain:
            arrays = self._arrays(indices)
            return [tuple(array[part] for array in arrays) for part in parts]
        samples = self._tried(self.dataset.samples, indices)
        numbered = list(zip(indices.tolist(), samples, strict=True))
        return [self.join(self.epoch, n + i, numbered[part], self.dataset.where)
                for i, part in enumerate(parts)]

    def _arrays(self, indices):
        arrays = self._tried(self.dataset.read, indices)
        arrays = (arrays,) if isinstance(arrays, np.ndarray) else tuple(arrays)
        for array in arrays:
            if not isinstance(array, np.ndarray) or array.shape[:1] != indices.shape:
                got = getattr(array, "shape", type(array).__name__)
                raise DataError(f"{type(self.dataset).__name__}.read: expected a tuple of arrays of "
                                f"{len(indices)} records, one for each index, got {got}")
        return arrays

    def _tried(self, read, indices):
        """Return read(indices). What it raises names the record: the first one that fails alone, too."""
        try:
            return read(indices)
        except MinidropError:
            raise
        except Exception as error:
            for place in range(len(indices)):
                with naming(lambda place=place: self.dataset.where(int(indices[place]))):
                    read(indices[place:place + 1])
            raise DataError(f"{self.dataset.where(int(indices[0]))} and {len(indices) - 1} more: "
                            f"{said(error)}") from error


def _group(dataset, batch_size):
    """Return how many batches are read together."""
    if not dataset.window_bytes or not len(dataset):
        return 1
    record_bytes = sum(array.nbytes for array in dataset[0])
    fitting = dataset.window_bytes // max(1, record_bytes * batch_size)
    return max(1, min(fitting, -(-len(dataset) // batch_size)))


def _whole(name, value, least=None):
    """Return a setting that is a whole number, at least `least`."""
    return whole_number(f"DataLoader: {name}", value, least, DataError)
