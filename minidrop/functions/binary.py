"""Elementwise functions of two operands that broadcast: what the operators of Tensor compute.

An operand is a tensor, an array or a number. A number takes the dtype of the tensor beside it, and so do
integers; of two floating-point dtypes the wider one is that of the result. Where an operand carries a kept
set the result is that of its dense value: it carries the set where dropped entries, which are 0, give 0;
otherwise operands are expanded first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.errors import TensorError
from minidrop.functions.arithmetic import Maximum, weighted_sum
from minidrop.functions.dropout import expand
from minidrop.functions.operands import (
    NUMBERS,
    Number,
    as_float,
    as_number,
    as_tensor,
    check_broadcast,
    common_dtype,
    fitted,
    number_dtype,
    unboxed,
)

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


class Binary(Function):
    """z = f(a, b), entry by entry. number: that operand, if it is one, `first` if it stands before the other.

    Subclasses have `formula`, and `slopes`: gz times the derivatives by a and by b, None where not wanted.
    """

    __slots__ = ("number", "first", "a", "b")
    kept_rule = "same"
    symbol = "?"
    real = False            # whether integers are converted before
    both_keep_zero = False  # f(0, 0) = 0
    reads_operands = True   # whether `slopes` does

    def __init__(self, number: Number | None = None, first: bool = False):
        self.number, self.first = number, first

    def formula(self, xp: ModuleType, a: Any, b: Any) -> np.ndarray:
        raise NotImplementedError

    def slopes(self, xp: ModuleType, gz: np.ndarray, first: bool, second: bool) -> tuple:
        raise NotImplementedError

    @staticmethod
    def keeps_zero(number: Number, first: bool) -> bool:
        """Whether f(0, number), or f(number, 0) if it is the `first`, is 0."""
        return False

    def forward(self, backend: Backend, *xs: np.ndarray) -> np.ndarray:
        if self.number is not None:
            x = xs[0]
            dtype = number_dtype(x.dtype, self.number)
            dtype = as_float(dtype) if self.real else dtype
            x = x if x.dtype == dtype else x.astype(dtype)
            if dtype.kind in "iu" and not np.iinfo(dtype).min <= self.number <= np.iinfo(dtype).max:
                raise TensorError(f"{self.symbol}: {dtype} cannot hold {self.number}; convert the tensor "
                                  f"first, as in x.astype('int64')")      # NumPy 1 would take it modulo 2^n
            number = as_number(self.symbol, dtype, self.number)
            a, b = (number, x) if self.first else (x, number)
        else:
            a, b = xs
            dtype = a.dtype
            if dtype != b.dtype or self.real and dtype.kind != "f":
                dtype = common_dtype(dtype, b.dtype)
                dtype = as_float(dtype) if self.real else dtype
                a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
            if a.shape != b.shape:
                check_broadcast(self.symbol, a.shape, b.shape)
        if self.reads_operands:
            self.a, self.b = a, b
        try:
            return self.formula(backend.xp, a, b)
        except (TypeError, ValueError) as error:
            raise TensorError(f"{a.dtype} {self.symbol} {b.dtype}: {error}; convert an operand first, as in "
                              f"x.astype('float32')") from None

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> Any:
        one = self.number is not None
        first, second = (not self.first, self.first) if one else wanted
        found = self.slopes(backend.xp, gy, first, second)
        if one:
            g = found[self.first]
            dtype = self.inputs[0].data.dtype
            return g if g.dtype == dtype else g.astype(dtype)
        return tuple([None if g is None else fitted(g, x.data.shape, x.data.dtype)
                      for g, x in zip(found, self.inputs, strict=True)])


class Add(Binary):
    """a + b."""

    __slots__ = ()
    symbol, both_keep_zero, reads_operands = "+", True, False

    def formula(self, xp: ModuleType, a: Any, b: Any) -> np.ndarray:
        return a + b

    def slopes(self, xp: ModuleType, gz: np.ndarray, first: bool, second: bool) -> tuple:
        return gz if first else None, gz if second else None


class Subtract(Binary):
    """a - b."""

    __slots__ = ()
    symbol, both_keep_zero, reads_operands = "-", True, False

    def formula(self, xp: ModuleType, a: Any, b: Any) -> np.ndarray:
        return a - b

    def slopes(self, xp: ModuleType, gz: np.ndarray, first: bool, second: bool) -> tuple:
        return gz if first else None, -gz if second else None


class Multiply(Binary):
    """a b."""

    __slots__ = ()
    symbol, both_keep_zero = "*", True

    def formula(self, xp: ModuleType, a: Any, b: Any) -> np.ndarray:
        return a * b

    def slopes(self, xp: ModuleType, gz: np.ndarray, first: bool, second: bool) -> tuple:
        return gz * self.b if first else None, gz * self.a if second else None

    @staticmethod
    def keeps_zero(number: Number, first: bool) -> bool:
        return math.isfinite(float(number))


class Divide(Binary):
    """a / b, of integers as float32."""

    __slots__ = ()
    symbol, real = "/", True

    def formula(self, xp: ModuleType, a: Any, b: Any) -> np.ndarray:
        return a / b

    def slopes(self, xp: ModuleType, gz: np.ndarray, first: bool, second: bool) -> tuple:
        return gz / self.b if first else None, -gz * self.a / (self.b * self.b) if second else None

    @staticmethod
    def keeps_zero(number: Number, first: bool) -> bool:
        return not first and number != 0 and not math.isnan(float(number))


class FloorDivide(Binary):
    """The largest whole number that is not above a / b. Its derivatives are 0."""

    __slots__ = ()
    symbol = "//"

    def formula(self, xp: ModuleType, a: Any, b: Any) -> np.ndarray:
        if a.dtype.kind in "iu" and (b == 0).any():
            raise ValueError("whole numbers are divided by 0")
        return self.function_of(xp)(a, b)

    def function_of(self, xp: ModuleType) -> Any:
        """Return the array library's function."""
        return xp.floor_divide

    def slopes(self, xp: ModuleType, gz: np.ndarray, first: bool, second: bool) -> tuple:
        return xp.zeros_like(gz) if first else None, xp.zeros_like(gz) if second else None

    keeps_zero = staticmethod(Divide.keeps_zero)


