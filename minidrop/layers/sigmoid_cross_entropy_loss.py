"""SigmoidCrossEntropyLoss."""

import math

from minidrop import functions
from minidrop.errors import ShapeError
from minidrop.layers.base import Layer, loss_normalization, register_layer


@register_layer("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Layer):
    """Cross-entropy of targets in [0, 1] under sigmoid(x), divided by the batch size unless loss_param says otherwise.

    Optional second top: the probabilities sigmoid(x).
    """

    bottoms = (2, 2)
    tops = (1, 2)
    is_loss = True

    def setup(self, scores, targets):
        if math.prod(scores) != math.prod(targets):
            raise ShapeError(f"bottoms of one size expected, got {tuple(scores)} and {tuple(targets)}")
        return [(), scores][:len(self.config.top)]

    def forward(self, x, target):
        loss = self.config.loss_param
        ignore_label = loss.ignore_label if loss.HasField("ignore_label") else None
        value = functions.sigmoid_cross_entropy(x, target, ignore_label, loss_normalization(loss, "BATCH_SIZE"))
        return value if len(self.config.top) == 1 else (value, functions.sigmoid(x))
