"""Elementwise functions of one tensor, as in NumPy and PyTorch; of the dense value of a compact one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.functions.elementwise import clip
from minidrop.functions.operands import real_operand

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


class Formula(NamedTuple):
    """y = value(xp, x), dy / dx = slope(xp, x, y), None for 0; whether f(0) = 0; whether integers stay so."""

    value: Callable[[ModuleType, Any], np.ndarray]
    slope: Callable[[ModuleType, Any, Any], np.ndarray] | None
    keeps_zero: bool
    keeps_integers: bool = False


def _log_of_itself(xp, x):
    """log x, and 0 where x = 0, so that x log x is 0 there."""
    return xp.log(xp.where(x == 0, x.dtype.type(1), x))


FORMULAS = {
    "negative": Formula(lambda xp, x: -x, lambda xp, x, y: xp.full_like(x, -1), True, True),
    "sqrt": Formula(lambda xp, x: xp.sqrt(x), lambda xp, x, y: y.dtype.type(0.5) / y, True),
    "square": Formula(lambda xp, x: x * x, lambda xp, x, y: x + x, True, True),
    "sin": Formula(lambda xp, x: xp.sin(x), lambda xp, x, y: xp.cos(x), True),
    "cos": Formula(lambda xp, x: xp.cos(x), lambda xp, x, y: -xp.sin(x), False),
    "log1p": Formula(lambda xp, x: xp.log1p(x), lambda xp, x, y: 1 / (x + x.dtype.type(1)), True),
    "expm1": Formula(lambda xp, x: xp.expm1(x), lambda xp, x, y: y + y.dtype.type(1), True),
    "sign": Formula(lambda xp, x: xp.sign(x), None, True, True),
    "floor": Formula(lambda xp, x: xp.floor(x), None, True, True),
    "ceil": Formula(lambda xp, x: xp.ceil(x), None, True, True),
    "round": Formula(lambda xp, x: xp.rint(x), None, True, True),
    "x log x": Formula(lambda xp, x: x * _log_of_itself(xp, x),
                       lambda xp, x, y: _log_of_itself(xp, x) + x.dtype.type(1), True),
}


class Unary(Function):
    """y = f(x) for the f of FORMULAS with a name."""

    __slots__ = ("formula", "x", "y")
    kept_rule = "same"

    def __init__(self, name: str):
        self.formula = FORMULAS[name]

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.x = x
        self.y = self.formula.value(backend.xp, x)
        return self.y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        if self.formula.slope is None:
            return backend.xp.zeros_like(gy)
        return gy * self.formula.slope(backend.xp, self.x, self.y)


def unary(name: str, x: Any) -> Tensor:
    """Return f(x) for the formula of a name."""
    formula = FORMULAS[name]
    return Unary(name).apply(real_operand(x, formula.keeps_zero, integers=formula.keeps_integers))


def negative(x: Any) -> Tensor:
    """Return -x."""
    return unary("negative", x)


def sqrt(x: Any) -> Tensor:
    """Return the square root of x; its derivative is infinite at 0, as in PyTorch."""
    return unary("sqrt", x)


def square(x: Any) -> Tensor:
    """Return x^2."""
    return unary("square", x)


def sin(x: Any) -> Tensor:
    """Return the sine of x, in radians."""
    return unary("sin", x)


def cos(x: Any) -> Tensor:
    """Return the cosine of x, in radians."""
    return unary("cos", x)


def log1p(x: Any) -> Tensor:
    """Return log(1 + x), exact for small x."""
    return unary("log1p", x)


def expm1(x: Any) -> Tensor:
    """Return exp(x) - 1, exact for small x."""
    return unary("expm1", x)


def sign(x: Any) -> Tensor:
    """Return -1, 0 or 1 for each entry, with the derivative 0."""
    return unary("sign", x)


def floor(x: Any) -> Tensor:
    """Return the largest whole number not above x, with the derivative 0."""
    return unary("floor", x)


def ceil(x: Any) -> Tensor:
    """Return the smallest whole number not below x, with the derivative 0."""
    return unary("ceil", x)


def clamp(x: Any, min: float | None = None, max: float | None = None) -> Tensor:
    """Return x, numbers outside [min, max] replaced by the nearer bound; None: no bound."""
    return clip(x, min, max)


def round(x: Any) -> Tensor:
    """Return the nearest whole number of each entry, of two the even one, with the derivative 0."""
    return unary("round", x)
