"""Reduction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, checked_axis, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Reduction")
class Reduction(Layer):
    """coeff times the SUM, ASUM (of |x|), SUMSQ (of x^2) or MEAN over all axes from `axis` on.

    The top has the axes before it: none at all for axis 0, the default.
    """

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        self.axis, self.coeff = checked_axis(settings.axis, len(shape)), decimal(settings.coeff)
        self.operation = settings.ReductionOp.Name(settings.operation)
        return [tuple(shape[:self.axis])]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(axis=axis, keeps_zero=True) for axis in range(self.axis)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.reduction(x, self.operation, self.axis, self.coeff)
