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

    @property
    def as_epilogue(self):
        return None if self.negative_slope else "relu"

    def forward(self, x):
        return x if self.passes_on else functions.relu(x, self.negative_slope)
