"""Exp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, base_of_logarithm, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Exp")
class Exp(Layer):
    """y = base ^ (shift + scale x); base -1, the default, stands for e."""

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        self.base = base_of_logarithm(settings.base)
        self.scale, self.shift = decimal(settings.scale), decimal(settings.shift)
        return [shape]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(finite=False)]        # large numbers become infinite

    def forward(self, x: Tensor) -> Tensor:
        return functions.exp(x, self.base, self.scale, self.shift, carry=True)
