"""HingeLoss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import Layer, check_record_labels, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("HingeLoss")
class HingeLoss(Layer):
    """loss = sum max(0, 1 - t x)^p / N; t is 1 for the label's score, -1 for the others; p: 1 or 2.

    Bottoms: scores (N, ...), all axes but the first counting classes; labels (N).
    """

    bottoms = (2, 2)
    is_loss = True

    def setup(self, scores: tuple[int, ...], labels: tuple[int, ...]) -> list[tuple]:
        check_record_labels(scores, labels)
        self.squared = self.settings.norm == self.settings.L2
        return [()]

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return functions.hinge_loss(x, label, self.squared)
