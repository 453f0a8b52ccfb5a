"""Filter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Filter")
class Filter(Layer):
    """The records of each bottom for which the last bottom, the selector (N, 1, ...), is not 0.

    `setup` knows no values and says that all records pass; in a pass there may be fewer, even none: then the
    tops have no records, and losses of them are 0. No gradient passes to the selector.
    """

    bottoms = (2, None)
    tops = (1, None)
    capturable = False         # how many records pass is read from the device

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        *blobs, selector = shapes
        if len(self.config.top) != len(blobs):
            raise ConfigError(f"{len(blobs)} bottoms and a selector need {len(blobs)} tops, got "
                              f"{len(self.config.top)}")
        if not selector or math.prod(selector[1:]) != 1:
            raise ShapeError(f"expected a selector with one entry for each record, got {tuple(selector)}")
        if any(tuple(shape[:1]) != tuple(selector[:1]) for shape in blobs):
            raise ShapeError(f"expected {selector[0]} records in every bottom, as in the selector, got "
                             f"{', '.join(str(tuple(shape)) for shape in blobs)}")
        return blobs

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        return functions.filter_records(bottoms[:-1], bottoms[-1])
