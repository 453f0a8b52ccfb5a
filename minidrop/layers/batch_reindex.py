"""BatchReindex."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ShapeError
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("BatchReindex")
class BatchReindex(Layer):
    """Record i of the top is record index[i] of the first bottom; index: the second, (N,).

    No gradient passes to the index.
    """

    bottoms = (2, 2)
    along = 0

    def setup(self, shape: tuple[int, ...], index: tuple[int, ...]) -> list[tuple[int, ...]]:
        if not shape or len(index) != 1:
            raise ShapeError(f"expected records and a vector of indices, got {tuple(shape)} and "
                             f"{tuple(index)}")
        return [tuple(index) + tuple(shape[1:])]

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return functions.batch_reindex(x, index)
