"""ReLU."""

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, register_layer


@register_layer("ReLU")
class ReLU(Layer):
    """y = max(x, 0) + negative_slope * min(x, 0)."""

    elementwise = True
    zero_preserving = True

    def forward(self, x):
        return functions.relu(x, decimal(self.settings.negative_slope))
