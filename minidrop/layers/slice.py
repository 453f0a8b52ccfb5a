"""Slice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.axes import axis_with_alias
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Slice")
class Slice(Layer):
    """Cuts its bottom along `axis` before each slice_point, or into equal parts if there are none."""

    tops = (1, None)

    def setup(self, shape: Any) -> list[tuple[int, ...]]:
        self.axis = self.along = axis_with_alias(self.settings, "slice_dim", len(shape))
        length, count = shape[self.axis], len(self.config.top)
        points = self.settings.slice_point
        if points and len(points) != count - 1:
            raise ConfigError(f"{count} tops need {count - 1} slice_points, got {len(points)}")
        bounds = [0, *self.points(length), length]
        return [tuple(shape[:self.axis]) + (b - a,) + tuple(shape[self.axis + 1:])
                for a, b in zip(bounds, bounds[1:], strict=False)]

    def points(self, length: int) -> list[int]:
        """Return where an axis of `length` entries is cut; raises ShapeError if that is impossible.

        A batch may have another length than the net's.
        """
        points, count = list(self.settings.slice_point), len(self.config.top)
        if not points:
            if length % count:
                raise ShapeError(f"axis {self.axis} of length {length} cannot be cut into {count} equal "
                                 f"parts; give slice_points")
            return [length // count * i for i in range(1, count)]
        bounds = [0, *points, length]
        if length < count:
            raise ShapeError(f"axis {self.axis} of length {length} cannot be cut into {count} parts that are "
                             f"not empty")
        if any(a >= b for a, b in zip(bounds, bounds[1:], strict=False)):
            raise ShapeError(f"slice_points must rise strictly within 1..{length - 1}, got {points}")
        return points

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return functions.slice(x, self.points(x.shape[self.axis]), self.axis)
