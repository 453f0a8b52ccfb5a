"""Records: what a data layer reads, however it is stored."""

import math
from functools import cached_property
from typing import Any

import numpy as np

from minidrop.errors import DataError


class Records:
    """A source of records 0 ... len - 1, each a set of named arrays. A subclass defines `__len__` and `read`.

    All records have arrays of the same names, shapes and dtypes. What is read must depend on the index alone,
    so that runs can be repeated and resumed. `read` may be called from a prefetching thread, but by two
    threads at a time only where `thread_safe` says so.
    """

    windowed = True            # False: reading neighbours together gains nothing, so Batches keeps no window
    thread_safe = False        # True: several threads may read at once
    run = 1                    # so many neighbours, from each multiple on, cost as much to read as one

    def __len__(self):
        raise NotImplementedError

    def read(self, indices: np.ndarray) -> Any:
        """Return {name: array (count, *record shape)} of these indices (int64), in this order."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Describe where a record is, for messages."""
        return f"record {index}"

    @property
    def parts(self) -> tuple[int, ...]:
        """The number of records of each part, e.g. file; shuffling does not mix parts."""
        return (len(self),)

    @cached_property
    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """{name: (shape of one record, dtype)}."""
        first = self.read(np.zeros(1, np.int64))
        return {name: (array.shape[1:], array.dtype) for name, array in first.items()}

    def shapes(self, name: str) -> tuple[int, ...]:
        """Return the shape of the array `name` in one record, without the axis of records."""
        return self.layout[name][0]

    def dtypes(self, name: str) -> np.dtype:
        """Return the dtype of the array `name`."""
        return self.layout[name][1]

    @property
    def record_bytes(self) -> int:
        """The size of one record in bytes, all arrays together."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.layout.values())

    def empty(self, count: int) -> dict[str, np.ndarray]:
        """Return {name: uninitialised array} for `count` records. Raises DataError if memory is short."""
        try:
            return {name: np.empty((count, *shape), dtype) for name, (shape, dtype) in self.layout.items()}
        except (MemoryError, ValueError) as error:
            raise DataError(f"{self.name}: {count} records of {self.record_bytes} bytes do not fit into "
                            "memory; use a smaller batch_size") from error

    @property
    def name(self) -> str:
        """The name of this source in messages."""
        return type(self).__name__

    def read_into(self, out: dict[str, np.ndarray], indices: np.ndarray) -> None:
        """Fill the arrays in `out`, like those of `empty`, with the records of these indices.

        Raises DataError for records that are not alike.
        """
        got = self.read(indices)
        for name, place in out.items():
            array = got[name]
            if (array.shape, array.dtype) != (place.shape, place.dtype):
                raise DataError(f"{self.name}: {self.where(int(indices[0]))} and {len(indices) - 1} more: "
                                f"expected {name!r} as {place.dtype} of shape {place.shape}, got "
                                f"{array.dtype} of shape {array.shape}; all records must be alike")
            place[:] = array


class ArrayRecords(Records):
    """The records of arrays in memory: {name: array with the records first}, all of the same length."""

    windowed = False
    name = "the arrays"

    def __init__(self, arrays: dict[str, np.ndarray], name: str = name):
        self.arrays, self.name = dict(arrays), name

    def __len__(self):
        return len(next(iter(self.arrays.values())))

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the records of these indices: views of the arrays if the indices are consecutive."""
        rows: np.ndarray | slice = indices
        if len(indices) and (np.diff(indices) == 1).all():
            rows = slice(int(indices[0]), int(indices[-1]) + 1)
        return {name: array[rows] for name, array in self.arrays.items()}

    def where(self, index: int) -> str:
        return f"record {index} of {self.name}"
