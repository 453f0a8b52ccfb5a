"""Eltwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.config import decimal
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Adds, Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Eltwise")
class Eltwise(Layer):
    """Elementwise SUM (with an optional coeff per bottom), PROD or MAX of bottoms of equal shape."""

    bottoms = (2, None)

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        self.operation = settings.EltwiseOp.Name(settings.operation)
        if len(settings.coeff) not in (0, len(shapes)):
            raise ConfigError(f"{len(shapes)} bottoms need as many coeff or none, got {len(settings.coeff)}")
        self.coeff = [decimal(c) for c in settings.coeff]
        if self.coeff and self.operation != "SUM":
            raise ConfigError(f"coeff belongs to operation SUM, not {self.operation}")
        if len({tuple(shape) for shape in shapes}) > 1:
            raise ShapeError(f"bottoms of one shape expected, got {', '.join(str(tuple(s)) for s in shapes)}")
        return [shapes[0]]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Adds | Pass]:
        adds = [Adds(number, epilogue=True) for number in range(len(shapes)) if self.operation == "SUM"]
        return [Pass(bottom=number, keeps_zero=True, joint=True) for number in range(len(shapes))] + adds

    def forward(self, *bottoms: Tensor) -> Any:
        if self.operation == "SUM":
            return functions.weighted_sum(bottoms, self.coeff, self.plan.activation == "relu")
        return functions.product(bottoms) if self.operation == "PROD" else functions.maximum(bottoms)
