"""Sums, means, extremes over axes, as NumPy and PyTorch have them; of the dense value of a compact tensor.

Everywhere `axis` is one axis, several, or None for all; `dim` and `keepdim` are PyTorch's names of arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.errors import ShapeError, TensorError
from minidrop.functions.binary import divide, subtract
from minidrop.functions.checks import checked_axes, checked_axis
from minidrop.functions.operands import (
    AXIS,
    DIM,
    KEEPDIMS,
    Axes,
    as_float,
    chosen_axes,
    chosen_axis,
    real_operand,
    values_of,
)
from minidrop.functions.unary import square

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


class _Reduction(Function):
    """Base class: y has length 1 along `axes` of x, or lacks them unless `keepdims`."""

    __slots__ = ("axes", "keepdims", "shape", "dtype")
    shape: tuple[int, ...]      # of x
    dtype: np.dtype

    def __init__(self, axes: tuple[int, ...], keepdims: bool):
        self.axes, self.keepdims = axes, keepdims

    def kept_axes(self, y: np.ndarray) -> np.ndarray:
        """Return an array like y with the axes of x."""
        return y.reshape(tuple(1 if i in self.axes else n for i, n in enumerate(self.shape)))

    def repeated(self, backend: Backend, g: np.ndarray) -> np.ndarray:
        """Return an array like y, repeated to the shape of x."""
        out = backend.empty(self.shape, self.dtype)
        out[...] = self.kept_axes(g)
        return out


class Sum(_Reduction):
    """y = sum of x over axes, divided by `count` if that is given: the mean. Integers are summed as int64."""

    __slots__ = ("count",)

    def __init__(self, axes: tuple[int, ...], keepdims: bool, count: int | None = None):
        self.axes, self.keepdims, self.count = axes, keepdims, count

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.shape, self.dtype = x.shape, x.dtype
        dtype = x.dtype
        if dtype.kind != "f":
            dtype = np.dtype(np.int64) if self.count is None else as_float(dtype)
        y = x.sum(axis=self.axes, keepdims=self.keepdims, dtype=dtype)
        return y if self.count is None else y / dtype.type(self.count)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return self.repeated(backend, gy if self.count is None else gy / gy.dtype.type(self.count))


class Extreme(_Reduction):
    """y = the largest entry of x over axes, or the smallest. Equal ones share the gradient, as in amax."""

    __slots__ = ("largest", "x", "y")

    def __init__(self, axes: tuple[int, ...], keepdims: bool, largest: bool):
        super().__init__(axes, keepdims)
        self.largest = largest

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.shape, self.dtype, self.x = x.shape, x.dtype, x
        self.y = (x.max if self.largest else x.min)(axis=self.axes, keepdims=self.keepdims)
        return self.y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        chosen = (self.x == self.kept_axes(self.y)).astype(gy.dtype)
        return chosen * (self.kept_axes(gy) / chosen.sum(axis=self.axes, keepdims=True))


class Norm(_Reduction):
    """y = sqrt(sum x^2) over axes, with the derivative x / y, 0 where y is 0."""

    __slots__ = ("x", "y")

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.shape, self.dtype, self.x = x.shape, x.dtype, x
        self.y = backend.xp.sqrt((x * x).sum(axis=self.axes, keepdims=self.keepdims))
        return self.y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        zero = self.y == 0
        return self.x * self.kept_axes(gy * (~zero).astype(gy.dtype) / (self.y + zero.astype(gy.dtype)))


class CumSum(Function):
    """y_i = x_0 + ... + x_i along an axis."""

    __slots__ = ("axis",)

    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return backend.xp.cumsum(x, axis=self.axis)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        xp = backend.xp
        return xp.ascontiguousarray(xp.flip(xp.cumsum(xp.flip(gy, self.axis), axis=self.axis), self.axis))


class LogSumExp(_Reduction):
    """y = log sum exp(x) over axes, shifted by the largest entry, so that it cannot overflow."""

    __slots__ = ("share",)

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        xp, self.shape, self.dtype = backend.xp, x.shape, x.dtype
        largest = x.max(axis=self.axes, keepdims=True)
        shift = xp.where(xp.isfinite(largest), largest, x.dtype.type(0))
        with np.errstate(divide="ignore", invalid="ignore"):        # of nothing but -inf: shares of NaN
            self.share = xp.exp(x - shift)
            total = self.share.sum(axis=self.axes, keepdims=True)
            y = shift + xp.log(total)
            self.share /= total
        return y if self.keepdims else y.reshape([n for i, n in enumerate(x.shape) if i not in self.axes])

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return self.kept_axes(gy) * self.share


def sum(x: Any, axis: Axes = None, keepdims: bool = False, *, dim: Axes = AXIS,
        keepdim: bool = KEEPDIMS) -> Tensor:
    """Return the sum over axes; of integers and truth values as int64."""
    axis, keepdims = chosen_axes("sum", axis, keepdims, dim, keepdim)
    x = values_of(x)
    return Sum(checked_axes(axis, x.ndim), keepdims).apply(x)


def mean(x: Any, axis: Axes = None, keepdims: bool = False, *, dim: Axes = AXIS,
         keepdim: bool = KEEPDIMS) -> Tensor:
    """Return the mean over axes; of integers as float32. Raises ShapeError if there are no entries."""
    axis, keepdims = chosen_axes("mean", axis, keepdims, dim, keepdim)
    x = values_of(x)
    axes, count = _some(x, axis, "mean")
    return Sum(axes, keepdims, count).apply(x)


def var(x: Any, axis: Axes = None, *, keepdims: bool = False, correction: float = 1, dim: Axes = AXIS,
        keepdim: bool = KEEPDIMS) -> Tensor:
    """Return sum (x - mean)^2 / (n - correction) over axes of n entries.

    correction: 1, PyTorch's default, estimates the variance of what the entries were drawn from; 0, NumPy's,
    gives that of the entries. Raises ShapeError unless n > correction.
    """
    axis, keepdims = chosen_axes("var", axis, keepdims, dim, keepdim)
    x = values_of(x)
    axes, count = _spread(x, axis, correction)
    deviation = square(subtract(x, mean(x, axes, True)))
    return divide(sum(deviation, axes, keepdims), float(count - correction))


def std(x: Any, axis: Axes = None, *, keepdims: bool = False, correction: float = 1, dim: Axes = AXIS,
        keepdim: bool = KEEPDIMS) -> Tensor:
    """Return the square root of `var`, with the derivative 0 where all entries are equal, as in PyTorch."""
    axis, keepdims = chosen_axes("std", axis, keepdims, dim, keepdim)
    x = values_of(x)
    axes, count = _spread(x, axis, correction)
    deviation = subtract(x, mean(x, axes, True))
    return divide(norm(deviation, axis=axes, keepdims=keepdims), math.sqrt(count - correction))


def max(x: Any, *given: NoReturn, axis: Axes = None, keepdims: bool = False, **named: NoReturn) -> Tensor:
    """Return the largest entry over axes; equal ones share the gradient. axis, keepdims: by name alone."""
    return _extreme("max", x, axis, keepdims, given, named)


def min(x: Any, *given: NoReturn, axis: Axes = None, keepdims: bool = False, **named: NoReturn) -> Tensor:
    """Return the smallest entry over axes; equal ones share the gradient. axis, keepdims: by name alone."""
    return _extreme("min", x, axis, keepdims, given, named)


def amax(x: Any, axis: Axes = None, keepdims: bool = False, *, dim: Axes = AXIS,
         keepdim: bool = KEEPDIMS) -> Tensor:
    """Return the largest entry over axes: `max` under another of its names."""
    axis, keepdims = chosen_axes("amax", axis, keepdims, dim, keepdim)
    return max(x, axis=axis, keepdims=keepdims)


def amin(x: Any, axis: Axes = None, keepdims: bool = False, *, dim: Axes = AXIS,
         keepdim: bool = KEEPDIMS) -> Tensor:
    """Return the smallest entry over axes: `min` under another of its names."""
    axis, keepdims = chosen_axes("amin", axis, keepdims, dim, keepdim)
    return min(x, axis=axis, keepdims=keepdims)


def _extreme(name, x, axis, keepdims, given, named):
    if given or named:      # PyTorch returns a pair then; unpacking a tensor would give another, silently
        raise TensorError(f"{name}(x, axis=...) takes axis and keepdims, by name, and returns the entries "
                          f"alone; their places are arg{name}(x, axis=...), and the {name}imum of two "
                          f"tensors is {name}imum(a, b)")
    axis, keepdims = chosen_axes(name, axis, keepdims)
    x = values_of(x)
    axes, _ = _some(x, axis, f"{name}imum")
    return Extreme(axes, keepdims, name == "max").apply(x)


def logsumexp(x: Any, axis: Axes = None, keepdims: bool = False, *, dim: Axes = AXIS,
              keepdim: bool = KEEPDIMS) -> Tensor:
    """Return log sum exp(x) over axes, without overflow."""
    axis, keepdims = chosen_axes("logsumexp", axis, keepdims, dim, keepdim)
    x = values_of(real_operand(x))
    axes, _ = _some(x, axis, "logsumexp")
    return LogSumExp(axes, keepdims).apply(x)


@overload
def cumsum(x: Any, axis: int) -> Tensor: ...
@overload
def cumsum(x: Any, *, dim: int) -> Tensor: ...
def cumsum(x: Any, axis: int = DIM, *, dim: int = AXIS) -> Tensor:
    """Return the sums of the entries up to each one along an axis."""
    axis = chosen_axis("cumsum", axis, dim, DIM)
    x = values_of(x)
    return CumSum(checked_axis(axis, x.ndim)).apply(x)


def norm(x: Any, *given: NoReturn, axis: Axes = None, keepdims: bool = False, dim: Axes = AXIS,
         keepdim: bool = KEEPDIMS, **named: NoReturn) -> Tensor:
    """Return the Euclidean norm over axes, sqrt(sum x^2). axis, keepdims: by name alone, else TensorError."""
    if given or named:      # NumPy's and PyTorch's order comes first: x.norm(1) is sum |x| there
        raise TensorError("norm(x, axis=...) is the Euclidean norm, and takes axis and keepdims by name; "
                          "that of order 1 is x.abs().sum(axis), that of order infinity x.abs().amax(axis)")
    axis, keepdims = chosen_axes("norm", axis, keepdims, dim, keepdim)
    x = values_of(real_operand(x))
    return Norm(checked_axes(axis, x.ndim), keepdims).apply(x)


def places(x: Tensor, axis: int | None, keepdims: bool, dim: int | None, keepdim: bool, name: str) -> Tensor:
    """Return argmax or argmin as int64, without gradient; of equal entries the first. axis None: of all."""
    axis, keepdims = chosen_axes(name, axis, keepdims, dim, keepdim)
    x, xp = values_of(x), x.backend.xp
    axis = None if axis is None else checked_axis(axis, x.ndim)
    whole = axis is None
    if not (x.size if axis is None else x.shape[axis]):
        raise ShapeError(f"{name}: shape {x.shape} has no entries along axis {axis}")
    found = getattr(xp, name)(x.data, axis=axis)
    if keepdims:
        found = xp.asarray(found).reshape([1 if whole or i == axis else n
                                           for i, n in enumerate(x.shape)])
    return Tensor(xp.asarray(found, np.int64), backend=x.backend)


def _spread(x, axis, correction):
    """Return the axes of a variance, and how many entries lie along them."""
    axes, count = _some(x, axis, "variance")
    if count <= correction:
        raise ShapeError(f"a variance of {count} entr{'y' if count == 1 else 'ies'} with correction "
                         f"{correction:g} divides by {count - correction:g}; pass correction=0")
    return axes, count


def _some(x, axis, what):
    """Return axes, and how many entries lie along them; ShapeError for none."""
    shape = x.shape
    axes = checked_axes(axis, len(shape))
    count = math.prod([shape[one] for one in axes])
    if not count:
        raise ShapeError(f"shape {shape} has no entries along axes {axes} to take a {what} of")
    return axes, count
