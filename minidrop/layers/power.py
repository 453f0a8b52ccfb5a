"""Power."""

from minidrop import functions
from minidrop.config import decimal
from minidrop.layers.base import Layer, register_layer


@register_layer("Power")
class Power(Layer):
    """y = (shift + scale * x) ** power."""

    elementwise = True

    def __init__(self, config, context):
        super().__init__(config, context)
        settings = self.settings
        self.power, self.scale, self.shift = (decimal(v) for v in (settings.power, settings.scale, settings.shift))
        # Below a power of 1 the slope at 0 is infinite, and dense code would multiply it by a mask of 0.
        self.zero_preserving = self.shift == 0 and self.power >= 1
        self.has_poles = self.power < 0 or self.power != int(self.power)

    def forward(self, x):
        return functions.power(x, self.power, self.scale, self.shift)
