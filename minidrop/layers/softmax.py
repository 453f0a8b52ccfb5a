"""Softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.layers.base import Layer, checked_axis, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Softmax")
class Softmax(Layer):
    """y_i = exp(x_i) / sum_j exp(x_j) along `axis`."""

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.axis = self.along = checked_axis(self.settings.axis, len(shape))
        return [shape]

    def forward(self, x: Tensor) -> Any:
        return functions.softmax(x, self.axis)
