"""Elementwise functions of several tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import ShapeError

if TYPE_CHECKING:
    from minidrop.autograd.function import Place
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class WeightedSum(Function):
    """y = f(sum_i coeff_i x_i), f: max(., 0) with `relu`, else nothing.

    If all x_i carry one kept set, so does y. Otherwise y is dense, and what an x_i lacks adds nothing there:
    the dense ones are added first, and to them the entries of the others in their places.
    """

    __slots__ = ("coeff", "relu", "places", "y")
    kept_rule = "native"
    places: tuple[Place, ...]
    y: Any

    def __init__(self, coeff: tuple[float, ...], relu: bool = False):
        self.coeff, self.relu = coeff, relu

    def forward(self, backend: Backend, *xs: np.ndarray) -> np.ndarray:
        if all(place == self.input_kept[0] for place in self.input_kept):
            self.output_kept, self.places = self.input_kept[0], ((None, 1),) * len(xs)
        else:
            self.places = self.input_kept
        _check_shapes("sum", [_logical(x, *place) for x, place in zip(xs, self.places, strict=True)])
        terms = [x if c == 1 else x * x.dtype.type(c) for c, x in zip(self.coeff, xs, strict=True)]
        parts = sorted(zip(terms, self.places, strict=True), key=lambda part: part[1][0] is not None)
        total = backend.expand(parts[0][0], *parts[0][1])
        for i, (term, place) in enumerate(parts[1:], 2):
            total = backend.add_kept(total, term, *place, "relu" if self.relu and i == len(parts) else "none")
        y = backend.relu(total) if self.relu and len(parts) == 1 else total
        self.y = y if self.relu else None       # for its own gradient
        return y

    def backward(self, backend: Backend, gy: np.ndarray,
                 wanted: Sequence[bool]) -> tuple[np.ndarray | None, ...]:
        gy = backend.relu_gradient(gy, self.y) if self.relu else gy
        parts = [backend.compact(gy, kept, axis) if want else None
                 for (kept, axis), want in zip(self.places, wanted, strict=True)]
        return tuple(g if g is None or c == 1 else g * g.dtype.type(c)
                     for c, g in zip(self.coeff, parts, strict=True))


class Product(Function):
    """y = prod_i x_i. The gradient multiplies the other factors, so a factor of zero does no harm."""

    __slots__ = ("xs",)
    kept_rule = "same"

    def forward(self, backend: Backend, *xs: np.ndarray) -> np.ndarray:
        _check_shapes("product", [x.shape for x in xs])
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
        _check_shapes("maximum", [x.shape for x in xs])
        xp = backend.xp
        y, self.winner = xs[0], xp.zeros(xs[0].shape, "int32")
        for i, x in enumerate(xs[1:], 1):
            self.winner = xp.where(x > y, i, self.winner)
            y = xp.maximum(x, y)
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Any) -> tuple[np.ndarray | None, ...]:
        return tuple(gy * (self.winner == i) if want else None for i, want in enumerate(wanted))


def _logical(x, kept, axis):
    """Return the shape of an array with the entries that a kept set drops from an axis."""
    if kept is None:
        return x.shape
    return tuple(kept.total if i == axis % x.ndim else n for i, n in enumerate(x.shape))


def _check_shapes(what, shapes):
    if any(shape != shapes[0] for shape in shapes):
        raise ShapeError(f"{what}: tensors of one shape expected, got {', '.join(map(str, shapes))}")


def _product(xs):
    product = xs[0]
    for x in xs[1:]:
        product = product * x
    return product


def weighted_sum(xs: Sequence[Tensor], coeff: Sequence[float] | None = None, relu: bool = False) -> Tensor:
    """Return f(sum_i coeff_i x_i) for tensors of one shape; raises ShapeError for others, and for none.

    f: max(., 0) with `relu`, else nothing.
    """
    if not len(xs):
        raise ShapeError("weighted_sum: expected at least one tensor, got none")
    if coeff and len(coeff) != len(xs):
        raise ShapeError(f"weighted_sum: expected a coefficient for each of {len(xs)} tensors, got "
                         f"{len(coeff)}")
    return WeightedSum(tuple(coeff) if coeff else (1.0,) * len(xs), relu).apply(*xs)


def product(xs: Sequence[Tensor]) -> Tensor:
    """Return the elementwise product of tensors of one shape."""
    return Product().apply(*xs)
