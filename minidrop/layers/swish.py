"""Swish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Swish")
class Swish(Layer):
    """y = x / (1 + exp(-beta x))."""

    def read_settings(self) -> None:
        self.beta = decimal(self.settings.beta)

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=True)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.swish(x, self.beta)
