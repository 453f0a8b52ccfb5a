"""ReLU."""

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass


@register_layer("ReLU")
class ReLU(Layer):
    """y = max(x, 0) + negative_slope * min(x, 0)."""


    def __init__(self, config, context):
        super().__init__(config, context)
        self.negative_slope = decimal(self.settings.negative_slope)

    def flow(self, shapes):
        return [Pass(keeps_zero=True, activation="" if self.negative_slope else "relu")]

    def forward(self, x):
        return x if self.plan.done else functions.relu(x, self.negative_slope)
