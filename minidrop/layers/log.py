"""Log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, base_of_logarithm, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Log")
class Log(Layer):
    """y = log(shift + scale x) to a base; base -1, the default, stands for e."""

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        self.base = base_of_logarithm(settings.base)
        if self.base == 1:
            raise ConfigError("log_param: no logarithm has the base 1")
        self.scale, self.shift = decimal(settings.scale), decimal(settings.shift)
        return [shape]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=self.shift == 1, finite=False)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.log(x, self.base, self.scale, self.shift, carry=True)
