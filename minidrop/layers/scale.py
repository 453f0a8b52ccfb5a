"""Scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import FillerParameter
from minidrop.layers.axes import covered_axes
from minidrop.layers.base import Layer, ParameterSpec, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Scale")
class Scale(Layer):
    """y = x * factor + bias: a learned factor, or the second bottom, and with bias_term a learned bias.

    Both cover the axes of the first bottom from `axis` on. The bias is the last parameter, or the only one.
    """

    bottoms = (1, 2)

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.learned = len(shapes) == 1
        self.axis, self.shape = covered_axes(self.settings, shapes[0], None if self.learned else shapes[1])
        return [shapes[0]]

    def parameter_specs(self) -> list[ParameterSpec]:
        settings, specs = self.settings, []
        if self.learned:
            filler = settings.filler if settings.HasField("filler") else FillerParameter(value=1)
            specs.append(ParameterSpec("factor", self.shape, filler, "filler"))
        if settings.bias_term:
            specs.append(ParameterSpec("bias", self.shape, settings.bias_filler))
        return specs

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=not self.settings.bias_term,
                     scales_channels=self.learned and self.axis == 1 and len(self.shape) == 1)]

    def forward(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        if self.plan.done:
            return x
        return functions.affine(x, self.params["factor"] if factor is None else factor,
                                self.params.get("bias"), self.axis, carry=True)
