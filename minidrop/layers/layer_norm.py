"""LayerNorm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import FillerParameter
from minidrop.layers.base import ParameterSpec, register_layer
from minidrop.layers.flow import Pass
from minidrop.layers.row_norm import RowNormLayer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("LayerNorm")
class LayerNorm(RowNormLayer):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over the axes from `axis` on (Ba et al. 2016).

    weight and bias have the shape of these axes, and begin as 1 and 0. weight_term: false leaves out both.
    """

    def parameter_specs(self) -> list[ParameterSpec]:
        settings = self.settings
        if not settings.weight_term:
            return []
        specs = [ParameterSpec("weight", self.shape, FillerParameter(value=1))]
        return specs + [ParameterSpec("bias", self.shape, FillerParameter())] * settings.bias_term

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return self.passes(keeps_zero=not (self.settings.weight_term and self.settings.bias_term))

    def forward(self, x: Tensor) -> Tensor:
        return functions.layer_norm(x, self.params.get("weight"), self.params.get("bias"), self.axis,
                                    self.eps, carry=True)
