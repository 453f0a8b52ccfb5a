"""Silence."""

from minidrop.layers.base import Layer, register_layer


@register_layer("Silence")
class Silence(Layer):
    """Reads blobs so that they are no outputs of the net; computes nothing."""

    bottoms = (1, None)
    tops = (0, 0)
    reads_kept = True
    keeps_units = True

    def setup(self, *shapes):
        return []

    def forward(self, *bottoms):
        return ()
