"""Accuracy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from minidrop import functions
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, check_label_shape, checked_axis, register_layer
from minidrop.layers.loss_settings import labels_that_count

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Accuracy")
class Accuracy(Layer):
    """The share of labels that are among the `top_k` highest scores.

    Optional second top: the accuracy of each class.
    """

    bottoms = (2, 2)
    tops = (1, 2)
    learnable_tops = 0

    def setup(self, scores: tuple[int, ...], labels: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        self.axis = checked_axis(settings.axis, len(scores))
        self.classes = classes = scores[self.axis]
        if not 1 <= settings.top_k <= classes:
            raise ConfigError(f"top_k must lie in 1..{classes}, the number of classes, got {settings.top_k}")
        check_label_shape(scores, labels, self.axis)
        self.places = math.prod(labels)
        self.ignore_label = settings.ignore_label if settings.HasField("ignore_label") else None
        return [(), (classes,)][:len(self.config.top)]

    @property
    def batch_weight(self) -> float:
        """What the last batch's labels that count weigh; reading it waits for the device."""
        return labels_that_count(self.label, self.places, self.ignore_label)

    def weight_of(self, top: int) -> float | np.ndarray:
        """Of the accuracy of each class: how many labels of that class the last batch has."""
        if top == 0:
            return self.batch_weight
        labels = self.context.backend.to_host(self.label).reshape(-1)
        return np.bincount(labels[labels != self.ignore_label].astype(np.intp), minlength=self.classes)

    def forward(self, x: Tensor, label: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        self.label = label.data
        return functions.accuracy(x, label, self.settings.top_k, self.axis, self.ignore_label,
                                  len(self.config.top) == 2)
