"""Size: the number of entries of a tensor, which PyTorch's users call for its shape."""

from __future__ import annotations

import math
from typing import Any


class Size(int):
    """A number of entries. Called, as PyTorch's size() is, it gives the shape, or the length of an axis."""

    shape: tuple[int, ...]

    def __new__(cls, shape: tuple[int, ...]) -> Size:
        self = super().__new__(cls, math.prod(shape))
        self.shape = tuple(shape)
        return self

    def __call__(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]
