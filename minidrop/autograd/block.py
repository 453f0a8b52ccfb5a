"""Block, Blocks: the gradient of a parameter, as much of it as is not zero."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend.late import Late

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend
    from minidrop.kept import Kept


class Block:
    """The nonzero part of a parameter's gradient: `data` at (rows, cols), where None means a whole axis.

    Rows and columns refer to the parameter as a matrix: (out, in, kh, kw) has `out` rows. `late`: the product
    that `data` will be, as long as nobody has read it; else None.
    """

    __slots__ = ("late", "rows", "cols", "_data")

    def __init__(self, data: Any, rows: Kept | None = None, cols: Any = None):
        self.late: Late | None = data if isinstance(data, Late) else None
        self._data: Any = data
        self.rows, self.cols = rows, cols

    @property
    def data(self) -> Any:
        """The array; if it is `late`, it is computed now."""
        if self.late is not None:
            self._data, self.late = self.late.array(), None
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        self._data, self.late = value, None

    @property
    def size(self) -> int:
        """The number of its entries."""
        return math.prod(self._data.shape)

    def dense(self, backend: Backend, shape: tuple[int, ...]) -> np.ndarray:
        """Return the whole gradient, zeros included."""
        if self.rows is None and self.cols is None:
            return self.data.reshape(shape)
        return backend.put(backend.put(self.data, self.cols, -1), self.rows, 0).reshape(shape)

    def add_to(self, backend: Backend, out: np.ndarray, factor: int) -> None:
        """out += factor * dense, without a temporary of the size of `out`."""
        data = self.data if factor == 1 else self.data * out.dtype.type(factor)
        backend.add_block(as_matrix(out), self.rows, self.cols, data)


def as_matrix(x: np.ndarray) -> np.ndarray:
    """Return x as a matrix view with axis 0 as rows if it has more than two axes, unchanged otherwise."""
    return x if x.ndim <= 2 or not x.size else x.reshape(x.shape[0], -1)


class Blocks:
    """The nonzero part of a parameter's gradient as several `Block`s, summed where they overlap.

    An empty batch has none, so the dtype is stored.
    """

    __slots__ = ("parts", "dtype")

    def __init__(self, parts: list[Block], dtype: np.dtype):
        self.parts, self.dtype = list(parts), dtype

    def dense(self, backend: Backend, shape: tuple[int, ...]) -> np.ndarray:
        """Return the whole gradient, zeros included."""
        if len(self.parts) == 1:
            return self.parts[0].dense(backend, shape)
        total = backend.zeros(shape, self.dtype)
        for block in self.parts:
            block.add_to(backend, total, 1)
        return total
