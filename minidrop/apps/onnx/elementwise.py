"""Layers that compute each entry on its own, and sums, products and maxima of equal blobs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidrop.apps.onnx.writer import LayerWriter, exports


@exports("Dropout", "ApproxDropout", "GaussianDropout")
def identity(to: LayerWriter, layer: Any, x: str) -> str:
    return x                    # in phase TEST


@exports("Split")
def split(to: LayerWriter, layer: Any, x: str) -> list[str]:
    return [x] * len(layer.config.top)


@exports("Silence")
def silence(to: LayerWriter, layer: Any, *bottoms: str) -> list[str]:
    return []


@exports("AbsVal")
def absval(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Abs", x)


@exports("ReLU")
def relu(to: LayerWriter, layer: Any, x: str) -> str:
    return to("LeakyRelu", x, alpha=layer.negative_slope) if layer.negative_slope else to("Relu", x)


@exports("PReLU")
def prelu(to: LayerWriter, layer: Any, x: str) -> str:
    return to("PRelu", x, to.parameter("slope", (*layer.shape, *(1,) * (len(to.bottoms[0]) - 2))
                                       if layer.shape else (1,)))


@exports("ELU")
def elu(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Elu", x, alpha=layer.alpha)


@exports("Sigmoid")
def sigmoid(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Sigmoid", x)


@exports("TanH")
def tanh(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Tanh", x)


@exports("BNLL")
def bnll(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Softplus", x)


@exports("SiLU")
def silu(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Mul", x, to("Sigmoid", x))


@exports("Swish")
def swish(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Mul", x, to("Sigmoid", to.affine(x, layer.beta)))


@exports("GELU")
def gelu(to: LayerWriter, layer: Any, x: str) -> str:
    if layer.settings.approximate == layer.settings.TANH:
        cube = to("Mul", to("Mul", x, x), to.affine(x, 0.044715))
        share = to("Tanh", to.affine(to("Add", x, cube), math.sqrt(2 / math.pi)))
    else:
        share = to("Erf", to.affine(x, math.sqrt(0.5)))
    return to("Mul", to.affine(x, 0.5), to.affine(share, shift=1))


@exports("Clip")
def clip(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Clip", x, to.constant(layer.low), to.constant(layer.high))


@exports("Fill")
def fill(to: LayerWriter, layer: Any, x: str) -> str:
    settings, lengths = layer.settings, to("Shape", x)
    dims = [to.slice(lengths, 0, i, i + 1) if dim == 0 else to.integers(dim)
            for i, dim in enumerate(settings.shape.dim)]

    def filled(number, dims):
        return to("Expand", to.constant(number), to("Concat", *dims, axis=0) if dims else to.integers())

    y = filled(settings.value, dims)
    if not settings.HasField("first"):
        return y
    rest = to("Slice", y, to.integers(1), to.integers(2**31 - 1), to.integers(0))
    return to("Concat", filled(settings.first, [to.integers(1), *dims[1:]]), rest, axis=0)


@exports("Threshold")
def threshold(to: LayerWriter, layer: Any, x: str) -> str:
    return to.floats(to("Greater", x, to.constant(layer.threshold)))


@exports("Power")
def power(to: LayerWriter, layer: Any, x: str) -> str:
    y = to.affine(x, layer.scale, layer.shift)
    return to("Pow", y, to.constant(layer.power)) if layer.power != 1 else y


@exports("Exp")
def exp(to: LayerWriter, layer: Any, x: str) -> str:
    factor = 1.0 if layer.base is None else math.log(layer.base)
    return to("Exp", to.affine(x, factor * layer.scale, factor * layer.shift))


@exports("Log")
def log(to: LayerWriter, layer: Any, x: str) -> str:
    y = to("Log", to.affine(x, layer.scale, layer.shift))
    return y if layer.base is None else to.affine(y, 1 / math.log(layer.base))


@exports("Softmax")
def softmax(to: LayerWriter, layer: Any, x: str) -> str:
    return to("Softmax", x, axis=layer.axis)


@exports("Eltwise")
def eltwise(to: LayerWriter, layer: Any, *bottoms: str) -> str:
    if layer.operation == "MAX":
        return to("Max", *bottoms)
    if layer.operation == "SUM":
        return to("Sum", *(to.affine(x, coeff) for x, coeff
                           in zip(bottoms, layer.coeff or [1.0] * len(bottoms), strict=True)))
    y, *others = bottoms
    for x in others:
        y = to("Mul", y, x)
    return y


@exports("Scale", "Bias")
def affine(to: LayerWriter, layer: Any, x: str, second: str = "") -> str:
    factor_or_bias = "Mul" if layer.type == "Scale" else "Add"
    axes = range(layer.axis + len(layer.shape), len(to.bottoms[0]))     # those behind what is covered
    shape = (*layer.shape, *(1,) * len(axes))
    if not layer.learned:
        second = to.unsqueeze(second, *range(len(to.bottoms[1]), len(to.bottoms[1]) + len(axes)))
    own = "factor" if layer.type == "Scale" else "bias"
    y = to(factor_or_bias, x, second or to.parameter(own, shape))
    if layer.type == "Scale" and to.has("bias"):
        y = to("Add", y, to.parameter("bias", shape))
    return y


@exports("Parameter")
def parameter(to: LayerWriter, layer: Any) -> str:
    return to("Identity", to.parameter("weight", np.shape(to.array("weight"))))
