"""Layers of images: pooling as Caffe rounds it, pyramids, normalization of neighbours, patches."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop import functions
from minidrop.apps.onnx.writer import LayerWriter, exports, fixed


class Windows:
    """The windows of pooling in images of one size; the last ones may reach over the end.

    ONNX counts windows by its padding: at the end there is as much of it as the last window needs.
    """

    def __init__(self, window: Any, spatial: tuple[int, ...], ceil: bool):
        self.window = window
        self.places = functions.pooled_places(spatial, window, ceil)
        sides = list(zip(spatial, self.places, window.size, window.stride, window.pad, strict=True))
        ends = [max(0, (count - 1) * stride + size - n - pad) for n, count, size, stride, pad in sides]
        self.attributes = {"kernel_shape": window.size, "strides": window.stride,
                           "pads": (*window.pad, *ends)}
        # How many entries of each window lie in the image padded on both sides, by which Caffe divides.
        inside = [np.minimum(np.arange(count) * stride + size, n + 2 * pad) - np.arange(count) * stride
                  for n, count, size, stride, pad in sides]
        self.shares = window.entries / np.multiply.outer(*inside)

    def largest(self, to: LayerWriter, x: str) -> str:
        """Return the largest entry of each window."""
        return to("MaxPool", x, **self.attributes)

    def sums(self, to: LayerWriter, x: str) -> str:
        """Return the sums of the windows, divided by their entries."""
        return to("AveragePool", x, count_include_pad=1, **self.attributes)

    def means(self, to: LayerWriter, x: str) -> str:
        """Return the mean of each window, of as many entries as Caffe counts."""
        y = self.sums(to, x)
        return y if (self.shares == 1).all() else to("Mul", y, to.constant(self.shares, "shares"))

    def weighted(self, to: LayerWriter, x: str) -> str:
        """Return sum x^2 / sum x, 0 where the sum is not positive."""
        total, squares = self.sums(to, x), self.sums(to, to("Mul", x, x))
        nothing = to("LessOrEqual", total, to.constant(0))
        share = to("Div", squares, to("Where", nothing, to.constant(1), total))
        return to("Where", nothing, to.constant(0), share)

    def pooled(self, to: LayerWriter, x: str, method: str) -> str:
        """Return what a method of Caffe's makes of each window, in phase TEST."""
        return {"MAX": self.largest, "AVE": self.means, "STOCHASTIC": self.weighted}[method](to, x)


@exports("Pooling")
def pooling(to: LayerWriter, layer: Any, x: str) -> str | list[str]:
    spatial = fixed(to.bottoms[0][2:], "images")
    if layer.settings.global_pooling and layer.method != "STOCHASTIC" and len(to.tops) == 1:
        return to("GlobalMaxPool" if layer.method == "MAX" else "GlobalAveragePool", x)
    windows = Windows(layer.window, spatial, layer.ceil)
    if len(to.tops) == 1:
        return windows.pooled(to, x, layer.method)
    y, places = to.several("MaxPool", 2, x, **windows.attributes)
    # ONNX counts through the whole batch, Caffe through one image.
    own = to("Mod", places, to.constant(int(np.prod(spatial)), "places", np.int64))
    return [y, to.floats(own)]


@exports("SPP")
def pyramid(to: LayerWriter, layer: Any, x: str) -> str:
    spatial = fixed(to.bottoms[0][2:], "images")
    levels = [Windows(window, spatial, True).pooled(to, x, layer.method)
              for window in layer.windows((1, 1, *spatial))]
    if len(levels) == 1:
        return levels[0]
    return to("Concat", *(to("Flatten", y, axis=1) for y in levels), axis=1)


@exports("LRN")
def lrn(to: LayerWriter, layer: Any, x: str) -> str:
    size, shape = layer.settings.local_size, to.bottoms[0]
    if layer.within:
        sums = to("AveragePool", to("Mul", x, x), kernel_shape=[size, size], pads=[size // 2] * 4,
                  count_include_pad=1)
        return to("Mul", x, to("Pow", to.affine(sums, layer.alpha, layer.k), to.constant(-layer.beta)))
    settings = {"size": size, "alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
    if len(shape) == 4:
        return to("LRN", x, **settings)
    flat = to("LRN", to("Reshape", x, to.integers(0, 0, -1, 1)), **settings)     # runtimes take images alone
    return to.reshape(flat, (*shape[:2], -1, 1), shape)


@exports("Patches")
def patches(to: LayerWriter, layer: Any, x: str) -> str:
    size, (images, *rest) = layer.settings.patch_size, to.bottoms[0]
    channels, height, width = fixed(tuple(rest), "images")
    cut = (images, channels, height // size, size, width // size, size)
    x = to("Transpose", to.reshape(x, to.bottoms[0], cut), perm=[2, 4, 0, 1, 3, 5])
    return to.reshape(x, tuple(cut[i] for i in (2, 4, 0, 1, 3, 5)), to.tops[0])
