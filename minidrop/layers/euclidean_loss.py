"""EuclideanLoss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.errors import ShapeError
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("EuclideanLoss")
class EuclideanLoss(Layer):
    """loss = sum (a - b)^2 / (2 N), N the batch size; as in Caffe, (N, 1) matches (N,)."""

    bottoms = (2, 2)
    is_loss = True

    def setup(self, a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple]:
        if tuple(a[:1]) != tuple(b[:1]) or math.prod(a) != math.prod(b):
            raise ShapeError(f"expected bottoms with one batch size and as many values, got {tuple(a)} and "
                             f"{tuple(b)}")
        return [()]

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return functions.euclidean_loss(a, b)
