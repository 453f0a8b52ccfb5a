"""SiLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("SiLU")
class SiLU(Layer):
    """y = x / (1 + exp(-x)): Swish with beta 1."""

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=True)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.swish(x)
