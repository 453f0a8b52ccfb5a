"""InfogainLoss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.data.binaryproto import read_array
from minidrop.data.sources import find_source
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, check_label_shape, checked_axis, register_layer
from minidrop.layers.loss_settings import LOSS_FIELDS, labels_that_count, loss_settings

if TYPE_CHECKING:
    import numpy as np

    from minidrop.autograd.tensor import Tensor


@register_layer("InfogainLoss")
class InfogainLoss(Layer):
    """loss = - mean of sum_j H[label, j] log softmax(x)_j; bottoms: scores, labels, and H or none.

    Without a third bottom H (classes, classes) is read from `source`, a .binaryproto or .npy file. No
    gradient passes to it. Optional second top: the probabilities softmax(x).
    """

    bottoms = (2, 3)
    tops = (1, 2)
    is_loss = True
    reads_loss_param = LOSS_FIELDS

    def setup(self, scores: tuple[int, ...], labels: tuple[int, ...],
              matrix: tuple[int, ...] | None = None) -> list[tuple[int, ...]]:
        self.axis = checked_axis(self.settings.axis, len(scores))
        check_label_shape(scores, labels, self.axis)
        self.ignore_label, self.normalization = loss_settings(self.config)
        self.places = math.prod(labels)
        if matrix is None:
            self.matrix = self.read_matrix()
            matrix = self.matrix.shape
        classes = scores[self.axis]
        if math.prod(matrix) != classes ** 2:
            raise ShapeError(f"expected an infogain matrix of {classes} x {classes} entries, for the classes "
                             f"on axis {self.axis}, got one of shape {tuple(matrix)}")
        return [(), scores][:len(self.config.top)]

    def read_matrix(self) -> np.ndarray:
        """Return the matrix of `source`, on the device: a step that is captured cannot send it there."""
        source = self.settings.source
        if not source:
            raise ConfigError("infogain_loss_param needs a source, the file of the matrix, or the layer a "
                              "third bottom")
        path = find_source(source, self.context.config_path, kind="matrix")
        return self.context.backend.asarray(read_array(path), self.context.dtype)

    @property
    def batch_weight(self) -> float:
        """What the last batch's labels that count weigh; reading it waits for the device."""
        return labels_that_count(self.label, self.places, self.ignore_label, self.normalization)

    def forward(self, x: Tensor, label: Tensor, matrix: Tensor | None = None) -> Any:
        self.label = label.data
        value = functions.infogain_loss(x, label, self.matrix if matrix is None else matrix, self.axis,
                                        self.ignore_label, self.normalization)
        return (value, functions.softmax(x, self.axis)) if len(self.config.top) == 2 else value
