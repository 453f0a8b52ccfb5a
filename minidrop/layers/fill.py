"""Fill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop.autograd import Tensor
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.backend import Backend


@register_layer("Fill")
class Fill(Layer):
    """One number everywhere, in a shape that follows the bottom's, of which nothing else is read.

        y[i, ...] = first if i = 0 else value        (without `first`: value)

    A dim of 0 copies the bottom's. No gradient passes. So a recurrent layer has its cont, and states to begin
    with, for as many steps and streams as x has.
    """

    learnable_tops = 0

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        for i, dim in enumerate(self.settings.shape.dim):
            if dim < 0:
                raise ConfigError(f"fill_param: sizes must not be negative, got {dim}")
            if dim == 0 and i >= len(shape):
                raise ConfigError(f"fill_param: dim 0 at place {i} copies axis {i}, but the bottom has "
                                  f"{len(shape)} axes")
        if not self.settings.shape.dim and self.settings.HasField("first"):
            raise ConfigError("fill_param: first needs a shape with an axis")
        return [self._shape(shape)]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(0, None)]

    def forward(self, x: Tensor) -> Tensor:
        backend: Backend = x.backend
        y = backend.empty(self._shape(x.shape), self.context.dtype)
        y[...] = self.settings.value
        if self.settings.HasField("first"):
            y[:1] = self.settings.first
        return Tensor(y, backend=backend)

    def _shape(self, shape):
        return tuple(int(dim) or shape[i] for i, dim in enumerate(self.settings.shape.dim))
