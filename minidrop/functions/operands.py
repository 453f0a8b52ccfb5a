"""What operators and reductions have in common: operands, dtypes, axes, and names of arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from minidrop.autograd import Tensor
from minidrop.autograd.held import as_held
from minidrop.backend import backend_of
from minidrop.errors import BackendError, ShapeError, TensorError, in_short
from minidrop.functions.checks import LISTS
from minidrop.functions.dropout import expand

Number = int | float | bool | np.integer | np.floating | np.bool_
NUMBERS = (int, float, np.integer, np.floating, np.bool_)       # a Python bool is an int
Axes = int | Sequence[int] | None
Along = TypeVar("Along", int | None, Axes)
TRUTHS = (bool, np.bool_)


def is_array(x: Any) -> bool:
    """Whether x is an array of numbers on the host or a device, or nested lists of them."""
    return hasattr(x, "dtype") and hasattr(x, "shape") or isinstance(x, LISTS)


def unboxed(x: Any) -> Any:
    """Return x; of an array without axes its number, which changes no width (see `number_dtype`)."""
    return x[()] if isinstance(x, np.ndarray) and not x.ndim else x


def as_tensor(x: Any, like: Tensor | None = None) -> Tensor:
    """Return x, a tensor, an array or a number, as a tensor on the device of `like`.

    Raises TensorError for what is no array of real numbers, BackendError for a tensor of another device.
    """
    if isinstance(x, Tensor):
        if like is not None and x.backend is not like.backend and x.backend.name != like.backend.name:
            raise BackendError(f"operands are on two devices, {like.device} and {x.device}; move one with "
                               f".to({like.device!r})")
        return x
    if hasattr(x, "__array__") and not isinstance(getattr(x, "dtype", None), np.dtype):
        x = np.asarray(x)           # of another library
    if not is_array(x) and not isinstance(x, NUMBERS):
        raise TensorError(f"expected a tensor, an array or a number, got {type(x).__name__}")
    if isinstance(x, LISTS):
        try:
            loses_gradients = _has_gradient(x)
        except RecursionError:
            raise TensorError("expected an array, got lists that are nested too deeply") from None
        if loses_gradients:
            raise TensorError("a list of tensors would lose their gradients; join them with functions.stack")
        x = [one.numpy() if isinstance(one, Tensor) else one for one in x]
    elif isinstance(x, float):
        x = np.float64(x)               # a single number is not yet in the dtype of what stands beside it
    x = as_held(x)
    backend = like.backend if like is not None else backend_of(x)
    return Tensor(backend.asarray(x), backend=backend)


def _has_gradient(x):
    """Whether a list, perhaps of lists, has a tensor that requires a gradient."""
    return any(_has_gradient(one) if isinstance(one, LISTS) else isinstance(one, Tensor) and
               one.requires_grad for one in x)


def common_dtype(*dtypes: np.dtype) -> np.dtype:
    """Return the dtype of a result: of the operands of real numbers, if there are any, the widest.

    Integers take the dtype of the real numbers beside them, as in PyTorch, where NumPy would make float64.
    """
    real = [dtype for dtype in dtypes if dtype.kind == "f"]
    return np.result_type(*(real or dtypes))


def in_one_dtype(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays in their `common_dtype`, as they are if they have it."""
    if a.dtype == b.dtype:
        return a, b
    dtype = common_dtype(a.dtype, b.dtype)
    return a.astype(dtype, copy=False), b.astype(dtype, copy=False)


def as_float(dtype: np.dtype) -> np.dtype:
    """Return a dtype of real numbers: the given one, or float32 for integers, as in PyTorch."""
    return dtype if dtype.kind == "f" else np.dtype(np.float32)


def number_dtype(dtype: np.dtype, number: Number) -> np.dtype:
    """Return the dtype of a result of an array and a number: a number changes the kind, never the width."""
    if dtype.kind == "f" or isinstance(number, TRUTHS):
        return dtype
    if not isinstance(number, int | np.integer):
        return np.dtype(np.float32)
    return np.dtype(np.int64) if dtype.kind == "b" else dtype


