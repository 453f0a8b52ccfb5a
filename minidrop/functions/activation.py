"""Elementwise functions of one tensor. Its kept set is passed on where f(0) = 0; see `real_operand`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function
from minidrop.config.numbers import real_number
from minidrop.errors import TensorError
from minidrop.functions.operands import real_operand

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class ReLU(Function):
    """y = max(x, 0) + negative_slope * min(x, 0)."""

    __slots__ = ("negative_slope", "x", "y")
    kept_rule = "same"

    def __init__(self, negative_slope: float = 0.0):
        self.negative_slope = negative_slope

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        y = backend.relu(x)
        if self.negative_slope:
            self.x = x
            y += backend.xp.minimum(x, 0) * x.dtype.type(self.negative_slope)
        else:
            self.y = y
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        if self.negative_slope:
            slope = gy.dtype.type(self.negative_slope)
            return backend.xp.where(self.x > 0, gy, gy * slope)
        return backend.relu_gradient(gy, self.y)


class Sigmoid(Function):
    """y = 1 / (1 + exp(-x)), computed with tanh so that it cannot overflow."""

    __slots__ = ("y",)
    kept_rule = "same"

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.y = backend.activate(x, None, "sigmoid", 1)
        return self.y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.activate_gradient(gy, self.y, "sigmoid", 1)


class TanH(Function):
    """y = tanh(x)."""

    __slots__ = ("y",)
    kept_rule = "same"

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.y = backend.activate(x, None, "tanh", 1)
        return self.y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.activate_gradient(gy, self.y, "tanh", 1)


class Power(Function):
    """y = (shift + scale * x) ** power."""

    __slots__ = ("power", "scale", "shift", "inner")
    kept_rule = "same"

    def __init__(self, power: float = 1.0, scale: float = 1.0, shift: float = 0.0):
        self.power, self.scale, self.shift = power, scale, shift

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        number = x.dtype.type
        self.inner = inner = x * number(self.scale) + number(self.shift)
        return inner if self.power == 1 else inner ** number(self.power)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        number = gy.dtype.type
        if self.power == 1:
            return gy * number(self.scale)
        if self.power == 0 or self.scale == 0:
            return backend.xp.zeros_like(gy)
        return gy * self.inner ** number(self.power - 1) * number(self.power * self.scale)


def relu(x: Any, negative_slope: float = 0.0) -> Tensor:
    """Return max(x, 0) + negative_slope * min(x, 0); without a slope, integers stay integers."""
    if negative_slope:
        real_number("relu: negative_slope", negative_slope, error=TensorError)
    return ReLU(negative_slope).apply(real_operand(x, integers=not negative_slope))


def sigmoid(x: Any, carry: bool = False) -> Tensor:
    """Return 1 / (1 + exp(-x)); carry: see `real_operand`."""
    return Sigmoid().apply(real_operand(x, False, carry))


def tanh(x: Any) -> Tensor:
    """Return tanh(x)."""
    return TanH().apply(real_operand(x))


def power(x: Any, power: float = 1.0, scale: float = 1.0, shift: float = 0.0, carry: bool = False) -> Tensor:
    """Return (shift + scale * x) ** power; carry: see `real_operand`."""
    return Power(power, scale, shift).apply(real_operand(x, shift == 0 and power > 0, carry))
