"""The operators and methods of Tensor, for whoever knows NumPy or PyTorch.

Of a compact tensor, which carries a kept set, each is what it is of the dense value, dropped entries being 0:
where 0 gives 0, as in x * 2 or x.abs(), the result carries the set on; elsewhere, as in x + 1 or x.exp(), x
is expanded first.

Comparisons give bool tensors without gradient; tensors stay hashable by identity. Nothing changes a tensor
in place: `x += y` means x = x + y, and is refused for a leaf that requires a gradient, which would stay as
it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Tensor
from minidrop.errors import TensorError
from minidrop.functions import activation, axes, binary, conversion, elementwise, matrices, reductions, unary
from minidrop.functions.binary import Add, Divide, FloorDivide, Multiply, Pow, Remainder, Subtract
from minidrop.functions.checks import checked_axis
from minidrop.functions.choices import combine, compare, where
from minidrop.functions.dropout import expand
from minidrop.functions.indexing import get_item, unbind
from minidrop.functions.operands import AXIS, KEEPDIMS, NUMBERS, chosen_axes, is_array
from minidrop.functions.softmax import log_softmax, softmax
from minidrop.functions.torch_names import hint


def _in_place(symbol: str, compute: Callable[[Any, Any], Any]) -> Any:
    def operator(self: Tensor, other: Any) -> Tensor:
        if self.requires_grad and self.creator is None:
            raise TensorError(f"x {symbol}= y would make another tensor and leave this one, which requires a "
                              f"gradient, as it is; change its array, x.data {symbol}= y (y an array), or "
                              f"write z = x {symbol} y")
        return compute(self, other)
    return operator


def _comparison(symbol: str) -> Any:
    def operator(self: Tensor, other: Any) -> Any:
        if isinstance(other, (Tensor, *NUMBERS)) or is_array(other):
            return compare(symbol, self, other)
        return NotImplemented
    return operator


class Operators:
    """What functions/__init__.py adds to Tensor."""

    # -- arithmetic ------------------------------------------------------------------------------------------
    def __add__(self: Any, other: Any) -> Tensor:
        return binary.binary(Add, self, other)

    def __radd__(self: Any, other: Any) -> Tensor:
        return binary.binary(Add, other, self)

    def __sub__(self: Any, other: Any) -> Tensor:
        return binary.binary(Subtract, self, other)

    def __rsub__(self: Any, other: Any) -> Tensor:
        return binary.binary(Subtract, other, self)

    def __mul__(self: Any, other: Any) -> Tensor:
        return binary.binary(Multiply, self, other)

    def __rmul__(self: Any, other: Any) -> Tensor:
        return binary.binary(Multiply, other, self)

    def __truediv__(self: Any, other: Any) -> Tensor:
        return binary.binary(Divide, self, other)

    def __rtruediv__(self: Any, other: Any) -> Tensor:
        return binary.binary(Divide, other, self)

    def __floordiv__(self: Any, other: Any) -> Tensor:
        return binary.binary(FloorDivide, self, other)

    def __rfloordiv__(self: Any, other: Any) -> Tensor:
        return binary.binary(FloorDivide, other, self)

    def __mod__(self: Any, other: Any) -> Tensor:
        return binary.binary(Remainder, self, other)

    def __rmod__(self: Any, other: Any) -> Tensor:
        return binary.binary(Remainder, other, self)

    def __pow__(self: Any, other: Any) -> Tensor:
        return binary.binary(Pow, self, other)

    def __rpow__(self: Any, other: Any) -> Tensor:
        return binary.binary(Pow, other, self)

    def __matmul__(self: Any, other: Any) -> Tensor:
        return matrices.matmul(self, other)

    def __rmatmul__(self: Any, other: Any) -> Tensor:
        return matrices.matmul(other, self)

    def __neg__(self: Any) -> Tensor:
        return unary.negative(self)

    def __pos__(self: Any) -> Tensor:
        return self

    def __abs__(self: Any) -> Tensor:
        """Return the absolute value of each entry; the derivative at 0 is 0."""
        return elementwise.absval(self)

    __iadd__, __isub__ = _in_place("+", __add__), _in_place("-", __sub__)
    __imul__, __itruediv__ = _in_place("*", __mul__), _in_place("/", __truediv__)
    __ifloordiv__, __imod__ = _in_place("//", __floordiv__), _in_place("%", __mod__)
    __ipow__, __imatmul__ = _in_place("**", __pow__), _in_place("@", __matmul__)

    # -- comparisons, without gradient -----------------------------------------------------------------------
    __lt__, __le__, __gt__, __ge__ = map(_comparison, ("<", "<=", ">", ">="))
    __eq__, __ne__ = map(_comparison, ("==", "!="))

    def __and__(self: Any, other: Any) -> Tensor:
        return combine("&", self, other)

    def __or__(self: Any, other: Any) -> Tensor:
        return combine("|", self, other)

    def __xor__(self: Any, other: Any) -> Tensor:
        return combine("^", self, other)

    __rand__, __ror__, __rxor__ = __and__, __or__, __xor__

    def __invert__(self: Any) -> Tensor:
        x = expand(self)
        if x.dtype.kind == "f":
            raise TensorError(f"~ inverts bool or integer tensors, got {x.dtype}")
        return Tensor(~x.data, backend=x.backend)

    # -- entries ---------------------------------------------------------------------------------------------
    def __getitem__(self: Any, index: Any) -> Tensor:
        return get_item(self, index)

    def __setitem__(self: Any, index: Any, value: Any) -> None:
        raise TensorError("the entries of a tensor cannot be assigned to: what was computed from them "
                          "would be wrong; use where(mask, value, x), or x.data[...] = value before "
                          "anything reads x")

    def __iter__(self: Any) -> Iterator[Tensor]:
        len(self)
        return iter(unbind(self))

    def __format__(self: Any, spec: str) -> str:
        """Return a single number in a format, as f"{loss:.3f}" asks; of other tensors their repr alone."""
        if spec and self.size != 1:
            raise TensorError(f"a tensor of shape {self.shape} has no format {spec!r}; format its numbers, "
                              f"as item() and tolist() give them")
        return format(self.item(), spec) if spec else str(self)

    def __contains__(self: Any, value: Any) -> bool:
        return bool(compare("==", self, value).data.any())

    # -- elementwise -----------------------------------------------------------------------------------------
    abs = __abs__
    exp, log, sigmoid = elementwise.exp, elementwise.log, activation.sigmoid

    def softmax(self: Any, axis: int = 1, *, dim: int = AXIS) -> Tensor:
        """Return exp(x) / sum exp(x) along `axis`."""
        return softmax(expand(self), axis, dim=dim)

    def log_softmax(self: Any, axis: int = 1, *, dim: int = AXIS) -> Tensor:
        """Return log softmax(x) along `axis`, exact also where softmax(x) is 0 to rounding."""
        return log_softmax(expand(self), axis, dim=dim)

    def relu(self: Any) -> Tensor:
        """Return max(x, 0); a kept set is carried on."""
        return activation.relu(self)

    def tanh(self: Any) -> Tensor:
        """Return the hyperbolic tangent of each entry; a kept set is carried on."""
        return activation.tanh(self)

    sqrt, square, sign, round = unary.sqrt, unary.square, unary.sign, unary.round
    sin, cos, floor, ceil = unary.sin, unary.cos, unary.floor, unary.ceil
    log1p, expm1, neg, pow = unary.log1p, unary.expm1, unary.negative, binary.pow
    add, sub, mul, div = binary.add, binary.subtract, binary.multiply, binary.divide
    matmul = mm = bmm = matrices.matmul

    clip = clamp = unary.clamp

    def masked_fill(self: Any, mask: Any, value: Any) -> Tensor:
        """Return the tensor with `value` where a mask, which broadcasts, is true."""
        return where(mask, value, self)

    # -- over axes -------------------------------------------------------------------------------------------
    sum, mean, var, std = reductions.sum, reductions.mean, reductions.var, reductions.std
    max, min, amax, amin = reductions.max, reductions.min, reductions.amax, reductions.amin
    cumsum, logsumexp, norm = reductions.cumsum, reductions.logsumexp, reductions.norm

    def argmax(self: Any, axis: int | None = None, keepdims: bool = False, *, dim: int | None = AXIS,
               keepdim: bool = KEEPDIMS) -> Tensor:
        """Return where the largest entry is, as int64; of equal ones the first."""
        return reductions.places(self, axis, keepdims, dim, keepdim, "argmax")

    def argmin(self: Any, axis: int | None = None, keepdims: bool = False, *, dim: int | None = AXIS,
               keepdim: bool = KEEPDIMS) -> Tensor:
        """Return where the smallest entry is, as int64; of equal ones the first."""
        return reductions.places(self, axis, keepdims, dim, keepdim, "argmin")

    def any(self: Any, axis: int | None = None, keepdims: bool = False, *, dim: int | None = AXIS,
            keepdim: bool = KEEPDIMS) -> Tensor:
        """Return whether any entry is true, or not 0."""
        return _truth(self, axis, keepdims, dim, keepdim, "any")

    def all(self: Any, axis: int | None = None, keepdims: bool = False, *, dim: int | None = AXIS,
            keepdim: bool = KEEPDIMS) -> Tensor:
        """Return whether all entries are true, or not 0."""
        return _truth(self, axis, keepdims, dim, keepdim, "all")

    # -- shapes ----------------------------------------------------------------------------------------------
    reshape = view = axes.reshaped
    permute, transpose, moveaxis = axes.in_order, axes.transpose, axes.moveaxis
    flatten = axes.reshaped_flat
    squeeze, unsqueeze, broadcast_to = axes.squeeze, axes.unsqueeze, axes.broadcast_to
    split, chunk, unbind = axes.split, axes.chunk, unbind

    @property
    def T(self: Any) -> Tensor:
        """The tensor with its axes in reverse order, as a view."""
        return axes.transpose(self)

    def dim(self: Any) -> int:
        """Return the number of axes."""
        return self.ndim

    def numel(self: Any) -> int:
        """Return the number of entries."""
        return int(self.size)

    # -- dtypes and devices ----------------------------------------------------------------------------------
    astype, to, clone = conversion.astype, conversion.to, conversion.clone

    def float(self: Any) -> Tensor:
        """Return the tensor as float32; see `astype`."""
        return conversion.astype(self, np.float32)

    def double(self: Any) -> Tensor:
        """Return the tensor as float64; see `astype`."""
        return conversion.astype(self, np.float64)

    def long(self: Any) -> Tensor:
        """Return the tensor as int64; see `astype`."""
        return conversion.astype(self, np.int64)

    def int(self: Any) -> Tensor:
        """Return the tensor as int32; see `astype`."""
        return conversion.astype(self, np.int32)

    def bool(self: Any) -> Tensor:
        """Return the tensor as bool: which entries are not 0; see `astype`."""
        return conversion.astype(self, np.bool_)

    def cpu(self: Any) -> Tensor:
        """Return the tensor on the host; see `to`."""
        return conversion.to(self, "cpu")

    def cuda(self: Any) -> Tensor:
        """Return the tensor on the first GPU; see `to`."""
        return conversion.to(self, "cuda")

    def contiguous(self: Any) -> Tensor:
        """Return the tensor itself: functions read views as well."""
        return self

    def requires_grad_(self: Any, requires_grad: Any = True) -> Tensor:
        """Let backward passes reach this leaf, or not, and return it.

        Raises TensorError for a tensor that a function computed, and for whole numbers.
        """
        if self.creator is not None:
            raise TensorError("this tensor was computed by a function, and requires a gradient if its inputs "
                              "do; x.detach() is one that does not")
        if requires_grad and self.dtype.kind != "f":
            raise TensorError(f"only real numbers have a gradient, got dtype {self.dtype}")
        self.require_grad(requires_grad)
        return self

    zero_grad = Tensor.clear_grad

    if not TYPE_CHECKING:       # or every name would be one of Tensor's
        def __getattr__(self: Any, name: str) -> Any:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}"
                                 f"{hint(name, dir(type(self)))}")


def _truth(x, axis, keepdims, dim, keepdim, name):
    axis, keepdims = chosen_axes(name, axis, keepdims, dim, keepdim)
    x = expand(x)
    axis = None if axis is None else checked_axis(axis, x.ndim)
    return Tensor(getattr(x.data != 0, name)(axis=axis, keepdims=keepdims), backend=x.backend)
