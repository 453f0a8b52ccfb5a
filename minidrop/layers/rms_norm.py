"""RMSNorm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import FillerParameter
from minidrop.layers.base import ParameterSpec, register_layer
from minidrop.layers.flow import Pass
from minidrop.layers.row_norm import RowNormLayer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("RMSNorm")
class RMSNorm(RowNormLayer):
    """y = x / sqrt(mean of x^2 + eps) * weight over the axes from `axis` on (Zhang and Sennrich 2019).

    The weight has the shape of these axes, and begins as 1.
    """

    def parameter_specs(self) -> list[ParameterSpec]:
        return [ParameterSpec("weight", self.shape, FillerParameter(value=1))]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return self.passes(keeps_zero=True)

    def forward(self, x: Tensor) -> Tensor:
        return functions.rms_norm(x, self.params["weight"], self.axis, self.eps)
