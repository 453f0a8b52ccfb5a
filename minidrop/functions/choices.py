"""Truth values: comparisons of tensors, what joins them, and choosing by them. Of dense values."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.errors import TensorError
from minidrop.functions.dropout import expand
from minidrop.functions.operands import (
    NUMBERS,
    as_number,
    as_tensor,
    check_broadcast,
    fitted,
    in_one_dtype,
    number_dtype,
    unboxed,
)

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
               "!=": operator.ne}
JOINS = {"&": operator.and_, "|": operator.or_, "^": operator.xor}


class Where(Function):
    """y = a where the condition holds, b elsewhere; all three broadcast. No gradient for the condition."""

    __slots__ = ("condition",)

    def forward(self, backend: Backend, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if not condition.shape == a.shape == b.shape:
            check_broadcast("where", a.shape, b.shape)
            check_broadcast("where", condition.shape, a.shape)
            check_broadcast("where", condition.shape, b.shape)
        if condition.dtype.kind != "b":
            condition = condition != 0
        self.condition = condition
        return backend.xp.where(condition, *in_one_dtype(a, b))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        xp, zero = backend.xp, gy.dtype.type(0)
        _, a, b = (x.data for x in self.inputs)
        return (None,
                fitted(xp.where(self.condition, gy, zero), a.shape, a.dtype) if wanted[1] else None,
                fitted(xp.where(self.condition, zero, gy), b.shape, b.dtype) if wanted[2] else None)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """Return a where the condition (a bool tensor or array) holds, b elsewhere."""
    like = condition if isinstance(condition, Tensor) else a if isinstance(a, Tensor) else b
    condition = expand(as_tensor(condition, like if isinstance(like, Tensor) else None))
    a, b = unboxed(a), unboxed(b)
    first, second = isinstance(a, NUMBERS), isinstance(b, NUMBERS)
    a = a if first else expand(as_tensor(a, condition))
    b = b if second else expand(as_tensor(b, condition))
    if first:
        a = _filled(condition.backend, a, number_dtype(np.dtype(bool), b) if second else b.dtype)
    if second:
        b = _filled(condition.backend, b, a.dtype)
    return Where().apply(condition, a, b)


def _filled(backend, number, beside):
    """Return a number as a tensor, which a captured step can make without the host."""
    return Tensor(backend.xp.full((), number, number_dtype(beside, number)), backend=backend)


def compare(symbol: str, a: Tensor, b: Any) -> Tensor:
    """Return a bool tensor, without gradient: where a < b, or another of < <= > >= == != holds."""
    x, b = expand(a).data, unboxed(b)
    if not isinstance(b, NUMBERS):
        b = expand(as_tensor(b, a)).data
        if x.shape != b.shape:
            check_broadcast(symbol, x.shape, b.shape)
    elif x.dtype.kind == "f":
        b = as_number(symbol, x.dtype, b)
    return Tensor(COMPARISONS[symbol](x, b), backend=a.backend)


def combine(symbol: str, a: Tensor, b: Any) -> Tensor:
    """Return a & b, a | b or a ^ b of bool or integer tensors, without gradient."""
    x, y = expand(a).data, expand(as_tensor(b, a)).data
    if x.dtype.kind == "f" or y.dtype.kind == "f":
        raise TensorError(f"{symbol} joins bool or integer tensors, got {x.dtype} and {y.dtype}; compare "
                         f"first, as in (x > 0) {symbol} (y > 0)")
    check_broadcast(symbol, x.shape, y.shape)
    return Tensor(JOINS[symbol](x, y), backend=a.backend)
