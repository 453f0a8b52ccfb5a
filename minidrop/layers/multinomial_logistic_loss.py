"""MultinomialLogisticLoss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import Layer, check_record_labels, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Layer):
    """loss = - sum log max(p[label], 1e-20) / N, p probabilities.

    Bottoms: probabilities (N, ...), all axes but the first counting classes; labels (N). The softmax is not
    in it: SoftmaxWithLoss is the stable form.
    """

    bottoms = (2, 2)
    is_loss = True

    def setup(self, probabilities: tuple[int, ...], labels: tuple[int, ...]) -> list[tuple]:
        check_record_labels(probabilities, labels)
        return [()]

    def forward(self, p: Tensor, label: Tensor) -> Tensor:
        return functions.multinomial_logistic_loss(p, label)
