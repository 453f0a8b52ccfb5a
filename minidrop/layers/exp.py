"""Exp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, base_of_logarithm, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.config import LayerParameter
    from minidrop.layers.base import Context


@register_layer("Exp")
class Exp(Layer):
    """y = base ^ (shift + scale x); base -1, the default, stands for e."""

    def __init__(self, config: LayerParameter, context: Context):
        super().__init__(config, context)
        settings = self.settings
        self.base = base_of_logarithm(settings.base)
        self.scale, self.shift = decimal(settings.scale), decimal(settings.shift)

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(finite=False)]      # it overflows

    def forward(self, x: Tensor) -> Tensor:
        return functions.exp(x, self.base, self.scale, self.shift)
