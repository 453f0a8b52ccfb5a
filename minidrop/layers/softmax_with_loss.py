"""SoftmaxWithLoss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.functions.softmax import weight_of_labels
from minidrop.layers.base import Layer, check_label_shape, checked_axis, register_layer
from minidrop.layers.loss_settings import (
    LOSS_FIELDS,
    class_weights,
    label_smoothing,
    labels_that_count,
    loss_settings,
)

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("SoftmaxWithLoss")
class SoftmaxWithLoss(Layer):
    """loss = - mean log softmax(x)[label]; bottoms: scores, labels.

    With a label_smoothing s a label counts 1 - s, and the mean of - log softmax(x) over all classes s. With
    class_weight - log softmax(x) of each class is multiplied by its weight, and the mean (VALID) is that by
    the weights of the labels, as torch.nn.functional.cross_entropy has it.
    Optional second top: the probabilities softmax(x).
    """

    bottoms = (2, 2)
    tops = (1, 2)
    is_loss = True
    reads_loss_param = (*LOSS_FIELDS, "label_smoothing", "class_weight")

    def read_settings(self) -> None:
        self.ignore_label, self.normalization = loss_settings(self.config)
        self.smoothing = label_smoothing(self.config)

    def setup(self, scores: tuple[int, ...], labels: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.axis = checked_axis(self.config.softmax_param.axis, len(scores))
        check_label_shape(scores, labels, self.axis)
        self.places = math.prod(labels)
        weights = class_weights(self.config, scores[self.axis])
        # On the device: a step that is captured cannot send it there.
        self.class_weight = None if weights is None else self.context.backend.asarray(weights,
                                                                                      self.context.dtype)
        self.with_probabilities = len(self.config.top) == 2
        return [(), scores][:len(self.config.top)]

    @property
    def batch_weight(self) -> float:
        """What the last batch's labels that count weigh; reading it waits for the device."""
        if self.class_weight is None or self.normalization != "VALID" or not self.places:
            return labels_that_count(self.label, self.places, self.ignore_label, self.normalization)
        labels = self.label.reshape(-1)
        if self.ignore_label is not None:
            labels = labels[labels != self.ignore_label]
        return float(weight_of_labels(self.class_weight, labels.astype("int64"), None)) / self.places

    def forward(self, x: Tensor, label: Tensor) -> Any:
        self.label = label.data
        value = functions.softmax_cross_entropy(x, label, self.axis, self.ignore_label, self.normalization,
                                                self.smoothing, self.class_weight)
        return (value, functions.softmax(x, self.axis)) if self.with_probabilities else value
