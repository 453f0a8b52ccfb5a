"""Layers with matrices of weights: products, convolutions, rows that are looked up."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.apps.onnx.writer import LayerWriter, NotExportable, exports, fixed


@exports("InnerProduct", "DropConnect")
def inner_product(to: LayerWriter, layer: Any, x: str) -> str:
    weight, bias = to.parameter("weight"), to.parameter("bias") if to.has("bias") else ""
    if layer.axis == 1:
        if layer.flattens:
            x = to("Flatten", x, axis=1)
        return to("Gemm", x, weight, bias, transB=int(not layer.transpose))
    x = to.reshape(x, to.bottoms[0], (*to.bottoms[0][:layer.axis], layer.inputs))
    return to.product(x, weight, bias, layer.transpose)


@exports("Embed")
def embed(to: LayerWriter, layer: Any, x: str) -> str:
    y = to("Gather", to.parameter("weight"), to.indices(x), axis=0)
    return to("Add", y, to.parameter("bias")) if to.has("bias") else y


def _window(layer):
    """Return what ONNX calls the window of a layer with convolution_param."""
    window = layer.window
    return {"kernel_shape": window.size, "strides": window.stride, "pads": (*window.pad, *window.pad),
            "dilations": window.dilation}


@exports("Convolution", "Deconvolution")
def convolution(to: LayerWriter, layer: Any, *bottoms: str) -> list[str]:
    op = "Conv" if layer.type == "Convolution" else "ConvTranspose"
    weight, bias = to.parameter("weight"), to.parameter("bias") if to.has("bias") else ""
    return [_as_images(to, layer, number, x, lambda x: to(op, x, weight, bias, group=layer.groups,
                                                          **_window(layer)))
            for number, x in enumerate(bottoms)]


@exports("Im2col")
def im2col(to: LayerWriter, layer: Any, x: str) -> str:
    # A convolution whose filter k of a channel picks entry k of the window.
    entries = layer.window.entries
    weight = np.tile(np.eye(entries), (layer.channels, 1)).reshape(-1, 1, *layer.window.size)
    return _as_images(to, layer, 0, x, lambda x: to("Conv", x, to.constant(weight, "windows"),
                                                    group=layer.channels, **_window(layer)))


def _as_images(to, layer, number, x, compute):
    """Return what `compute` makes of images; all axes before that of the channels count them."""
    if len(layer.spatial) > 3:
        raise NotExportable(f"{len(layer.spatial)} spatial axes; runtimes convolve at most 3")
    fixed(to.bottoms[number][layer.axis:], "images")
    if layer.axis == 1:
        return compute(x)
    y = compute(to("Reshape", x, to.integers(-1, layer.channels, *layer.spatial)))
    return to.reshape(y, (), to.tops[number])
