"""Bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.axes import covered_axes
from minidrop.layers.base import Layer, ParameterSpec, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Bias")
class Bias(Layer):
    """y = x + bias: a learned one, or the second bottom; it covers axes of the first from `axis` on."""

    bottoms = (1, 2)

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.learned = len(shapes) == 1
        self.axis, self.shape = covered_axes(self.settings, shapes[0], None if self.learned else shapes[1])
        return [shapes[0]]

    def parameter_specs(self) -> list[ParameterSpec]:
        return [ParameterSpec("bias", self.shape, self.settings.filler, "filler")] if self.learned else []

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass()]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return functions.affine(x, None, self.params["bias"] if bias is None else bias, self.axis,
                                carry=True)
