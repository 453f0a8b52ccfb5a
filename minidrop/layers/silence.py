"""Silence."""

from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass


@register_layer("Silence")
class Silence(Layer):
    """Reads blobs so that they are no outputs of the net; computes nothing."""

    bottoms = (1, None)
    tops = (0, 0)

    def setup(self, *shapes):
        return []

    def flow(self, shapes):
        return [Pass(i, None) for i in range(len(shapes))]

    def forward(self, *bottoms):
        return ()
