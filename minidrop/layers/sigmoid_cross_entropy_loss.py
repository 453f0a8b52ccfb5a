"""SigmoidCrossEntropyLoss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.errors import ShapeError
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.loss_settings import LOSS_FIELDS, labels_that_count, loss_settings

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Layer):
    """Cross-entropy of targets in [0, 1] under sigmoid(x).

    It is divided by the batch size unless loss_param sets another normalization.

    Optional second top: the probabilities sigmoid(x).
    """

    bottoms = (2, 2)
    tops = (1, 2)
    is_loss = True
    reads_loss_param = LOSS_FIELDS

    def setup(self, scores: tuple[int, ...], targets: tuple[int, ...]) -> list[tuple[int, ...]]:
        if math.prod(scores) != math.prod(targets):
            raise ShapeError(f"bottoms of one size expected, got {tuple(scores)} and {tuple(targets)}")
        self.ignore_label, self.normalization = loss_settings(self.config, default="BATCH_SIZE")
        self.places = math.prod(targets)
        self.with_probabilities = len(self.config.top) == 2
        return [(), scores][:len(self.config.top)]

    @property
    def batch_weight(self) -> float:
        """What the last batch's labels that count weigh; reading it waits for the device."""
        return labels_that_count(self.label, self.places, self.ignore_label, self.normalization)

    def forward(self, x: Tensor, target: Tensor) -> Any:
        self.label = target.data
        value = functions.sigmoid_cross_entropy(x, target, self.ignore_label, self.normalization)
        return (value, functions.sigmoid(x)) if self.with_probabilities else value
