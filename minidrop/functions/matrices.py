"""Products of matrices and stacks of them, and Einstein sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.errors import ShapeError
from minidrop.functions.axes import reshaped, squeeze
from minidrop.functions.dropout import expand
from minidrop.functions.linear import linear
from minidrop.functions.operands import as_tensor, check_broadcast, common_dtype, fitted, in_one_dtype

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


class MatMul(Function):
    """y = a b of matrices (..., rows, inner) and (..., inner, columns), whose other axes broadcast."""

    __slots__ = ("a", "b")

    def forward(self, backend: Backend, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.a, self.b = a, b = in_one_dtype(a, b)
        return _product(backend, a, b)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        ga = gb = None
        first, second = (x.data for x in self.inputs)
        if wanted[0]:
            ga = fitted(_product(backend, gy, self.b.swapaxes(-1, -2)), first.shape, first.dtype)
        if wanted[1]:
            gb = fitted(_product(backend, self.a.swapaxes(-1, -2), gy), second.shape, second.dtype)
        return ga, gb


def _product(backend, a, b):
    """Return a b: in the precision of the device for single matrices, and for stacks of equal size."""
    if a.dtype.kind == "f":
        if a.ndim == 2 and b.ndim == 2:
            return backend.gemm(a, b)
        if a.ndim == 3 and b.ndim == 3 and len(a) == len(b) and _has_rows(a) and _has_rows(b):
            return backend.gemm_stack(a, b)
    return backend.xp.matmul(a, b)


def _has_rows(x):
    return x.itemsize in x.strides[1:]


def matmul(a: Any, b: Any) -> Tensor:
    """Return a @ b: of vectors, of matrices, of stacks of matrices, as in NumPy and PyTorch.

    If a carries a kept set on its last axis and b is a matrix, only the kept rows of b are read, as in
    `linear`; other compact operands are expanded. Raises ShapeError where lengths do not fit.
    """
    like = a if isinstance(a, Tensor) else b if isinstance(b, Tensor) else None
    a, b = as_tensor(a, like), as_tensor(b, like)
    first, second = a.shape, b.shape
    if not first or not second:
        raise ShapeError(f"@ multiplies matrices and vectors, got shapes {first} and {second}; * is the "
                         f"product with a number")
    inner = len(second) - 2 if len(second) > 1 else 0
    if first[-1] != second[inner]:
        raise ShapeError(f"@: shapes {first} and {second} do not fit: the last axis of the first has "
                         f"{first[-1]} entries, axis {inner} of the second {second[inner]}")
    if (a.kept is not None and a.kept_axis % a.ndim == a.ndim - 1 and b.kept is None and b.ndim == 2
            and a.ndim > 1 and a.dtype == b.dtype):
        return linear(a, b, transpose=True)
    a, b = expand(a), expand(b)
    if len(first) == 2 and len(second) == 2:
        return MatMul().apply(a, b)
    if a.ndim > 2 and b.ndim == 2:          # one product
        y = MatMul().apply(reshaped(a, (math.prod(a.shape[:-1]), a.shape[-1])), b)
        return reshaped(y, (*a.shape[:-1], b.shape[1]))
    check_broadcast("@", a.shape[:-2], b.shape[:-2])
    vectors = a.ndim == 1, b.ndim == 1
    a = reshaped(a, (1, a.shape[0])) if vectors[0] else a
    b = reshaped(b, (b.shape[0], 1)) if vectors[1] else b
    y = MatMul().apply(a, b)
    lost = [axis for axis, vector in zip((-2, -1), vectors, strict=True) if vector]
    return squeeze(y, lost) if lost else y



class Einsum(Function):
    """y[output] = sum over the other indices of the product of all x[own indices]."""

    __slots__ = ("terms", "output", "xs")

    def __init__(self, terms: Sequence[str], output: str):
        self.terms, self.output = list(terms), output

    def forward(self, backend: Backend, *xs: np.ndarray) -> np.ndarray:
        dtype = common_dtype(*[x.dtype for x in xs])
        self.xs = [x.astype(dtype, copy=False) for x in xs]
        return _summed(backend, self.terms, self.output, self.xs)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        return tuple([self._gradient(backend, gy, i) if want else None for i, want in enumerate(wanted)])

    def _gradient(self, backend, gy, i):
        own, x = self.terms[i], self.inputs[i].data
        terms = [self.output, *self.terms[:i], *self.terms[i + 1:]]
        known = "".join(index for index in own if any(index in term for term in terms))
        g = _summed(backend, terms, known, [gy, *self.xs[:i], *self.xs[i + 1:]])
        gx = backend.empty(x.shape, x.dtype)        # constant along an index that x alone is summed over
        gx[...] = g.reshape([n if index in known else 1 for index, n in zip(own, x.shape, strict=True)])
        return gx


def _summed(backend, terms, output, xs):
    return backend.xp.einsum(f"{','.join(terms)}->{output}", *xs, optimize=len(xs) > 1)


def einsum(equation: str, *operands: Any) -> Tensor:
    """Return Einstein's sum, e.g. einsum("bij,bjk->bik", a, b); compact operands are expanded.

    The indices are letters, one for each axis. Without "->" the result has those that occur once, in
    alphabetical order. Raises ShapeError for an equation that does not fit the operands, an index that one
    operand has twice, and for "...".
    """
    left, arrow, output = equation.replace(" ", "").partition("->")
    terms, like = left.split(","), next((x for x in operands if isinstance(x, Tensor)), None)
    if not arrow:
        output = "".join(sorted(index for index in set(left) - {","} if left.count(index) == 1))
    xs = [expand(as_tensor(x, like)) for x in operands]
    lengths: dict[str, int] = {}
    if len(terms) != len(xs):
        raise ShapeError(f"einsum: {equation!r} is for {len(terms)} operands, got {len(xs)}")
    for term, x in zip([*terms, output], [*xs, None], strict=True):
        if not all(index.isascii() and index.isalpha() for index in term) or len(set(term)) != len(term):
            raise ShapeError(f"einsum: {term!r} in {equation!r}: expected different letters, one for each "
                             f"axis")
        if x is not None and len(term) != x.ndim:
            raise ShapeError(f"einsum: {term!r} in {equation!r} does not fit an operand of shape {x.shape}")
        for index, n in zip(term, x.shape if x is not None else (), strict=x is not None):
            if lengths.setdefault(index, n) != n:
                raise ShapeError(f"einsum: index {index!r} of {equation!r} has the lengths {lengths[index]} "
                                 f"and {n}")
    if set(output) - set(lengths):
        raise ShapeError(f"einsum: the result of {equation!r} has an index that no operand has")
    return Einsum(terms, output).apply(*xs)
