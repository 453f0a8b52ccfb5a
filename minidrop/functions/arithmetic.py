"""Elementwise functions of several tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import ShapeError

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class WeightedSum(Function):
    """y = sum_i coeff_i x_i."""

    __slots__ = ("coeff",)
    kept_rule = "same"

    def __init__(self, coeff: tuple[float, ...]):
        self.coeff = coeff

    def forward(self, backend: Backend, *xs: np.ndarray) -> np.ndarray:
        _check_shapes("sum", xs)
        total: Any = None
        for c, x in zip(self.coeff, xs, strict=True):
            term = x if c == 1 else x * x.dtype.type(c)
            total = term if total is None else total + term
        return total

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple[np.ndarray, ...]:
        return tuple((gy if c == 1 else gy * gy.dtype.type(c)) if want else None
                     for c, want in zip(self.coeff, wanted, strict=True))


class Product(Function):
    """y = prod_i x_i. The gradient multiplies the other factors, so a factor of zero does no harm."""

    __slots__ = ("xs",)
    kept_rule = "same"

    def forward(self, backend: Backend, *xs: np.ndarray) -> np.ndarray:
        _check_shapes("product", xs)
        self.xs = xs
        return _product(xs)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        return tuple(gy * _product(self.xs[:i] + self.xs[i + 1:]) if want else None
                     for i, want in enumerate(wanted))


class Maximum(Function):
    """y = max_i x_i; of equal inputs the first gets the gradient."""

    __slots__ = ("winner",)
    kept_rule = "same"

    def forward(self, backend: Backend, *xs: np.ndarray) -> np.ndarray:
        _check_shapes("maximum", xs)
        xp = backend.xp
        y, self.winner = xs[0], xp.zeros(xs[0].shape, "int32")
        for i, x in enumerate(xs[1:], 1):
            self.winner = xp.where(x > y, i, self.winner)
            y = xp.maximum(x, y)
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Any) -> tuple[np.ndarray, ...]:
        return tuple(gy * (self.winner == i) if want else None for i, want in enumerate(wanted))


def _check_shapes(what, xs):
    if any(x.shape != xs[0].shape for x in xs):
        raise ShapeError(f"{what}: tensors of one shape expected, got {', '.join(str(x.shape) for x in xs)}")


def _product(xs):
    product = xs[0]
    for x in xs[1:]:
        product = product * x
    return product


def weighted_sum(xs: Sequence[Tensor], coeff: Sequence[float] | None = None) -> Tensor:
    """Return sum_i coeff_i x_i for tensors of one shape."""
    return WeightedSum(tuple(coeff) if coeff else (1.0,) * len(xs)).apply(*xs)


def add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b for tensors of one shape."""
    return weighted_sum((a, b))


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Return a * b for tensors of one shape."""
    return Product().apply(a, b)


def product(xs: Sequence[Tensor]) -> Tensor:
    """Return the elementwise product of tensors of one shape."""
    return Product().apply(*xs)


def maximum(xs: Sequence[Tensor]) -> Tensor:
    """Return the elementwise maximum of tensors of one shape."""
    return Maximum().apply(*xs)
