"""ELU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("ELU")
class ELU(Layer):
    """y = x where x > 0, alpha (exp(x) - 1) elsewhere."""

    def read_settings(self) -> None:
        self.alpha = decimal(self.settings.alpha)

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(keeps_zero=True)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.elu(x, self.alpha)
