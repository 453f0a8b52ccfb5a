"""ReLU."""

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, register_layer


@register_layer("ReLU")
class ReLU(Layer):
    """y = max(x, 0) + negative_slope * min(x, 0)."""

    elementwise = True
    zero_preserving = True

    def __init__(self, config, context):
        super().__init__(config, context)
        self.negative_slope = decimal(self.settings.negative_slope)

    def forward(self, x):
        return functions.relu(x, self.negative_slope)
