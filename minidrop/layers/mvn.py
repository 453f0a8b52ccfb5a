"""MVN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("MVN")
class MVN(Layer):
    """y = (x - mean) / (deviation + eps) over the places of each channel of a record, or over a whole record.

    Without normalize_variance y = x - mean.
    """

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        if not shape:
            raise ShapeError("expected a bottom with samples on axis 0, got a single number")
        self.across, self.scaled = settings.across_channels, settings.normalize_variance
        self.eps = decimal(settings.eps)
        if self.eps < 0:
            raise ConfigError(f"eps must not be negative, got {self.eps:g}")
        return [shape]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        bounded = self.eps > 0 or not self.scaled       # 0 / 0 otherwise
        axes = (0,) if self.across else (0, 1)
        return [Pass(axis=axis, keeps_zero=bounded, finite=bounded) for axis in axes]

    def forward(self, x: Tensor) -> Tensor:
        return functions.mvn(x, self.across, self.scaled, self.eps)
