"""Records and batches: what counts as a record, records of one shape stacked, sequences filled up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from minidrop.errors import DataError, MinidropError
from minidrop.rng import generator

Record = tuple[np.ndarray, ...]


class LoadedRecord(tuple):
    """A Record as a loader's collate function is given it: known from a sequence that is a tuple."""

    __slots__ = ()


def as_record(value: Any) -> Record:
    """Return a tuple of arrays, of a tuple of what can become one, or of one such thing."""
    parts = value if isinstance(value, tuple) else (value,)
    if not parts:
        raise DataError("expected a record of at least one array, got an empty tuple")
    return tuple(as_numbers(part, "array {} of the record", place) for place, part in enumerate(parts))


def as_numbers(value: Any, what: str, place: int) -> np.ndarray:
    """Return `value` as an array of numbers on the host. Raises DataError, which begins with `what` of this
    place; also for one with masked entries, whose mask would be lost."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:        # lists of unequal lengths, arrays of a device
        raise DataError(f"{what.format(place)}: expected an array of numbers, got {type(value).__name__} "
                        f"({error})") from error
    if np.ma.is_masked(value):
        raise DataError(f"{what.format(place)}: entries are masked; fill them first")
    if array.dtype.kind not in "biufc":
        raise DataError(f"{what.format(place)}: expected an array of numbers, got {type(value).__name__} of "
                        f"dtype {array.dtype}; convert it")
    return array


@contextmanager
def naming(where: Callable[[], str]) -> Iterator[None]:
    """Within this context whatever is raised becomes a DataError that says which record it was."""
    try:
        yield
    except Exception as error:
        record, is_own = where(), isinstance(error, MinidropError)
        if is_own and record in str(error):
            raise
        raise DataError(f"{record}: {error if is_own else said(error)}") from error


def said(error: Exception) -> str:
    """Return an exception as text in a message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def stack(records: Sequence[Record], where: Callable[[int], str] = "record {} of the batch".format) -> Record:
    """Return the arrays of some records with these along a new first axis: (x_0, y_0), (x_1, y_1), ... become
    (x, y).

    where: describes the record at a place, for messages. Raises DataError for no record, and for records of
    which one has other shapes or dtypes than the first.
    """
    if not records:
        raise DataError("expected at least one record, got none")
    first = [(array.shape, array.dtype) for array in records[0]]
    for place, record in enumerate(records):
        if [(array.shape, array.dtype) for array in record] != first:
            raise DataError(f"{where(place)}: expected {_layout(records[0])}, as of {where(0)}, got "
                            f"{_layout(record)}; make all alike, or give the DataLoader a collate that joins "
                            "such records (pad_sequences fills sequences up)")
    return tuple(np.stack(arrays) for arrays in zip(*records, strict=True))


def _layout(record):
    return " and ".join(f"{array.dtype} {array.shape}" for array in record) or "nothing"


def pad_sequences(sequences: Sequence[Any], value: float = 0, steps: int = 0,
                  time_first: bool = False) -> tuple[np.ndarray, ...]:
    """Return (the sequences as one array, filled up with `value`, and their lengths, int32).

    sequences: arrays (length, *entry) that differ in length alone. The array is (count, steps, *entry), or
    with `time_first` (steps, count, *entry), as recurrent layers read it; steps: by default the greatest
    length. As the `collate` of a DataLoader it fills up the first array of each record, and stacks the
    others: records (words, label) become (words, lengths, label). Where several arrays have unequal lengths:

        def collate(records):
            words, tags = zip(*records)
            return *pad_sequences(words), pad_sequences(tags, value=-1)[0]

    Raises DataError for sequences that differ in more, or are longer than `steps`, and for a value that their
    dtype cannot hold.
    """
    if len(sequences) and all(isinstance(one, LoadedRecord) for one in sequences):
        padded, lengths = pad_sequences([one[0] for one in sequences], value, steps, time_first)
        others = [one[1:] for one in sequences]
        try:
            return padded, lengths, *(stack(others) if any(others) else ())
        except DataError as error:
            raise DataError(f"pad_sequences: behind the first array of each record: "
                            f"{str(error).partition(';')[0]}; join them in a collate of your own, as its "
                            f"docstring shows") from None
    arrays = [as_numbers(sequence, "sequence {}", place) for place, sequence in enumerate(sequences)]
    if not arrays:
        raise DataError("pad_sequences: expected at least one sequence, got none")
    dtype, entry = arrays[0].dtype, arrays[0].shape[1:]
    most = steps or max(len(array) if array.ndim else 0 for array in arrays)
    for place, array in enumerate(arrays):
        if not array.ndim or (array.dtype, array.shape[1:]) != (dtype, entry) or len(array) > most:
            wanted = ", ".join(map(str, ("length", *entry)))
            raise DataError(f"pad_sequences: sequence {place}: expected {dtype} ({wanted}) with a length of "
                            f"at most {most}, got {array.dtype} {array.shape}; cut or convert it")
    filler = np.asarray(value)
    with np.errstate(all="ignore"):
        held = filler.astype(dtype)
    if filler.ndim or not (held == filler or filler != filler and held != held):
        raise DataError(f"pad_sequences: expected a value that {dtype} can hold, got {value!r}")
    out = np.full((len(arrays), most, *entry), held, dtype)
    for place, array in enumerate(arrays):
        out[place, :len(array)] = array
    lengths = np.array([len(array) for array in arrays], np.int32)
    return (np.ascontiguousarray(out.swapaxes(0, 1)) if time_first else out), lengths


class Join:
    """What a DataLoader makes a batch of records with; plain: without a function of the user's."""

    def __init__(self, seed: int, collate: Callable[[list], Any] | None, augment: Callable[..., Any] | None):
        self.seed, self.collate, self.augment = seed, collate, augment
        self.plain = collate is None and augment is None

    def __call__(self, epoch: int, n: int, numbered: Sequence[tuple[int, Any]],
                 where: Callable[[int], str]) -> Any:
        """Return batch n of an epoch, of (number, record)s."""
        rng = generator(self.seed, "augment", epoch, n) if self.augment is not None else None
        records = []
        for number, record in numbered:
            with naming(partial(where, number)):
                if self.augment is not None:
                    record = self.augment(rng, *as_record(record))
                records.append(LoadedRecord(as_record(record)))
        if self.collate is None:
            return stack(records, lambda place: where(numbered[place][0]))
        with naming(lambda: f"collate of {where(numbered[0][0])} and {len(records) - 1} more"):
            return self.collate(records)
