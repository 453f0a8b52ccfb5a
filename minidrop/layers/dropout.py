"""Dropout: every element on its own. The products around it stay whole."""

from minidrop import functions, streams
from minidrop.config import decimal
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, register_layer


@register_layer("Dropout")
class Dropout(Layer):
    """y = x * m / (1 - dropout_ratio), m ~ Bernoulli(1 - dropout_ratio); in phase TEST y = x.

    The mask is a function of (seed, layer, iteration, element), the same on every device.
    """

    def setup(self, shape):
        self.rate = decimal(self.settings.dropout_ratio)
        if not 0 <= self.rate < 1:
            raise ConfigError(f"dropout_ratio must lie in [0, 1), got {self.rate:g}")
        self.counter = 0
        return [shape]

    def draw(self, counter):
        self.counter = counter

    def forward(self, x):
        if not self.training:
            return x
        key = streams.key(self.context.seed, "dropout", self.name, self.counter)
        return functions.dropout(x, self.rate, key)