class Remainder(FloorDivide):
    """a - b (a // b), of the sign of b."""

    __slots__ = ()
    symbol = "%"

    def function_of(self, xp: ModuleType) -> Any:
        return xp.remainder

    def slopes(self, xp: ModuleType, gz: np.ndarray, first: bool, second: bool) -> tuple:
        return gz if first else None, -gz * xp.floor_divide(self.a, self.b) if second else None


class Pow(Binary):
    """a ^ b. Derivatives b a^(b-1), 0 for b = 0, and a^b log a, 0 where a = 0 (PyTorch's)."""

    __slots__ = ("z",)
    symbol = "**"

    def formula(self, xp: ModuleType, a: Any, b: Any) -> np.ndarray:
        if self.number is not None and not self.first and self.number == 2:
            self.z = a * a
        else:
            self.z = xp.power(a, b)
        return self.z

    def slopes(self, xp: ModuleType, gz: np.ndarray, first: bool, second: bool) -> tuple:
        a, b = self.a, self.b
        ga = gb = None
        if first and self.number is not None:
            ga = gz * (a + a) if self.number == 2 else (
                xp.zeros_like(gz) if self.number == 0 else gz * xp.power(a, b - b.dtype.type(1)) * b)
        elif first:
            ga = gz * xp.where(b == 0, b, b * xp.power(a, xp.where(b == 0, b, b - b.dtype.type(1))))
        if second and self.first and self.number is not None:
            gb = gz * self.z * (b.dtype.type(math.log(self.number)) if self.number > 0 else
                                b.dtype.type(0 if self.number == 0 else math.nan))
        elif second:
            gb = gz * self.z * xp.log(xp.where(a == 0, a.dtype.type(1), a))
        return ga, gb

    @staticmethod
    def keeps_zero(number: Number, first: bool) -> bool:
        return not first and bool(number > 0)


