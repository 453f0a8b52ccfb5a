"""Sigmoid."""

from minidrop import functions
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass


@register_layer("Sigmoid")
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)). f(0) = 1/2, so dropped units must be put back before it."""


    def flow(self, shapes):
        return [Pass(activation="sigmoid")]

    def forward(self, x):
        return x if self.plan.done else functions.sigmoid(x)
