"""What a Python layer and the names of pycaffe call a blob: an array, its gradient, and its sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidrop.errors import ShapeError

_MOST_ENTRIES = 1 << 40


def checked_lengths(lengths: tuple[Any, ...]) -> tuple[int, ...]:
    """Return what a blob's reshape was given as a shape. Raises ShapeError where it is none."""
    try:
        shape = tuple(int(length) for length in lengths)
    except (TypeError, ValueError):
        shape = (-1,)
    if min(shape, default=0) < 0 or math.prod(shape) > _MOST_ENTRIES:
        raise ShapeError(f"reshape takes lengths of 0 or more, as in reshape(2, 3), of at most 2^40 "
                         f"entries, got {', '.join(map(repr, lengths))}")
    return shape


class BlobSizes:
    """The sizes of a blob by Caffe's names, from its `shape`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    def _length(self, axis):
        shape = tuple(self.shape)
        if len(shape) > 4:
            raise ShapeError(f"num, channels, height and width are those of at most four axes; this blob has "
                             f"shape {shape}: use shape")
        return shape[axis] if axis < len(shape) else 1

    @property
    def num(self) -> int:
        """The length of the first of four axes, 1 where there is none; so are the next three."""
        return self._length(0)

    @property
    def channels(self) -> int:
        return self._length(1)

    @property
    def height(self) -> int:
        return self._length(2)

    @property
    def width(self) -> int:
        return self._length(3)


class Blob(BlobSizes):
    """An array `data` and its gradient `diff` on the host, made as zeros when they are first looked at."""

    def __init__(self, shape: tuple[int, ...] = (), dtype: str = "float32"):
        self._shape, self.dtype = tuple(shape), dtype
        self._data: Any = None
        self._diff: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def data(self) -> np.ndarray:
        """The values."""
        if self._data is None:
            self._data = np.zeros(self.shape, self.dtype)
        return self._data

    @property
    def diff(self) -> np.ndarray:
        """The gradient."""
        if self._diff is None:
            self._diff = np.zeros(self.shape, self.dtype)
        return self._diff

    def reshape(self, *shape: int) -> None:
        """Give the blob a shape; of another number of entries it begins as zeros. Raises ShapeError."""
        new = checked_lengths(shape)
        same = math.prod(new) == self.count
        self._data, self._diff = (array.reshape(new) if same and array is not None else None
                                  for array in (self._data, self._diff))
        self._shape = new

    @property
    def written(self) -> np.ndarray | None:
        """`data` if it was ever looked at, None while it is zeros without memory."""
        return self._data

    def hold(self, data: np.ndarray) -> None:
        """Hold this very array as values; the gradient is gone."""
        self._shape, self._data, self._diff = data.shape, data, None

    def clear_diff(self) -> None:
        """Let the gradient be zeros."""
        self._diff = None


class BlobList(list):
    """The parameters of a Python layer."""

    def __init__(self, dtype: str = "float32"):
        super().__init__()
        self.dtype = dtype

    def add_blob(self, *shape: int) -> None:
        """Add a parameter of this shape, zeros; in `setup` of the layer."""
        blob = Blob((), self.dtype)
        blob.reshape(*shape)
        self.append(blob)
