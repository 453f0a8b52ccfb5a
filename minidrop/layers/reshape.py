"""Reshape."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Reshape")
class Reshape(Layer):
    """Gives axes `axis` .. `axis + num_axes - 1` the shape `shape { dim }`.

    A dim of 0 copies the bottom's; one -1 is inferred.
    """

    def setup(self, shape: Any) -> list[tuple[int, ...]]:
        return [self.reshaped(shape)]

    def reshaped(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the new shape for a bottom of `shape`."""
        settings = self.settings
        first = settings.axis if settings.axis >= 0 else len(shape) + 1 + settings.axis
        if not 0 <= first <= len(shape):
            raise ConfigError(f"axis {settings.axis} does not exist: the bottom has {len(shape)} axes")
        last = len(shape) if settings.num_axes == -1 else first + settings.num_axes
        if settings.num_axes < -1 or last > len(shape):
            raise ConfigError(f"num_axes {settings.num_axes} from axis {first} on leaves the bottom's "
                              f"{len(shape)} axes")
        dims = list(settings.shape.dim)
        if dims.count(-1) > 1 or any(d < -1 for d in dims):
            raise ConfigError(f"shape may hold one -1 and otherwise sizes of 0 or more, got {dims}")
        for i, d in enumerate(dims):
            if d == 0:
                if first + i >= len(shape):
                    raise ConfigError(f"dim 0 at place {i} copies axis {first + i}, but the bottom has "
                                      f"{len(shape)} axes")
                dims[i] = shape[first + i]
        size = math.prod(shape[first:last])
        if -1 in dims:
            rest = -math.prod(dims)
            if not rest or size % rest:
                raise ShapeError(f"cannot infer the -1 of {dims}: {size} elements are no multiple of {rest}")
            dims[dims.index(-1)] = size // rest
        if math.prod(dims) != size:
            raise ShapeError(f"{size} elements {tuple(shape[first:last])} do not fill shape {tuple(dims)}")
        return tuple(shape[:first]) + tuple(dims) + tuple(shape[last:])

    def forward(self, x: Tensor) -> Tensor:
        return functions.reshape(x, self.reshaped(x.shape))
