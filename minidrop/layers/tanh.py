"""TanH."""

from minidrop import functions
from minidrop.layers.base import Layer, register_layer


@register_layer("TanH")
class TanH(Layer):
    """y = tanh(x)."""

    elementwise = True
    zero_preserving = True

    def forward(self, x):
        return functions.tanh(x)
