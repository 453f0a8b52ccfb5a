"""Permute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Permute")
class Permute(Layer):
    """The axes of the bottom in another order: its axis order[i] becomes axis i of the top."""

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.order = list(self.settings.order)
        if sorted(self.order) != list(range(len(shape))):
            raise ConfigError(f"permute_param needs an order that names each of the bottom's {len(shape)} "
                              f"axes once, 0 to {len(shape) - 1}, got {self.order}")
        return [tuple(shape[axis] for axis in self.order)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.permute(x, self.order)
