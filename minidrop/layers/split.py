"""Split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Split")
class Split(Layer):
    """Every top is the bottom; gradients add up. Only for old files: any blob may have several readers."""

    tops = (1, None)

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [shape] * len(self.config.top)

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(top=top, keeps_zero=True) for top in range(len(self.config.top))]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * len(self.config.top)
