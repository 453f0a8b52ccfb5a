"""Layers that subtract means and divide by deviations."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.apps.onnx.writer import LayerWriter, exports


@exports("BatchNorm")
def batch_norm(to: LayerWriter, layer: Any, x: str) -> str:
    axes = len(to.bottoms[0])
    if not layer.uses_stored:
        return _standardized(to, x, [axis for axis in range(axes) if axis != 1], layer.eps)
    weight = to.array("scale_factor")[0]
    mean, variance = (to.array(name) / weight if weight else np.zeros_like(to.array(name))
                      for name in ("mean", "variance"))
    if axes == 1:
        return to.affine(to("Sub", x, to.constant(mean, "mean")), (variance + layer.eps).item() ** -0.5)
    return to("BatchNormalization", x, to.constant(np.ones(layer.channels), "ones"),
              to.constant(np.zeros(layer.channels), "zeros"), to.constant(mean, "mean"),
              to.constant(variance, "variance"), epsilon=layer.eps)


@exports("MVN")
def mvn(to: LayerWriter, layer: Any, x: str) -> str:
    axes = range(1 if layer.across else 2, len(to.bottoms[0]))
    if layer.scaled:
        return _standardized(to, x, axes, layer.eps, of_deviation=True)
    return to("Sub", x, to.reduce("ReduceMean", x, axes))


def _standardized(to, x, axes, eps, of_deviation=False):
    """Return (x - mean) / sqrt(variance + eps), or / (deviation + eps)."""
    centred = to("Sub", x, to.reduce("ReduceMean", x, axes))
    variance = to.reduce("ReduceMean", to("Mul", centred, centred), axes)
    divisor = (to.affine(to("Sqrt", variance), shift=eps) if of_deviation
               else to("Sqrt", to.affine(variance, shift=eps)))
    return to("Div", centred, divisor)


@exports("LayerNorm")
def layer_norm(to: LayerWriter, layer: Any, x: str) -> str:
    weight = to.parameter("weight") if to.has("weight") else to.constant(np.ones(layer.shape), "ones")
    bias = to.parameter("bias") if to.has("bias") else ""
    return to("LayerNormalization", x, weight, bias, axis=layer.axis, epsilon=layer.eps)


@exports("RMSNorm")
def rms_norm(to: LayerWriter, layer: Any, x: str) -> str:
    squares = to.reduce("ReduceMean", to("Mul", x, x), range(layer.axis, len(to.bottoms[0])))
    return to("Mul", to("Div", x, to("Sqrt", to.affine(squares, shift=layer.eps))), to.parameter("weight"))