class Larger(Binary):
    """max(a, b). Of equal operands each has half of the gradient, as in PyTorch; NaN where one is NaN."""

    __slots__ = ()
    symbol, both_keep_zero = "maximum", True

    def formula(self, xp: ModuleType, a: Any, b: Any) -> np.ndarray:
        return xp.maximum(a, b)

    def ahead(self, a: Any, b: Any) -> Any:
        """Where a is chosen."""
        return a > b

    def slopes(self, xp: ModuleType, gz: np.ndarray, first: bool, second: bool) -> tuple:
        number = gz.dtype.type
        share = xp.where(self.ahead(self.a, self.b), number(1), number(0.5) * (self.a == self.b))
        return gz * share if first else None, gz * (number(1) - share) if second else None

    @staticmethod
    def keeps_zero(number: Number, first: bool) -> bool:
        return bool(number <= 0)


class Smaller(Larger):
    """min(a, b), as `Larger`."""

    __slots__ = ()
    symbol = "minimum"

    def formula(self, xp: ModuleType, a: Any, b: Any) -> np.ndarray:
        return xp.minimum(a, b)

    def ahead(self, a: Any, b: Any) -> Any:
        return a < b

    @staticmethod
    def keeps_zero(number: Number, first: bool) -> bool:
        return bool(number >= 0)


def binary(kind: type[Binary], a: Any, b: Any) -> Tensor:
    """Return kind's f(a, b) for operands of which at least one is a tensor or an array."""
    a, b = unboxed(a), unboxed(b)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if b.backend is not a.backend:
            as_tensor(b, a)             # refuses another device
    elif isinstance(b, NUMBERS):
        if isinstance(a, NUMBERS):
            b = np.asarray(b)
        else:
            a = as_tensor(a)
            return kind(b).apply(a if a.kept is None or kind.keeps_zero(b, False) else expand(a))
    elif isinstance(a, NUMBERS):
        b = as_tensor(b)
        return kind(a, True).apply(b if b.kept is None or kind.keeps_zero(a, True) else expand(b))
    a = as_tensor(a, b if isinstance(b, Tensor) else None)
    b = as_tensor(b, a)
    if (a.kept is not None or b.kept is not None) and not (kind.both_keep_zero and _lie_alike(a, b)):
        if kind in (Add, Subtract) and a.shape == b.shape and a.dtype == b.dtype:
            return weighted_sum((a, b), (1.0, -1.0 if kind is Subtract else 1.0))   # neither is expanded
        a, b = expand(a), expand(b)
    return kind().apply(a, b)


def _lie_alike(a, b):
    """Whether all entries of two tensors, one by one, stand for the same places."""
    return (a.data.shape == b.data.shape and a.kept is not None and a.kept_axis == b.kept_axis
            and a.kept == b.kept)


def add(a: Any, b: Any) -> Tensor:
    """Return a + b, entry by entry; the shapes broadcast."""
    return binary(Add, a, b)


def subtract(a: Any, b: Any) -> Tensor:
    """Return a - b, entry by entry; the shapes broadcast."""
    return binary(Subtract, a, b)


def multiply(a: Any, b: Any) -> Tensor:
    """Return a b, entry by entry."""
    return binary(Multiply, a, b)


def divide(a: Any, b: Any) -> Tensor:
    """Return a / b, entry by entry; the shapes broadcast, and integers are divided as float32."""
    return binary(Divide, a, b)


def pow(a: Any, b: Any) -> Tensor:
    """Return a ^ b, entry by entry."""
    return binary(Pow, a, b)


def maximum(a: Any, b: Any = None) -> Tensor:
    """Return the larger of a and b, entry by entry; of equal ones each has half of the gradient.

    Of a list of tensors of one shape, without b: the largest, and of equal ones the first has the gradient,
    as in Caffe. Raises TensorError for an empty list.
    """
    if b is None and not len(a):
        raise TensorError("maximum takes a list of one or more tensors, got an empty one")
    return Maximum().apply(*a) if b is None else binary(Larger, a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """Return the smaller of a and b, entry by entry; of equal ones each has half of the gradient."""
    return binary(Smaller, a, b)
