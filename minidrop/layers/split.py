"""Split."""

from minidrop.layers.base import Layer, register_layer


@register_layer("Split")
class Split(Layer):
    """Every top is the bottom; gradients add up. Only for old files: any blob may have several readers."""

    tops = (1, None)
    reads_kept = True
    keeps_units = True

    def setup(self, shape):
        return [shape] * len(self.config.top)

    def forward(self, x):
        return (x,) * len(self.config.top)
