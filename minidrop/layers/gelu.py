"""GELU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("GELU")
class GELU(Layer):
    """y = x Phi(x), Phi the normal distribution's function, exactly or by a tanh."""

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=True)]

    def forward(self, x: Tensor) -> Tensor:
        settings = self.settings
        return functions.gelu(x, "tanh" if settings.approximate == settings.TANH else "none")