def as_number(what: str, dtype: np.dtype, number: Number) -> Any:
    """Return a number in a dtype; raises TensorError for a whole number that no real one is as large as."""
    try:
        return dtype.type(number)
    except OverflowError:
        digits = int(int(number).bit_length() * math.log10(2)) + 1      # Python writes no more than 4300
        raise TensorError(f"{what}: {dtype} cannot hold a number of {digits} digits") from None


def fitted(g: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return a gradient summed over the axes along which an operand of `shape` was repeated."""
    if g.shape != shape:
        lead = g.ndim - len(shape)
        if lead:
            g = g.sum(axis=tuple(range(lead)))
        axes = tuple([i for i, n in enumerate(shape) if n == 1 and g.shape[i] != 1])
        if axes:
            g = g.sum(axis=axes, keepdims=True)
    return g if g.dtype == dtype else g.astype(dtype)


def check_broadcast(what: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Raise ShapeError unless two shapes broadcast. (np.broadcast_shapes takes ten times as long.)"""
    for n, m in zip(reversed(a), reversed(b), strict=False):
        if n != m and n != 1 and m != 1:
            raise ShapeError(f"{what}: shapes {a} and {b} do not broadcast: read from the last axis on, "
                             f"lengths must be equal, or one of them 1")


def values_of(x: Any) -> Tensor:
    """Return x as a dense tensor."""
    return expand(as_tensor(x))


def real_operand(x: Any, keeps_zero: bool = True, carry: bool = False, integers: bool = False) -> Tensor:
    """Return x as a tensor of real numbers, for a function f of entries or channels.

    Integers become float32, unless f takes `integers`.

    What f returns of a compact tensor is that of its dense value, so x is expanded where f(0) is not 0. With
    `carry` it is not: layers pass a kept set on through any f, as it stands for a drop that comes later.
    """
    x = as_tensor(x)
    if x.kept is not None and not keeps_zero and not carry:
        x = expand(x)
    if integers or x.data.dtype.kind == "f":
        return x
    return Tensor(x.data.astype(as_float(x.dtype)), False, x.backend, x.kept, x.kept_axis)


class _Same:
    """The default of an argument that has another name as well: that one, as help() shows it."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self):
        return self.name


AXIS: Any = _Same("axis")               # the default of `dim`
KEEPDIMS: Any = _Same("keepdims")       # the default of `keepdim`
DIM: Any = _Same("dim")                 # the default of an `axis` that has to be given under one of its names


def chosen_axis(what: str, axis: Any, dim: Any, default: Any = None) -> Any:
    """Return `dim`, PyTorch's name of `axis`, if it was given, else `axis`.

    Raises TensorError where both were, as far as `axis` differs from its default, and for a missing one.
    """
    if dim is AXIS:
        if axis is DIM:
            raise TensorError(f"{what}: axis is missing; say along which")
        return axis
    if axis != default:
        raise TensorError(f"{what}: dim and axis are one argument; keep one of them")
    return dim


def chosen_axes(what: str, axis: Along, keepdims: bool, dim: Along = AXIS,
                keepdim: bool = KEEPDIMS) -> tuple[Along, bool]:
    """Return (axis, keepdims), of which each may have been given under PyTorch's name.

    Raises TensorError for a keepdims that is neither True nor False.
    """
    if dim is not AXIS:
        axis = chosen_axis(what, axis, dim)
    if keepdim is not KEEPDIMS:
        if keepdims:
            raise TensorError(f"{what}: keepdim and keepdims are one argument; keep one of them")
        keepdims = keepdim
    if not isinstance(keepdims, TRUTHS):        # sum(0, 1) means two axes
        raise TensorError(f"{what}: keepdims: expected True or False, got {in_short(keepdims)}; several axes "
                          f"are one argument, as in axis=(0, 1)")
    return axis, bool(keepdims)
