"""Clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Clip")
class Clip(Layer):
    """y = max(min, min(x, max)); the gradient passes where min <= x <= max."""

    def read_settings(self) -> None:
        settings = self.settings
        if not (settings.HasField("min") and settings.HasField("max")):
            raise ConfigError("clip_param needs min and max")
        self.low, self.high = decimal(settings.min), decimal(settings.max)
        if self.low > self.high:
            raise ConfigError(f"clip_param: min {self.low:g} is above max {self.high:g}")

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=self.low <= 0 <= self.high)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.clip(x, self.low, self.high, carry=True)
