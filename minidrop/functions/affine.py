"""Learned factors, biases and slopes, one for each channel or along any axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import KeptError, ShapeError
from minidrop.functions.along import Along, each_group
from minidrop.functions.operands import real_operand

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class Affine(Function):
    """y = x * factor + bias, which cover the axes of x from `axis` on; one of both may be missing.

    x of any shape, compact on any axis, then the factor if `scales`, then the bias if any: dense, of one
    shape, that of the axes they cover. Raises ShapeError, KeptError.
    """

    __slots__ = ("axis", "scales", "along", "x", "factor")
    kept_rule = "native"

    def __init__(self, axis: int, scales: bool):
        self.axis, self.scales = axis, scales

    def forward(self, backend: Backend, x: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
        self.output_kept = self.input_kept[0]
        if any(kept is not None for kept, _ in self.input_kept[1:]):
            raise KeptError("affine needs all of factor and bias; call functions.expand on them first")
        if len({parameter.shape for parameter in parameters}) != 1:
            raise ShapeError(f"affine: factor and bias of one shape expected, got "
                             f"{', '.join(str(parameter.shape) for parameter in parameters)}")
        self.along = Along(x.shape, self.axis, parameters[0].shape, *self.input_kept[0])
        own = [self.along.take(backend, parameter) for parameter in parameters]
        self.x = self.factor = None
        if self.scales:
            self.x, self.factor = x, own[0]
        bias = own[-1] if len(own) > self.scales else None
        return backend.transform_channels(x.reshape(self.along.view), None, self.factor,
                                          bias).reshape(x.shape)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        along, g = self.along, gy.reshape(self.along.view)
        gx = gfactor = gbias = None
        if self.x is not None and self.factor is not None and len(wanted) == 3 and all(wanted):
            gx, *own = backend.scale_gradients(g, self.x.reshape(along.view), self.factor)     # in one pass
            return gx.reshape(gy.shape), *(along.gradient(backend, one) for one in own)
        if wanted[0]:
            gx = backend.transform_channels(g, None, self.factor).reshape(gy.shape)
        if self.x is not None and wanted[1]:
            gfactor = along.gradient(backend, backend.channel_products(g, self.x.reshape(along.view)))
        if len(wanted) > 1 + self.scales and wanted[-1]:
            gbias = along.gradient(backend, backend.channel_sums(g))
        return (gx, *[gfactor] * self.scales, gbias)[:len(wanted)]


class PReLU(Function):
    """y = max(x, 0) + slope * min(x, 0) with a slope for each entry of axis 1, or one, of shape ().

    The gradient at 0 is that of the negative side, as in Caffe. Source: He et al. 2015. Raises ShapeError,
    KeptError.
    """

    __slots__ = ("along", "x", "slope")
    kept_rule = "native"

    def forward(self, backend: Backend, x: np.ndarray, slope: np.ndarray) -> np.ndarray:
        xp, self.output_kept = backend.xp, self.input_kept[0]
        self.along = Along(x.shape, slope.ndim, slope.shape, *self.input_kept[0])
        self.x, self.slope = x.reshape(self.along.view), self.along.take(backend, slope)
        y = backend.transform_channels(xp.minimum(self.x, 0), None, self.slope)
        y += xp.maximum(self.x, 0)
        return y.reshape(x.shape)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        xp, g = backend.xp, gy.reshape(self.along.view)
        gx = gslope = None
        if wanted[0]:
            gx = xp.where(self.x > 0, g, backend.transform_channels(g, None, self.slope)).reshape(gy.shape)
        if wanted[1]:
            gslope = self.along.gradient(backend, backend.channel_products(g, xp.minimum(self.x, 0)))
        return gx, gslope


def affine(x: Tensor, factor: Tensor | None = None, bias: Tensor | None = None, axis: int = 1,
           carry: bool = False) -> Tensor:
    """Return x * factor + bias, which cover the axes of x from `axis` on; see `Affine`.

    carry: pass a kept set of x on although there is a bias, see `real_operand`.
    """
    parameters = [one for one in (factor, bias) if one is not None]
    if not parameters:
        return x
    axis %= max(1, x.ndim)
    x = real_operand(x, bias is None, carry)
    return each_group(lambda part: Affine(axis, factor is not None).apply(part, *parameters), x, axis,
                      parameters[0].ndim)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Return max(x, 0) + slope * min(x, 0), slope (channels,) along axis 1, or of shape ()."""
    return each_group(lambda part: PReLU().apply(part, slope), x, 1, slope.ndim)
