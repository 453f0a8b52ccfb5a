"""Deconvolution: the transpose of a convolution."""

from __future__ import annotations

from minidrop import functions
from minidrop.errors import ShapeError
from minidrop.layers.base import register_layer
from minidrop.layers.sliding import ConvolutionLayer


@register_layer("Deconvolution")
class Deconvolution(ConvolutionLayer):
    """y = b + the gradient of a Convolution's input at x: every entry of x adds its window of W to y.

    W (C, num_output / group, *kernel_size) as in Caffe; y has stride (n - 1) + kernel - 2 pad entries on an
    axis.
    """

    bottoms = (1, None)
    tops = (1, None)
    function = staticmethod(functions.deconvolution)
    weight_rows = "inputs"

    def places_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not all(self.spatial):
            raise ShapeError(f"bottom of shape {tuple(shape)} has an axis without entries")
        places = self.window.spread(self.spatial)
        if min(places) < 1:
            raise ShapeError(f"a bottom of shape {tuple(shape)} becomes images of {places}: pad takes all of "
                             f"it; make pad smaller")
        return places

    @property
    def multiplied(self) -> tuple[int, ...]:
        return self.spatial
