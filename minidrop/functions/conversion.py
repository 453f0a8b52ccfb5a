"""Tensors of other dtypes and on other devices, and tensors from data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.autograd.held import as_held
from minidrop.backend import get_backend
from minidrop.errors import TensorError, in_short
from minidrop.functions.operands import as_float, as_tensor, common_dtype

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


class Cast(Function):
    """The same numbers in another dtype; the gradient comes back in that of x."""

    __slots__ = ("dtype",)
    kept_rule = "same"

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return x.astype(self.dtype)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy.astype(self.inputs[0].data.dtype)


class ToDevice(Function):
    """The same numbers on another device, through the host; the gradient goes the same way back."""

    __slots__ = ("target",)
    kept_rule = "same"

    def __init__(self, target: Backend):
        self.target = target

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return self.target.asarray(backend.to_host(x))

    def output_backend(self, backend: Backend) -> Backend:
        return self.target

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.asarray(self.target.to_host(gy))


class Clone(Function):
    """A copy."""

    __slots__ = ()
    kept_rule = "same"

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return x.copy()

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy


def dtype_of(dtype: Any) -> np.dtype:
    """Return a dtype of real numbers, integers or truth values; raises TensorError for another."""
    try:
        found = np.dtype(np.float32 if dtype is float else dtype)      # float means what it means in PyTorch
    except (TypeError, ValueError):     # ValueError: of a text that is no UTF-8
        raise TensorError(f"unknown dtype {in_short(dtype)}; expected one of NumPy's, e.g. "
                          f"'float32'") from None
    if found.kind not in "biuf":
        raise TensorError(f"a tensor holds real numbers, integers or truth values, not {found}")
    return found


def astype(x: Tensor, dtype: Any) -> Tensor:
    """Return x in another dtype, x itself if it has it; the gradient passes between real dtypes only."""
    dtype = dtype_of(dtype)
    if x.dtype == dtype:
        return x
    return Cast(dtype).apply(x if dtype.kind == "f" else x.detach())


def of_one_dtype(x: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Return operands of a product as tensors of real numbers, of the widest of their dtypes; None stays."""
    if not (isinstance(x, Tensor) and all(one is None or isinstance(one, Tensor) for one in others)):
        like = next((one for one in (x, *others) if isinstance(one, Tensor)), None)
        x = as_tensor(x, like)
        others = tuple([one if one is None else as_tensor(one, like) for one in others])
    dtypes = {one.dtype for one in (x, *others) if one is not None}
    if len(dtypes) == 1 and x.dtype.kind == "f":
        return x, *others
    dtype = as_float(common_dtype(*dtypes))
    return tuple([None if one is None else astype(one, dtype) for one in (x, *others)])


def to(x: Tensor, target: Any = None, dtype: Any = None, *, device: Any = None) -> Tensor:
    """Return x on another device ("cpu", "cuda:N", or that of a tensor), in another dtype, or both.

    target: either of them; both are also taken by name. x itself where there is nothing to do. The gradient
    passes.
    """
    if dtype is not None:
        x = astype(x, dtype)
    if device is not None:
        x = to(x, device)
    if target is None:
        return x
    if isinstance(target, Tensor):
        return to(astype(x, target.dtype), target.backend)
    if isinstance(target, str) and not target.startswith(("cpu", "cuda", "auto")) or isinstance(
            target, type | np.dtype):
        return astype(x, target)
    backend = get_backend(target)
    return x if backend is x.backend or backend.name == x.backend.name else ToDevice(backend).apply(x)


def clone(x: Tensor) -> Tensor:
    """Return a copy of x; the gradient passes."""
    return Clone().apply(x)


def tensor(data: Any, dtype: Any = None, device: Any = "cpu", requires_grad: bool = False) -> Tensor:
    """Return a tensor of a copy of `data`: numbers, nested lists, an array, or a tensor's value.

    dtype: by default that of an array, float32 for Python's real numbers, int64 for its whole ones. device:
    "cpu", "cuda:N" or "auto". Raises TensorError for what is no array of real numbers, and for integers that
    should require a gradient.
    """
    if not hasattr(data, "dtype"):
        data = as_held(data)
        if not data.size and dtype is None:
            data = data.astype(np.float32)
    found = as_tensor(data)
    backend = get_backend(device)
    array = backend.asarray(found.numpy(), None if dtype is None else dtype_of(dtype)).copy()
    if requires_grad and array.dtype.kind != "f":
        raise TensorError(f"only real numbers have a gradient, got dtype {array.dtype}; pass dtype='float32'")
    return Tensor(array, requires_grad, backend)
