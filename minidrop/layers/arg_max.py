"""ArgMax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, checked_axis, register_layer
from minidrop.layers.numbers import check_countable

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("ArgMax")
class ArgMax(Layer):
    """Where the `top_k` largest entries are, in descending order; no gradient passes.

    With `axis` the top has top_k entries on it: indices, or with `out_max_val` the entries themselves.
    Without, each record is searched as a whole, and the top is (N, 1, top_k), or (N, 2, top_k) with the
    entries behind their indices, followed by axes of length 1 if the bottom has more than three. Of equal
    entries the one with the higher index comes first.
    """

    learnable_tops = 0

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        self.axis = self.along = (checked_axis(settings.axis, len(shape)) if settings.HasField("axis")
                                  else None)
        if not shape:
            raise ShapeError("expected a bottom with a batch axis, got a single number")
        count = math.prod(shape[1:]) if self.axis is None else shape[self.axis]
        check_countable(count, self.context.dtype, "the number of entries that are searched")
        top_k = settings.top_k
        if not 1 <= top_k <= count:
            raise ConfigError(f"top_k must lie in 1..{count}, the number of entries that are searched, got "
                              f"{top_k}")
        if self.axis is None:
            return [(shape[0], 1 + settings.out_max_val, top_k) + (1,) * (len(shape) - 3)]
        return [tuple(shape[:self.axis]) + (top_k,) + tuple(shape[self.axis + 1:])]

    def forward(self, x: Tensor) -> Tensor:
        return functions.argmax(x, self.settings.top_k, self.axis, self.settings.out_max_val)
