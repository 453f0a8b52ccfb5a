"""Convolution: images (N, C, *spatial) with any number of spatial axes."""

from __future__ import annotations

from minidrop import functions
from minidrop.layers.base import register_layer
from minidrop.layers.sliding import ConvolutionLayer


@register_layer("Convolution")
class Convolution(ConvolutionLayer):
    """y[n, o, p] = b[o] + sum over c, k of W[o, c, k] x[n, c, p * stride + k * dilation - pad].

    W (num_output, C / group, *kernel_size) as in Caffe; the output size rounds down. Several bottoms of one
    shape share W and b. A drop of channels below it leaves outputs out, one above it inputs.
    """

    bottoms = (1, None)
    tops = (1, None)
    function = staticmethod(functions.convolution)

    def places_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.fitting_places(shape)
