"""Indexing, x[...]: slices, numbers, integer and bool arrays, with gradients; and taking an axis apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Block, Function, Tensor
from minidrop.errors import PlaceError, TensorError
from minidrop.functions.axes import moveaxis
from minidrop.functions.checks import checked_axis
from minidrop.functions.dropout import expand
from minidrop.functions.operands import as_tensor, takes_dim, values_of

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


class GetItem(Function):
    """y = x[index] for slices, whole numbers, None, an ellipsis and bool arrays: no entry is read twice.

    As in NumPy and PyTorch y may be a view of x.
    """

    __slots__ = ("index",)

    def __init__(self, index: Any):
        self.index = index

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return x[self.index]

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        gx = backend.zeros(self.inputs[0].data.shape, gy.dtype)
        gx[self.index] = gy
        return gx


class TakeRows(Function):
    """y = x[index] for one array of whole numbers of any shape: gradients of a repeated one are added."""

    __slots__ = ("index",)

    def __init__(self, index: np.ndarray):
        self.index = index

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return x[self.index]

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> Block:
        shape = self.inputs[0].data.shape
        rows = gy.reshape(self.index.size, math.prod(shape[1:]))
        g, kept = backend.table_gradient(rows, self.index.reshape(-1), shape[0])
        return Block(g if len(shape) > 1 else g.reshape(g.shape[0]), kept)


class TakePlaces(Function):
    """y = x[index] for several index arrays, or ones beside slices; gradients of a repeated place are added.

    The places that an index reads are found by indexing the array of all places with it.
    """

    __slots__ = ("index",)

    def __init__(self, index: tuple):
        self.index = index

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return x[self.index]

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        shape = self.inputs[0].data.shape
        count = math.prod(shape)
        read = backend.xp.arange(count).reshape(shape)[self.index].reshape(-1)
        g, kept = backend.table_gradient(gy.reshape(gy.size, 1), read, count)
        return backend.put(g.reshape(g.shape[0]), kept, 0).reshape(shape)


class Unbind(Function):
    """The entries of axis 0, each without that axis: one backward pass for all of them."""

    __slots__ = ()

    def forward(self, backend: Backend, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(x[i] for i in range(len(x)))

    def backward(self, backend: Backend, gy: tuple, wanted: Sequence[bool]) -> np.ndarray:
        x = self.inputs[0].data
        gx = backend.zeros(x.shape, x.dtype)
        for i, g in enumerate(gy):
            if g is not None:
                gx[i] = g
        return gx


def get_item(x: Tensor, index: Any) -> Tensor:
    """Return x[index], of the dense value of a compact tensor.

    index: what NumPy takes: numbers, slices, None, ..., bool and integer arrays or tensors. Raises PlaceError
    (an IndexError) where x has no such entry or axis, TensorError for an index of another kind.
    """
    x = expand(x)
    parts = index if isinstance(index, tuple) else (index,)
    parts = tuple([part if type(part) in _PLAIN else _part(x, part) for part in parts])
    arrays = [part for part in parts if hasattr(part, "dtype")]
    _check(x, parts)
    if not arrays or all(array.dtype.kind == "b" for array in arrays) and len(arrays) == 1:
        return GetItem(parts[0] if len(parts) == 1 else parts).apply(x)
    if len(parts) == 1 and arrays[0].dtype.kind != "b":
        return TakeRows(arrays[0]).apply(x)
    return TakePlaces(parts).apply(x)


_PLAIN = (int, slice, type(None), type(...))


def _part(x, part):
    """Return one part of an index as Python's number or slice, or as an array of the device."""
    if isinstance(part, bool | np.bool_):
        return x.backend.asarray(np.asarray(part))
    if isinstance(part, np.integer):
        return int(part)
    if isinstance(part, list | tuple):
        part = np.asarray(part) if len(part) else np.zeros(0, np.int64)
    if isinstance(part, Tensor) or hasattr(part, "dtype"):
        array = expand(as_tensor(part, x)).data
        if array.dtype.kind in "biu":
            return array.astype(bool if array.dtype.kind == "b" else np.int64)      # a copy: it may change
        raise TensorError(f"an index array has whole numbers or truth values, got dtype {array.dtype}; "
                          f"convert it, e.g. with .astype(int)")
    raise TensorError(f"a tensor is indexed with numbers, slices, None, ... and arrays of them, not with "
                      f"{type(part).__name__}")


def _check(x, parts):
    """Raise PlaceError unless x has the axes and entries that an index names.

    Negative entries of index arrays, which are copies, are counted from the end. A device would not refuse
    one that is out of range, but wrap it around.
    """
    taken = [part.ndim if hasattr(part, "dtype") and part.dtype.kind == "b" else int(part is not None)
             for part in parts if part is not ...]
    needed = sum(taken)
    if sum(part is ... for part in parts) > 1:
        raise PlaceError("an index has at most one ellipsis (...)")
    if needed > x.ndim:
        raise PlaceError(f"an index of {needed} axes does not fit a tensor of shape {x.shape}")
    axis = 0
    for part in parts:
        if part is ...:
            axis += x.ndim - needed
        elif part is None:
            pass
        elif isinstance(part, slice):
            if part.step is not None and part.step == 0:
                raise TensorError("the step of a slice cannot be 0")
            axis += 1
        elif isinstance(part, int):
            if not -x.shape[axis] <= part < x.shape[axis]:
                raise PlaceError(f"index {part} is out of range: axis {axis} of shape {x.shape} has "
                                 f"{x.shape[axis]} entries")
            axis += 1
        elif part.dtype.kind == "b":
            if part.shape != x.shape[axis:axis + part.ndim]:
                raise PlaceError(f"a mask of shape {part.shape} does not fit axes {axis} to "
                                 f"{axis + part.ndim - 1} of a tensor of shape {x.shape}")
            axis += part.ndim
        else:
            length = x.shape[axis]
            wrong = (part < -length) | (part >= length)
            x.backend.refuse(wrong, lambda p=part, w=wrong, n=length, a=axis: PlaceError(
                f"index {int(p.reshape(-1)[int(w.reshape(-1).argmax())])} is out of range: axis {a} of shape "
                f"{x.shape} has {n} entries"))
            part += length * (part < 0)
            axis += 1


@takes_dim
def unbind(x: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """Return the entries of an axis as a tuple of tensors without it."""
    x = values_of(x)
    if checked_axis(axis, x.ndim):
        x = moveaxis(x, axis, 0)
    return Unbind().apply(x)


def gather_rows(x: Tensor, columns: Tensor) -> Tensor:
    """Return x[i, columns[i]] for every row i of a matrix: (rows, entries), (rows,) -> (rows,)."""
    rows = x.backend.xp.arange(x.shape[0])
    return GetItem((rows, columns.data)).apply(x)
