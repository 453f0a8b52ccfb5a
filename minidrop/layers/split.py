"""Split."""

from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass


@register_layer("Split")
class Split(Layer):
    """Every top is the bottom; gradients add up. Only for old files: any blob may have several readers."""

    tops = (1, None)

    def setup(self, shape):
        return [shape] * len(self.config.top)

    def flow(self, shapes):
        return [Pass(top=top, keeps_zero=True) for top in range(len(self.config.top))]

    def forward(self, x):
        return (x,) * len(self.config.top)
