"""Records: what a data layer reads, whatever it is kept in."""

import math
from functools import cached_property
from typing import Any

import numpy as np

from minidrop.errors import DataError


class Records:
    """A source of records 0 ... len - 1, each some arrays by name. A subclass gives `__len__` and `read`.

    Every record has arrays of the same names, shapes and types. What is read must depend on the index alone,
    or no run could be repeated or resumed. A thread that reads ahead may call `read`, never two at a time.
    """

    in_memory = False          # reading neighbours together gains nothing: Batches then keeps no window

    def __len__(self):
        raise NotImplementedError

    def read(self, indices: np.ndarray) -> Any:
        """Return {name: array with the records first} of these indices, an int64 array, in this order."""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Return a text that says where one record stands, for messages about it."""
        return f"record {index}"

    @property
    def parts(self) -> tuple[int, ...]:
        """The numbers of records of the parts, e.g. files, that shuffling does not mix."""
        return (len(self),)

    @cached_property
    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """{name: (shape of one record, type)}."""
        first = self.read(np.zeros(1, np.int64))
        return {name: (array.shape[1:], array.dtype) for name, array in first.items()}

    def shapes(self, name: str) -> tuple[int, ...]:
        """Return the shape of one record of the array `name`, without the axis of records."""
        return self.layout[name][0]

    def dtypes(self, name: str) -> np.dtype:
        """Return the type of the array `name`."""
        return self.layout[name][1]

    @property
    def record_bytes(self) -> int:
        """The size in bytes of one record, all names together."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.layout.values())

    def empty(self, count: int) -> dict[str, np.ndarray]:
        """Return uninitialised arrays for `count` records by name; DataError where memory is short."""
        try:
            return {name: np.empty((count, *shape), dtype) for name, (shape, dtype) in self.layout.items()}
        except (MemoryError, ValueError) as error:
            raise DataError(f"{self.name}: {count} records of {self.record_bytes} bytes do not fit into "
                            "memory; use a smaller batch_size") from error

    @property
    def name(self) -> str:
        """What messages call this source."""
        return type(self).__name__

    def read_into(self, out: dict[str, np.ndarray], indices: np.ndarray) -> None:
        """Fill the arrays in `out`, like those of `empty`, with the records of these indices."""
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

    in_memory = True
    name = "the arrays"

    def __init__(self, arrays: dict[str, np.ndarray], name: str = name):
        self.arrays, self.name = dict(arrays), name

    def __len__(self):
        return len(next(iter(self.arrays.values())))

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the records of these indices: views of the arrays where they stand next to each other."""
        rows = indices
        if len(indices) and (np.diff(indices) == 1).all():
            rows = slice(int(indices[0]), int(indices[-1]) + 1)
        return {name: array[rows] for name, array in self.arrays.items()}

    def where(self, index: int) -> str:
        return f"record {index} of {self.name}"
