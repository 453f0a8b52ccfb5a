"""ReLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("ReLU")
class ReLU(Layer):
    """y = max(x, 0) + negative_slope * min(x, 0)."""

    def read_settings(self) -> None:
        self.negative_slope = decimal(self.settings.negative_slope)

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=True, activation="" if self.negative_slope else "relu")]

    def forward(self, x: Tensor) -> Tensor:
        return x if self.plan.done else functions.relu(x, self.negative_slope)
