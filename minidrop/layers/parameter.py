"""Parameter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, ParameterSpec, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Parameter")
class Parameter(Layer):
    """A learned blob of a given shape; it starts as its filler says, as zeros unless given."""

    bottoms = (0, 0)

    def setup(self) -> list[tuple[int, ...]]:
        self.shape = tuple(self.settings.shape.dim)
        if not self.shape or min(self.shape) < 1:
            raise ConfigError(f"parameter_param needs a shape with sizes of 1 or more, got {self.shape}")
        return [self.shape]

    def parameter_specs(self) -> list[ParameterSpec]:
        return [ParameterSpec("weight", self.shape, self.settings.filler, "filler")]

    def forward(self) -> Tensor:
        return self.params["weight"]
