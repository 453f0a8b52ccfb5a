"""BNLL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("BNLL")
class BNLL(Layer):
    """y = log(1 + exp(x)). Since f(0) = log 2, dropped units must be put back before it."""

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass()]

    def forward(self, x: Tensor) -> Tensor:
        return functions.bnll(x, carry=True)
