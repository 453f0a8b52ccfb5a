"""Sigmoid."""

from minidrop import functions
from minidrop.layers.base import Layer, register_layer


@register_layer("Sigmoid")
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)). f(0) = 1/2, so dropped units must be put back before it."""

    elementwise = True
    as_epilogue = "sigmoid"

    def forward(self, x):
        return x if self.passes_on else functions.sigmoid(x)
