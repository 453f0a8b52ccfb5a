"""Normalization of each step, each record, each place alone: LayerNorm and RMSNorm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import KeptError, ShapeError
from minidrop.functions.along import carried
from minidrop.functions.checks import checked_axis
from minidrop.functions.operands import real_operand

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class RowNorm(Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over the axes of x from `axis` on.

    x of any shape, compact on an axis before `axis` or not at all; then the weight if `weighted`, and the
    bias if any, of the shape of those axes. centred: False takes 0 for the mean, so that the variance is the
    mean of x^2, as in RMSNorm. Sources: Ba et al. 2016; Zhang and Sennrich 2019. Raises ShapeError,
    KeptError.
    """

    __slots__ = ("axis", "eps", "centred", "weighted", "x", "mean", "factor", "weight")
    kept_rule = "native"

    def __init__(self, axis: int, eps: float, centred: bool, weighted: bool):
        self.axis, self.eps, self.centred, self.weighted = axis, eps, centred, weighted

    def forward(self, backend: Backend, x: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
        self.output_kept = carried(self, x.ndim, range(self.axis),
                                   f"takes its means over the axes from {self.axis} on")
        if any(kept is not None for kept, _ in self.input_kept[1:]):
            raise KeptError("a norm needs all of weight and bias; call functions.expand on them first")
        shape = x.shape[self.axis:]
        for parameter in parameters:
            if parameter.shape != shape:
                raise ShapeError(f"a norm over the axes from {self.axis} on of x {x.shape} needs weight and "
                                 f"bias of shape {shape}, got {parameter.shape}")
        flat = [parameter.reshape(math.prod(shape)) for parameter in parameters]
        self.weight = flat[0] if self.weighted else None
        bias = flat[-1] if len(flat) > self.weighted else None
        self.x = backend.xp.ascontiguousarray(x).reshape(math.prod(x.shape[:self.axis]), math.prod(shape))
        y, self.mean, self.factor = backend.normalize_rows(self.x, self.weight, bias, self.eps, self.centred)
        return y.reshape(x.shape)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        shape = gy.shape[self.axis:]
        gx, gweight, gbias = backend.normalize_rows_gradient(
            backend.xp.ascontiguousarray(gy).reshape(self.x.shape), self.x, self.mean, self.factor,
            self.weight, self.centred)
        found = gx.reshape(gy.shape), *[gweight.reshape(shape)] * self.weighted, gbias.reshape(shape)
        return found[:len(wanted)]


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, axis: int = -1,
               eps: float = 1e-5, carry: bool = False) -> Tensor:
    """Return x with mean 0 and variance 1 over the axes from `axis` on, times weight, plus bias; see
    `RowNorm`, and `real_operand` for carry."""
    given = [one for one in (weight, bias) if one is not None]
    x = real_operand(x, bias is None, carry)
    return RowNorm(checked_axis(axis, x.ndim), eps, True, weight is not None).apply(x, *given)


def rms_norm(x: Tensor, weight: Tensor | None = None, axis: int = -1, eps: float = 1e-6) -> Tensor:
    """Return x divided by the root of its mean square over the axes from `axis` on, times weight; see
    `RowNorm`."""
    given = [] if weight is None else [weight]
    return RowNorm(checked_axis(axis, x.ndim), eps, False, weight is not None).apply(x, *given)
