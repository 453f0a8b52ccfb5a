"""ContrastiveLoss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.errors import ShapeError
from minidrop.layers.base import Layer, check_record_labels, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("ContrastiveLoss")
class ContrastiveLoss(Layer):
    """loss = sum [y d^2 + (1 - y) max(0, margin - d)^2] / (2 N), d = |a - b| of each pair.

    Bottoms: a, b (N, ...), y (N): 1 for a similar pair, 0 for another. `legacy_version`: max(0, margin - d^2)
    in place of the square.
    """

    bottoms = (3, 3)
    is_loss = True

    def setup(self, a: tuple[int, ...], b: tuple[int, ...], similar: tuple[int, ...]) -> list[tuple]:
        if not a or tuple(a[:1]) != tuple(b[:1]) or math.prod(a) != math.prod(b):
            raise ShapeError(f"expected bottoms with one batch size and as many values, got {tuple(a)} and "
                             f"{tuple(b)}")
        check_record_labels(a, similar)
        self.margin = decimal(self.settings.margin)
        return [()]

    def forward(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        return functions.contrastive_loss(a, b, similar, self.margin, self.settings.legacy_version)
