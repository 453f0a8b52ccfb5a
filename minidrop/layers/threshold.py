"""Threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Threshold")
class Threshold(Layer):
    """y = 1 where x > threshold, 0 elsewhere. No gradient passes: Caffe refuses to compute one."""

    learnable_tops = 0

    def read_settings(self) -> None:
        self.threshold = decimal(self.settings.threshold)

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=self.threshold >= 0)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.threshold(x, self.threshold, carry=True)
