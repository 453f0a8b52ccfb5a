"""Power."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Power")
class Power(Layer):
    """y = (shift + scale * x) ** power."""

    def read_settings(self) -> None:
        settings = self.settings
        self.power, self.scale, self.shift = (decimal(v)
                                              for v in (settings.power, settings.scale, settings.shift))

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        # For power < 1 the derivative at 0 is infinite, and dense code would multiply it by a mask of 0.
        return [Pass(keeps_zero=self.shift == 0 and self.power >= 1,
                     finite=self.power >= 0 and self.power == int(self.power))]

    def forward(self, x: Tensor) -> Tensor:
        return functions.power(x, self.power, self.scale, self.shift, carry=True)
