"""PReLU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import FillerParameter
from minidrop.errors import ShapeError
from minidrop.layers.base import Layer, ParameterSpec, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("PReLU")
class PReLU(Layer):
    """y = max(x, 0) + slope * min(x, 0), with a learned slope for each channel (axis 1), or one for all."""

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        if len(shape) < 2:
            raise ShapeError(f"expected a bottom with channels on axis 1, got shape {tuple(shape)}")
        self.shape = () if self.settings.channel_shared else (shape[1],)
        return [shape]

    def parameter_specs(self) -> list[ParameterSpec]:
        settings = self.settings
        filler = settings.filler if settings.HasField("filler") else FillerParameter(value=0.25)
        return [ParameterSpec("slope", self.shape, filler, "filler")]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=True)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.prelu(x, self.params["slope"])
