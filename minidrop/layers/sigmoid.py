"""Sigmoid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Sigmoid")
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)). Since f(0) = 1/2, dropped units must be put back before it."""

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(activation="sigmoid")]

    def forward(self, x: Tensor) -> Tensor:
        return x if self.plan.done else functions.sigmoid(x, carry=True)
