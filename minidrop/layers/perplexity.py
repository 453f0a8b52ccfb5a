"""Perplexity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import Layer, check_label_shape, checked_axis, register_layer
from minidrop.layers.loss_settings import loss_settings

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Perplexity")
class Perplexity(Layer):
    """exp(- mean log softmax(x)[label]) over the labels that are not ignore_label; bottoms: scores, labels.

    Over test batches the log-likelihoods are averaged first, each label with the same weight.
    """

    bottoms = (2, 2)
    averages = "geometric"
    learnable_tops = 0
    reads_loss_param = ("ignore_label",)

    def setup(self, scores: tuple[int, ...], labels: tuple[int, ...]) -> list[tuple]:
        self.axis = checked_axis(self.config.softmax_param.axis, len(scores))
        check_label_shape(scores, labels, self.axis)
        self.ignore_label, _ = loss_settings(self.config)
        return [()]

    @property
    def batch_weight(self) -> int:
        """The number of the last batch's labels that count; reading it waits for the device."""
        return self.label.size if self.ignore_label is None else int((self.label != self.ignore_label).sum())

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.label = label.data
        return functions.perplexity(x, label, self.axis, self.ignore_label)
