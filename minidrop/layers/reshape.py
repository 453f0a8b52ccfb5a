"""Reshape."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Reshape")
class Reshape(Layer):
    """Gives axes `axis` .. `axis + num_axes - 1` the shape `shape { dim }`.

    A dim of 0 copies the bottom's; one -1 is inferred. With a second bottom a 0 copies that one's: what was
    computed of each word, (T * N, F), becomes (T, N, F) with the words (T, N) beside it and `shape { dim: 0
    dim: 0 dim: -1 }`, whatever T and N are. No gradient passes to it.
    """

    bottoms = (1, 2)

    def setup(self, shape: tuple[int, ...], reference: tuple[int, ...] | None = None) -> list:
        return [self.reshaped(shape, reference)]

    def reshaped(self, shape: tuple[int, ...], reference: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Return the new shape for a bottom of `shape`, and a second one of `reference`."""
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
        known, which = (shape, "") if reference is None else (reference, "second ")
        for i, d in enumerate(dims):
            if d == 0:
                if first + i >= len(known):
                    raise ConfigError(f"dim 0 at place {i} copies axis {first + i}, but the {which}bottom "
                                      f"has {len(known)} axes")
                dims[i] = known[first + i]
        size = math.prod(shape[first:last])
        if -1 in dims:
            rest = -math.prod(dims)
            if not rest or size % rest:
                raise ShapeError(f"cannot infer the -1 of {dims}: {size} elements are no multiple of {rest}")
            dims[dims.index(-1)] = size // rest
        if math.prod(dims) != size:
            raise ShapeError(f"{size} elements {tuple(shape[first:last])} do not fill shape {tuple(dims)}")
        return tuple(shape[:first]) + tuple(dims) + tuple(shape[last:])

    def forward(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        return functions.reshape(x, self.reshaped(x.shape, None if reference is None else reference.shape))
