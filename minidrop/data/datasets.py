"""Datasets: records that scripts index, split, map, and give to a DataLoader."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from minidrop.config.numbers import real_number
from minidrop.data.collate import Record, as_numbers, as_record, naming, stack
from minidrop.data.orders import Order
from minidrop.data.records import Records
from minidrop.errors import DataError, nearest
from minidrop.rng import generator


class Dataset:
    """Records 0 ... len - 1, each a tuple of arrays. A subclass defines `__len__` and `read`.

        dataset[3]          the record 3: a tuple of arrays; dataset[-1] the last one
        dataset[2:5]        a tuple of arrays with the records 2, 3, 4 along the first axis
        dataset[[4, 0]]     the same of any indices, or of a mask: an array of len booleans

    What is read must depend on the index alone, so that runs can be repeated and resumed. `read` may be
    called by several threads at once, and returns arrays that the caller may change. A class with `__len__`
    and a `__getitem__` that returns one record need not derive from this one: see SequenceDataset.
    """

    window_bytes = 0           # a DataLoader reads so many bytes of neighbouring batches in one go

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: np.ndarray) -> Record:
        """Return a tuple of arrays (count, *record shape) with the records of these indices (int64)."""
        raise NotImplementedError

    def samples(self, indices: np.ndarray) -> list[Record]:
        """Return the records of these indices one by one; they may differ in shape."""
        return list(zip(*self.read(indices), strict=True))

    def where(self, index: int) -> str:
        """Describe a record, for messages."""
        return f"record {index} of the {type(self).__name__}"

    def order(self, shuffle: bool, seed: int) -> Order:
        """Return the order in which a DataLoader takes the records of each epoch."""
        return Order((len(self),), shuffle, seed)

    def map(self, function: Callable[..., Any]) -> MappedDataset:
        """Return this dataset with function(*arrays) in place of each record; see MappedDataset."""
        return MappedDataset(self, function)

    def __getitem__(self, index: Any) -> Record:
        if isinstance(index, int | np.integer):
            place = int(index) + len(self) * (index < 0)
            if not 0 <= place < len(self):
                raise IndexError(f"expected an index within {-len(self)}..{len(self) - 1}, got {index}")
            return self.samples(np.array([place]))[0]
        return self.read(checked_indices(index, len(self)))

    def __iter__(self) -> Iterator[Record]:
        step = 256 if self.window_bytes else 1
        return (record for begin in range(0, len(self), step)
                for record in self.samples(np.arange(begin, min(begin + step, len(self)))))


def checked_indices(index: Any, count: int) -> np.ndarray:
    """Return what a slice, indices or a mask select of `count` records, as int64 from 0 on.

    Raises IndexError, as arrays do, for indices out of range, a mask of another length, or anything else.
    """
    if isinstance(index, slice):
        return np.arange(count, dtype=np.int64)[index]
    try:
        indices = np.asarray(index)
    except ValueError:                  # lists of unequal lengths
        indices = np.empty((), object)
    if indices.ndim != 1 or indices.dtype.kind not in "iub" and indices.size:
        raise IndexError(f"expected an integer, a slice, or a list of integers or booleans, got "
                         f"{str(index):.80}")
    if indices.dtype.kind == "b":
        if len(indices) != count:
            raise IndexError(f"expected a mask of {count} booleans, one for each record, got {len(indices)}")
        return np.flatnonzero(indices)
    indices = indices.astype(np.int64)
    if indices.size and not -count <= indices.min() <= indices.max() < count:
        raise IndexError(f"expected indices within {-count}..{count - 1}, got {indices.min()}.."
                         f"{indices.max()}")
    return np.where(indices < 0, indices + count, indices)


class ArrayDataset(Dataset):
    """The records of arrays in memory with the records along the first axis: ArrayDataset(x, y)[i] is
    (x[i], y[i]).

    The arrays are not copied: a memory-mapped one (np.load with mmap_mode) stays on the disk, and a change of
    one is seen. Reading copies each wanted record once. Raises DataError for no array, for arrays of unequal
    lengths, and for what holds no numbers.
    """

    def __init__(self, *arrays: Any):
        if not arrays:
            raise DataError("ArrayDataset: expected at least one array, got none")
        self.arrays = tuple(as_numbers(array, "ArrayDataset: array {}", number)
                            for number, array in enumerate(arrays))
        for number, array in enumerate(self.arrays):
            if not array.ndim:
                raise DataError(f"ArrayDataset: array {number}: expected records along the first axis, got "
                                "a single number")
        lengths = [len(array) for array in self.arrays]
        if len(set(lengths)) > 1:
            raise DataError(f"ArrayDataset: expected arrays of the same length, got lengths "
                            f"{', '.join(map(str, lengths))}; the first axis counts the records")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def read(self, indices: np.ndarray) -> Record:
        if len(indices) and indices[-1] - indices[0] == len(indices) - 1 and (np.diff(indices) == 1).all():
            return tuple(array[indices[0]:indices[-1] + 1].copy() for array in self.arrays)
        return tuple(array.take(indices, axis=0) for array in self.arrays)


class _Stacked(Dataset):
    """A dataset that defines `samples`, which `read` puts together."""

    def read(self, indices: np.ndarray) -> Record:
        if not len(indices) and len(self):      # none at all, but of the right shape
            return tuple(array[:0] for array in self.read(np.zeros(1, np.int64)))
        return stack(self.samples(indices), lambda place: self.where(int(indices[place])))


class SequenceDataset(_Stacked):
    """The records of any object with `__len__` and `__getitem__`: a list of tuples, a class of a user's own,
    a dataset of another library.

    sequence[i] is a tuple of arrays or numbers, or one array or number. The arrays of different records may
    differ in shape if a DataLoader is given a `collate` for them. Raises DataError with the record where
    reading one raises something.
    """

    def __init__(self, sequence: Any):
        for needed in ("__len__", "__getitem__"):
            if not hasattr(sequence, needed):
                raise DataError(f"expected a Dataset, or an object with __len__ and __getitem__, got "
                                f"{type(sequence).__name__}; give arrays as ArrayDataset(x, y)")
        self.sequence = sequence

    def __len__(self) -> int:
        return len(self.sequence)

    def samples(self, indices: np.ndarray) -> list[Record]:
        return [self._sample(index) for index in indices.tolist()]

    def where(self, index: int) -> str:
        return f"record {index} of the {type(self.sequence).__name__}"

    def _sample(self, index):
        with naming(lambda: self.where(index)):
            return as_record(self.sequence[index])


def as_dataset(source: Any) -> Dataset:
    """Return `source` as a Dataset: as it is, or as an ArrayDataset of one array, or a SequenceDataset.

    Raises DataError for a tuple, which is one record, and for what is no sequence.
    """
    if isinstance(source, Dataset):
        return source
    if isinstance(source, tuple):
        raise DataError("expected a dataset, got a tuple, which could be one record or a list of them; give "
                        "arrays as ArrayDataset(x, y), records as a list")
    return ArrayDataset(source) if isinstance(source, np.ndarray) else SequenceDataset(source)


class MappedDataset(_Stacked):
    """A dataset with function(*arrays) in place of each record: a tuple of arrays or numbers, or one of them.

        MappedDataset(dataset, lambda image, label: (image / np.float32(255), label))

    The function must depend on its arguments alone, and is called by as many threads as a DataLoader has.
    Raises DataError with the record where it raises something.
    """

    def __init__(self, dataset: Any, function: Callable[..., Any]):
        self.dataset, self.function = as_dataset(dataset), function
        self.window_bytes = self.dataset.window_bytes

    def __len__(self) -> int:
        return len(self.dataset)

    def samples(self, indices: np.ndarray) -> list[Record]:
        return [self._mapped(record, index) for record, index in
                zip(self.dataset.samples(indices), indices.tolist(), strict=True)]

    def where(self, index: int) -> str:
        return self.dataset.where(index)

    def order(self, shuffle: bool, seed: int) -> Order:
        return self.dataset.order(shuffle, seed)

    def _mapped(self, record, index):
        with naming(lambda: self.where(index)):
            return as_record(self.function(*record))


class Subset(Dataset):
    """The records of a dataset at some indices (or of a slice, or a mask), in this order.

    Raises DataError for indices out of range.
    """

    def __init__(self, dataset: Any, indices: Any):
        self.dataset = as_dataset(dataset)
        self.window_bytes = self.dataset.window_bytes
        try:
            self.indices = checked_indices(indices, len(self.dataset))
        except IndexError as error:
            raise DataError(f"Subset: {error}") from None

    def __len__(self) -> int:
        return len(self.indices)

    def samples(self, indices: np.ndarray) -> list[Record]:
        return self.dataset.samples(self.indices[indices])

    def read(self, indices: np.ndarray) -> Record:
        return self.dataset.read(self.indices[indices])

    def where(self, index: int) -> str:
        return self.dataset.where(int(self.indices[index]))


def random_split(dataset: Any, lengths: Sequence[float], seed: int = 0) -> list[Subset]:
    """Return random parts of a dataset that have no record in common; a function of (lengths, seed) alone.

    lengths: numbers of records that add up to len(dataset), or shares (floats) that add up to 1, e.g.
    (0.9, 0.1). Each part keeps the order of the dataset. Raises DataError for lengths that do not fit.
    """
    dataset = as_dataset(dataset)
    count, lengths = len(dataset), list(lengths) if isinstance(lengths, Iterable) else [lengths]
    for length in lengths:
        real_number("random_split: a length", length, error=DataError)
    if any(isinstance(length, float | np.floating) for length in lengths):
        bounds = np.cumsum([0.0, *lengths])
        fits, wanted = min(lengths) >= 0 and abs(bounds[-1] - 1) < 1e-6, "shares that add up to 1"
        ends = [round(bound * count) for bound in bounds.tolist()] if fits else []
    else:
        fits = bool(lengths) and min(lengths) >= 0 and sum(lengths) == count
        wanted = f"lengths that add up to {count}, the number of records"
        ends = np.cumsum([0, *lengths]).tolist()
    if not fits:
        raise DataError(f"random_split: expected {wanted}, got {lengths!r:.80}, which add up to "
                        f"{sum(lengths)}")
    every = generator(seed, "random split").permutation(count)
    return [Subset(dataset, np.sort(every[begin:end])) for begin, end in zip(ends, ends[1:], strict=False)]


class RecordsDataset(Dataset):
    """Any Records of minidrop.data, such as those of databases, as a Dataset.

    names: the arrays of a record, in this order; by default all. Threads read one after the other, unless
    the records say that they need not. Raises DataError for a name that the records lack.
    """

    def __init__(self, records: Records, names: Sequence[str] = ()):
        self.records, self.names = records, tuple(names) or tuple(records.layout)
        for name in self.names:
            if name not in records.layout:
                known = ", ".join(map(repr, records.layout))
                raise DataError(f"{records.name}: expected an array {name!r}, got none of that name (a "
                                f"record has {known}){nearest(name, records.layout)}")
        self.window_bytes = 32 << 20 if records.windowed else 0
        self._lock: Any = nullcontext() if records.thread_safe else threading.Lock()

    def __len__(self) -> int:
        return len(self.records)

    def read(self, indices: np.ndarray) -> Record:
        with self._lock:
            found = self.records.read(indices)
        return tuple(found[name] for name in self.names)

    def samples(self, indices: np.ndarray) -> list[Record]:
        if self.records.windowed:
            return super().samples(indices)
        ones = (self.read(indices[place:place + 1]) for place in range(len(indices)))
        return [tuple(array[0] for array in one) for one in ones]     # pictures may differ in size

    def where(self, index: int) -> str:
        return self.records.where(index)

    def order(self, shuffle: bool, seed: int) -> Order:
        return Order(self.records.parts, shuffle, seed)
