"""Silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Silence")
class Silence(Layer):
    """Reads blobs so that they are not outputs of the net; computes nothing."""

    bottoms = (1, None)
    tops = (0, 0)

    def setup(self, *shapes: tuple[int, ...]) -> list:
        return []

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(i, None) for i in range(len(shapes))]

    def forward(self, *bottoms: Tensor) -> tuple:
        return ()
