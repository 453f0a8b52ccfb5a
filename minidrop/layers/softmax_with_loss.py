"""SoftmaxWithLoss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.layers.base import (
    Layer,
    check_label_shape,
    checked_axis,
    label_smoothing,
    labels_that_count,
    loss_settings,
    register_layer,
)

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("SoftmaxWithLoss")
class SoftmaxWithLoss(Layer):
    """loss = - mean log softmax(x)[label]; bottoms: scores, labels.

    With a label_smoothing s a label counts 1 - s, and the mean of - log softmax(x) over all classes s.
    Optional second top: the probabilities softmax(x).
    """

    bottoms = (2, 2)
    tops = (1, 2)
    is_loss = True
    smooths_labels = True

    def setup(self, scores: tuple[int, ...], labels: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.axis = checked_axis(self.config.softmax_param.axis, len(scores))
        check_label_shape(scores, labels, self.axis)
        self.ignore_label, self.normalization = loss_settings(self.config)
        self.smoothing = label_smoothing(self.config)
        self.with_probabilities = len(self.config.top) == 2
        return [(), scores][:len(self.config.top)]

    @property
    def batch_weight(self) -> float:
        """The share of the last batch's labels that count; reading it waits for the device."""
        return labels_that_count(self.label, self.ignore_label if self.normalization == "VALID" else None)

    def forward(self, x: Tensor, label: Tensor) -> Any:
        self.label = label.data
        value = functions.softmax_cross_entropy(x, label, self.axis, self.ignore_label, self.normalization,
                                                self.smoothing)
        return (value, functions.softmax(x, self.axis)) if self.with_probabilities else value
