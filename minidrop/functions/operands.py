"""What operators and reductions have in common: operands, dtypes, axes, and names of arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from minidrop.autograd import Tensor
from minidrop.backend import backend_of
from minidrop.errors import BackendError, ShapeError, TensorError
from minidrop.functions.dropout import expand

Number = int | float | bool | np.number | np.bool_
NUMBERS = (int, float, np.number, np.bool_)         # a Python bool is an int


def is_array(x: Any) -> bool:
    """Whether x is an array of numbers on the host or a device, or nested lists of them."""
    return hasattr(x, "dtype") and hasattr(x, "shape") or isinstance(x, list | tuple)


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
    if isinstance(x, list | tuple):
        if _has_gradient(x):
            raise TensorError("a list of tensors would lose their gradients; join them with functions.stack")
        x = np.asarray([one.numpy() if isinstance(one, Tensor) else one for one in x])
        x = x.astype(np.float32) if x.dtype == np.float64 else x
    x = np.asarray(x) if isinstance(x, NUMBERS) else x
    if x.dtype.kind not in "biuf":
        raise TensorError(f"expected an array of real numbers, got one of dtype {x.dtype}")
    backend = like.backend if like is not None else backend_of(x)
    return Tensor(backend.asarray(x), backend=backend)


def _has_gradient(x):
    """Whether a list, perhaps of lists, has a tensor that requires a gradient."""
    return any(_has_gradient(one) if isinstance(one, list | tuple) else isinstance(one, Tensor) and
               one.requires_grad for one in x)


def common_dtype(*dtypes: np.dtype) -> np.dtype:
    """Return the dtype of a result: of the operands of real numbers, if there are any, the widest.

    Integers take the dtype of the real numbers beside them, as in PyTorch, where NumPy would make float64.
    """
    real = [dtype for dtype in dtypes if dtype.kind == "f"]
    return np.result_type(*(real or dtypes))


def as_float(dtype: np.dtype) -> np.dtype:
    """Return a dtype of real numbers: the given one, or float32 for integers, as in PyTorch."""
    return dtype if dtype.kind == "f" else np.dtype(np.float32)


def number_dtype(dtype: np.dtype, number: Number) -> np.dtype:
    """Return the dtype of a result of an array and a number: a number changes the kind, never the width."""
    if dtype.kind == "f" or isinstance(number, bool | np.bool_):
        return dtype
    if not isinstance(number, int | np.integer):
        return np.dtype(np.float32)
    return np.dtype(np.int64) if dtype.kind == "b" else dtype


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


def count_of(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    """Return how many entries of a shape there are along some of its axes."""
    return math.prod([shape[axis] for axis in axes])


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
    if integers or x.dtype.kind == "f":
        return x
    return Tensor(x.data.astype(as_float(x.dtype)), False, x.backend, x.kept, x.kept_axis)


def takes_dim(function: Callable) -> Callable:
    """Let a function take `dim` and `keepdim`, PyTorch's names of `axis` and `keepdims`."""
    @wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        if named:
            for theirs, ours in (("dim", "axis"), ("keepdim", "keepdims")):
                if theirs in named:
                    if ours in named:
                        raise TensorError(f"{function.__name__}: {theirs} and {ours} are one argument; keep "
                                          f"one of them")
                    named[ours] = named.pop(theirs)
        return function(*given, **named)
    return call
