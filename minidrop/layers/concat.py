"""Concat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ShapeError
from minidrop.layers.axes import axis_with_alias
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Concat")
class Concat(Layer):
    """Concatenates its bottoms along `axis`."""

    bottoms = (1, None)

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        first = list(shapes[0])
        self.axis = self.along = axis_with_alias(self.settings, "concat_dim", len(first))
        for shape in shapes[1:]:
            others = list(shape)
            if len(others) != len(first) or others[:self.axis] + others[self.axis + 1:] != (
                    first[:self.axis] + first[self.axis + 1:]):
                raise ShapeError(f"bottoms may differ on axis {self.axis} only, got "
                                 f"{', '.join(str(tuple(s)) for s in shapes)}")
        first[self.axis] = sum(shape[self.axis] for shape in shapes)
        return [tuple(first)]

    def forward(self, *bottoms: Tensor) -> Tensor:
        return functions.concat(bottoms, self.axis)
