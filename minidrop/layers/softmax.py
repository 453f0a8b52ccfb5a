"""Softmax."""

from minidrop import functions
from minidrop.layers.base import Layer, checked_axis, register_layer


@register_layer("Softmax")
class Softmax(Layer):
    """y_i = exp(x_i) / sum_j exp(x_j) along `axis`."""

    def setup(self, shape):
        self.axis = checked_axis(self.settings.axis, len(shape))
        return [shape]

    def forward(self, x):
        return functions.softmax(x, self.axis)
