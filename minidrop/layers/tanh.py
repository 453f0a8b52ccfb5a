"""TanH."""

from minidrop import functions
from minidrop.layers.base import Layer, register_layer


@register_layer("TanH")
class TanH(Layer):
    """y = tanh(x)."""

    elementwise = True
    as_epilogue = "tanh"
    zero_preserving = True

    def forward(self, x):
        return x if self.passes_on else functions.tanh(x)
