# ruff: noqa: E501
"""What functions.operators gives Tensor, for editors and type checkers.

Made by scripts/generate_stubs.py, not by hand. It exists for them alone: there is no such module.
"""

import builtins
from collections.abc import Iterator, Sequence
from typing import Any

from minidrop.autograd.tensor import Tensor

Axes = builtins.int | Sequence[builtins.int] | None

class Methods:
    def __add__(self, other: Any) -> Tensor: ...
    def __radd__(self, other: Any) -> Tensor: ...
    def __sub__(self, other: Any) -> Tensor: ...
    def __rsub__(self, other: Any) -> Tensor: ...
    def __mul__(self, other: Any) -> Tensor: ...
    def __rmul__(self, other: Any) -> Tensor: ...
    def __truediv__(self, other: Any) -> Tensor: ...
    def __rtruediv__(self, other: Any) -> Tensor: ...
    def __pow__(self, other: Any) -> Tensor: ...
    def __rpow__(self, other: Any) -> Tensor: ...
    def __matmul__(self, other: Any) -> Tensor: ...
    def __rmatmul__(self, other: Any) -> Tensor: ...
    def __neg__(self) -> Tensor: ...
    def __pos__(self) -> Tensor: ...
    def __abs__(self) -> Tensor: ...
    def __iadd__(self, other: Any) -> Tensor: ...
    def __isub__(self, other: Any) -> Tensor: ...
    def __imul__(self, other: Any) -> Tensor: ...
    def __itruediv__(self, other: Any) -> Tensor: ...
    def __ipow__(self, other: Any) -> Tensor: ...
    def __lt__(self, other: Any) -> Any: ...
    def __le__(self, other: Any) -> Any: ...
    def __gt__(self, other: Any) -> Any: ...
    def __ge__(self, other: Any) -> Any: ...
    def __eq__(self, other: Any) -> Any: ...
    def __ne__(self, other: Any) -> Any: ...
    def __and__(self, other: Any) -> Tensor: ...
    def __or__(self, other: Any) -> Tensor: ...
    def __xor__(self, other: Any) -> Tensor: ...
    def __rand__(self, other: Any) -> Tensor: ...
    def __ror__(self, other: Any) -> Tensor: ...
    def __rxor__(self, other: Any) -> Tensor: ...
    def __invert__(self) -> Tensor: ...
    def __getitem__(self, index: Any) -> Tensor: ...
    def __setitem__(self, index: Any, value: Any) -> None: ...
    def __iter__(self) -> Iterator[Tensor]: ...
    def __contains__(self, value: Any) -> builtins.bool: ...
    def abs(self) -> Tensor: ...
    def exp(self, base: builtins.float | None = None, scale: builtins.float = 1.0, shift: builtins.float = 0.0, carry: builtins.bool = False) -> Tensor:
        """Return base ^ (shift + scale x), by default exp(x)."""
    def log(self, base: builtins.float | None = None, scale: builtins.float = 1.0, shift: builtins.float = 0.0, carry: builtins.bool = False) -> Tensor:
        """Return the logarithm of shift + scale x to a base, by default the natural one."""
    def sigmoid(self, carry: builtins.bool = False) -> Tensor:
        """Return 1 / (1 + exp(-x)); carry: see `real_operand`."""
    def softmax(self, axis: builtins.int = 1, *, dim: builtins.int = ...) -> Tensor:
        """Return exp(x) / sum exp(x) along `axis`."""
    def log_softmax(self, axis: builtins.int = 1, *, dim: builtins.int = ...) -> Tensor:
        """Return log softmax(x) along `axis`, exact also where softmax(x) is 0 to rounding."""
    def relu(self) -> Tensor: ...
    def tanh(self) -> Tensor: ...
    def sqrt(self) -> Tensor:
        """Return the square root of x; its derivative is infinite at 0, as in PyTorch."""
    def square(self) -> Tensor:
        """Return x^2."""
    def sign(self) -> Tensor:
        """Return -1, 0 or 1, with the derivative 0."""
    def round(self) -> Tensor:
        """Return the nearest whole number, of two the even one, with the derivative 0."""
    def sin(self) -> Tensor:
        """Return the sine of x, in radians."""
    def cos(self) -> Tensor:
        """Return the cosine of x, in radians."""
    def floor(self) -> Tensor:
        """Return the largest whole number not above x, with the derivative 0."""
    def ceil(self) -> Tensor:
        """Return the smallest whole number not below x, with the derivative 0."""
    def log1p(self) -> Tensor:
        """Return log(1 + x), exact for small x."""
    def expm1(self) -> Tensor:
        """Return exp(x) - 1, exact for small x."""
    def neg(self) -> Tensor:
        """Return -x."""
    def pow(self, b: Any) -> Tensor:
        """Return a ^ b, entry by entry."""
    def add(self, b: Any) -> Tensor:
        """Return a + b."""
    def sub(self, b: Any) -> Tensor:
        """Return a - b."""
    def mul(self, b: Any) -> Tensor:
        """Return a b, entry by entry."""
    def div(self, b: Any) -> Tensor:
        """Return a / b; integers are divided as float32."""
    def matmul(self, b: Any) -> Tensor:
        """Return a @ b: of vectors, of matrices, of stacks of matrices, as in NumPy and PyTorch."""
    def mm(self, b: Any) -> Tensor:
        """Return a @ b: of vectors, of matrices, of stacks of matrices, as in NumPy and PyTorch."""
    def bmm(self, b: Any) -> Tensor:
        """Return a @ b: of vectors, of matrices, of stacks of matrices, as in NumPy and PyTorch."""
    def clip(self, min: builtins.float | None = None, max: builtins.float | None = None) -> Tensor:
        """Return x, numbers outside [min, max] replaced by the nearer bound; None: no bound."""
    def clamp(self, min: builtins.float | None = None, max: builtins.float | None = None) -> Tensor:
        """Return x, numbers outside [min, max] replaced by the nearer bound; None: no bound."""
    def masked_fill(self, mask: Any, value: Any) -> Tensor:
        """Return the tensor with `value` where a mask, which broadcasts, is true."""
    def sum(self, axis: Axes = None, keepdims: builtins.bool = False, *, dim: Axes = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return the sum over axes; of integers and truth values as int64."""
    def mean(self, axis: Axes = None, keepdims: builtins.bool = False, *, dim: Axes = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return the mean over axes; of integers as float32. Raises ShapeError if there are no entries."""
    def var(self, axis: Axes = None, keepdims: builtins.bool = False, correction: builtins.float = 1, *, dim: Axes = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return sum (x - mean)^2 / (n - correction) over axes of n entries."""
    def std(self, axis: Axes = None, keepdims: builtins.bool = False, correction: builtins.float = 1, *, dim: Axes = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return the square root of `var`, with the derivative 0 where all entries are equal, as in PyTorch."""
    def max(self, *given: Any, axis: Axes = None, keepdims: builtins.bool = False, **named: Any) -> Tensor:
        """Return the largest entry over axes; equal ones share the gradient."""
    def min(self, *given: Any, axis: Axes = None, keepdims: builtins.bool = False, **named: Any) -> Tensor:
        """Return the smallest entry over axes; equal ones share the gradient."""
    def amax(self, dim: Axes = None, keepdim: builtins.bool = False) -> Tensor:
        """Return the largest entry over axes: `max` under PyTorch's name for it."""
    def amin(self, dim: Axes = None, keepdim: builtins.bool = False) -> Tensor:
        """Return the smallest entry over axes: `min` under PyTorch's name for it."""
    def cumsum(self, axis: builtins.int = ..., *, dim: builtins.int = ...) -> Tensor:
        """Return the sums of the entries up to each one along an axis."""
    def logsumexp(self, axis: Axes = None, keepdims: builtins.bool = False, *, dim: Axes = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return log sum exp(x) over axes, without overflow."""
    def norm(self, axis: Axes = None, keepdims: builtins.bool = False, *, dim: Axes = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return the Euclidean norm over axes, sqrt(sum x^2)."""
    def argmax(self, axis: builtins.int | None = None, keepdims: builtins.bool = False, *, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return where the largest entry is, as int64; of equal ones the first."""
    def argmin(self, axis: builtins.int | None = None, keepdims: builtins.bool = False, *, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return where the smallest entry is, as int64; of equal ones the first."""
    def any(self, axis: builtins.int | None = None, keepdims: builtins.bool = False, *, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return whether any entry is true, or not 0."""
    def all(self, axis: builtins.int | None = None, keepdims: builtins.bool = False, *, dim: builtins.int | None = ..., keepdim: builtins.bool = ...) -> Tensor:
        """Return whether all entries are true, or not 0."""
    def reshape(self, *shape: Any) -> Tensor:
        """Return x with another shape, given as a tuple or as numbers, of which one may be -1."""
    def view(self, *shape: Any) -> Tensor:
        """Return x with another shape, given as a tuple or as numbers, of which one may be -1."""
    def permute(self, *order: Any) -> Tensor:
        """Return x with its axes in another order: axis order[i] of x becomes axis i."""
    def transpose(self, *axes: Any) -> Tensor:
        """Return x with two axes exchanged, as in PyTorch; without any, with its axes in reverse order."""
    def moveaxis(self, source: builtins.int, destination: builtins.int) -> Tensor:
        """Return x with one axis moved to another place."""
    def flatten(self, start_dim: builtins.int = 0, end_dim: builtins.int = -1) -> Tensor:
        """Return x with axes start_dim .. end_dim merged into one, by default all."""
    def squeeze(self, axis: Any = None, *, dim: Any = ...) -> Tensor:
        """Return x without its axes of length 1, or without the given ones; ShapeError for a longer one."""
    def unsqueeze(self, axis: builtins.int = ..., *, dim: builtins.int = ...) -> Tensor:
        """Return x with a new axis of length 1 before `axis`; negative ones count from the end of the result."""
    def broadcast_to(self, *shape: Any) -> Tensor:
        """Return x repeated to a shape: along axes of length 1, and along new ones before."""
    def split(self, sizes: builtins.int | Sequence[builtins.int], axis: builtins.int = 0, *, dim: builtins.int = ...) -> tuple[Tensor, ...]:
        """Return x cut along an axis into parts of `sizes` entries: a list, or a number, the last smaller."""
    def chunk(self, chunks: builtins.int, axis: builtins.int = 0, *, dim: builtins.int = ...) -> tuple[Tensor, ...]:
        """Return x cut along an axis into at most `chunks` parts of one size, the last perhaps smaller."""
    def unbind(self, axis: builtins.int = 0, *, dim: builtins.int = ...) -> tuple[Tensor, ...]:
        """Return the entries of an axis as a tuple of tensors without it."""
    @property
    def T(self) -> Tensor:
        """The tensor with its axes in reverse order, as a view."""
    def dim(self) -> builtins.int:
        """Return the number of axes."""
    def numel(self) -> builtins.int:
        """Return the number of entries."""
    def astype(self, dtype: Any) -> Tensor:
        """Return x in another dtype, x itself if it has it; the gradient passes between real dtypes only."""
    def to(self, target: Any) -> Tensor:
        """Return x on another device ("cpu", "cuda:N", or that of a tensor), or in another dtype."""
    def clone(self) -> Tensor:
        """Return a copy of x; the gradient passes."""
    def float(self) -> Tensor: ...
    def double(self) -> Tensor: ...
    def long(self) -> Tensor: ...
    def int(self) -> Tensor: ...
    def bool(self) -> Tensor: ...
    def cpu(self) -> Tensor: ...
    def cuda(self) -> Tensor: ...
    def contiguous(self) -> Tensor:
        """Return the tensor itself: functions read views as well."""
    def requires_grad_(self, requires_grad: Any = True) -> Tensor:
        """Let backward passes reach this leaf, or not, and return it."""
    def zero_grad(self) -> None:
        """Forget the gradient."""
