"""What a tensor is as a single number of Python, and how long it is."""

from __future__ import annotations

import math
from typing import Any

from minidrop.errors import ShapeError, TensorError


class Number:
    """The part of Tensor that concerns Python's numbers."""

    __slots__ = ()

    def item(self: Any) -> Any:
        """Return the only entry as a Python number. Raises ShapeError if there are several, or none."""
        if self.data.size != 1 or math.prod(self.shape) != 1:
            name = f" {self.name}" if self.name else ""
            raise ShapeError(f"tensor{name} of shape {self.shape} is no single number")
        return self.numpy().reshape(()).item()

    def __float__(self: Any) -> float:
        return float(self.item())

    def __int__(self: Any) -> int:
        return int(self.item())

    def __index__(self: Any) -> int:
        if self.dtype.kind not in "iu" or self.ndim:
            raise TensorError(f"only a single whole number can be an index, got {self.dtype} of shape "
                              f"{self.shape}")
        return int(self.item())

    def __bool__(self: Any) -> bool:
        if self.size != 1:
            raise TensorError(f"a tensor of shape {self.shape} is neither true nor false; use x.any() or "
                              f"x.all(), and `is` or `is not None` to ask whether there is one")
        return bool(self.item())

    def __len__(self: Any) -> int:
        if not self.ndim:
            raise TensorError("a tensor of shape () is a single number and has no length")
        return self.shape[0]
