"""Indexing, x[...]: slices, numbers, integer and bool arrays, with gradients; and taking an axis apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Block, Function, Tensor
from minidrop.autograd.held import array_of
from minidrop.errors import PlaceError, TensorError, in_short
from minidrop.functions.axes import moveaxis
from minidrop.functions.checks import LISTS, WHOLE, checked_axis
from minidrop.functions.dropout import expand
from minidrop.functions.operands import AXIS, TRUTHS, as_tensor, chosen_axis, values_of

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

    The places that an index reads are found by indexing the array of all places with it. Raises PlaceError
    for arrays that do not broadcast.
    """

    __slots__ = ("index",)

    def __init__(self, index: tuple):
        self.index = index

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        try:
            return x[self.index]
        except (IndexError, ValueError) as error:       # all else that can be wrong has been refused
            arrays = [part for part in self.index if type(part) not in _PLAIN]
            masks = any(part.dtype.kind == "b" for part in arrays)
            raise PlaceError(f"index arrays of shapes {', '.join(str(part.shape) for part in arrays)} do not "
                             f"broadcast{'; a mask counts as one entry for each truth' * masks}") from error

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
    _check(x, parts)
    arrays = [part for part in parts if type(part) not in _PLAIN]
    if not arrays or len(arrays) == 1 and arrays[0].dtype.kind == "b":
        return GetItem(parts[0] if len(parts) == 1 else parts).apply(x)
    if len(parts) == 1:
        return TakeRows(arrays[0]).apply(x)
    return TakePlaces(parts).apply(x)


_PLAIN = (int, slice, type(None), type(...))


def _part(x, part):
    """Return one part of an index as Python's number, or as an array of the device."""
    if isinstance(part, TRUTHS):
        return x.backend.asarray(np.asarray(part))
    if isinstance(part, WHOLE):
        return int(part)
    listed = isinstance(part, LISTS)
    if listed:
        part = array_of(part) if len(part) else np.zeros(0, np.int64)
    if isinstance(part, Tensor) or hasattr(part, "dtype"):
        plain = type(part) is np.ndarray and part.dtype.kind in "biu"
        array = x.backend.asarray(part) if plain else expand(as_tensor(part, x)).data
        if array.dtype.kind in "biu":
            # Another one's array is copied: it may change before backward.
            return array.astype(bool if array.dtype.kind == "b" else np.int64, copy=not listed)
        raise TensorError(f"an index array has whole numbers or truth values, got dtype {array.dtype}; "
                          f"convert it, e.g. with .astype(int)")
    raise TensorError(f"a tensor is indexed with numbers, slices, None, ... and arrays of them, not with "
                      f"{type(part).__name__}")


def _check(x, parts):
    """Raise PlaceError unless x has the axes and entries that an index names.

    Negative entries of index arrays, which are copies, are counted from the end. A device would not refuse
    one that is out of range, but wrap it around.
    """
    shape, needed, ellipses = x.shape, 0, 0
    for part in parts:
        if part is ...:
            ellipses += 1
        elif part is not None:
            needed += 1 if type(part) in _PLAIN or part.dtype.kind != "b" else part.ndim
    if ellipses > 1:
        raise PlaceError("an index has at most one ellipsis (...)")
    if needed > len(shape):
        raise PlaceError(f"an index of {needed} axes does not fit a tensor of shape {shape}")
    axis = 0
    for part in parts:
        if part is ...:
            axis += len(shape) - needed
        elif part is None:
            pass
        elif isinstance(part, slice):
            if part.step is not None and part.step == 0:
                raise TensorError("the step of a slice cannot be 0")
            axis += 1
        elif isinstance(part, int):
            if not -shape[axis] <= part < shape[axis]:
                raise PlaceError(f"index {in_short(part)} is out of range: axis {axis} of shape {shape} has "
                                 f"{shape[axis]} entries")
            axis += 1
        elif part.dtype.kind == "b":
            if part.shape != shape[axis:axis + part.ndim]:
                raise PlaceError(f"a mask of shape {part.shape} does not fit axes {axis} to "
                                 f"{axis + part.ndim - 1} of a tensor of shape {shape}")
            axis += part.ndim
        else:
            _count_from_the_end(x, part, axis)
            axis += 1


def _count_from_the_end(x, index, axis):
    """Let the negative entries of an index array be those that they mean, in place; PlaceError for a wrong
    one."""
    length = x.shape[axis]
    # One look at the values tells the usual case: as unsigned numbers negative ones are huge.
    if not x.backend.capturing and (not index.size or int(index.view(np.uint64).max()) < length):
        return
    wrong = (index < -length) | (index >= length)
    x.backend.refuse(wrong, lambda: PlaceError(
        f"index {int(index.reshape(-1)[int(wrong.reshape(-1).argmax())])} is out of range: axis {axis} of "
        f"shape {x.shape} has {length} entries"))
    index += length * (index < 0)


def unbind(x: Any, axis: int = 0, *, dim: int = AXIS) -> tuple[Tensor, ...]:
    """Return the entries of an axis as a tuple of tensors without it."""
    x, axis = values_of(x), chosen_axis("unbind", axis, dim, 0)
    if checked_axis(axis, x.ndim):
        x = moveaxis(x, axis, 0)
    return Unbind().apply(x)


def gather_rows(x: Tensor, columns: Tensor) -> Tensor:
    """Return x[i, columns[i]] for every row i of a matrix: (rows, entries), (rows,) -> (rows,)."""
    rows = x.backend.xp.arange(x.shape[0])
    return GetItem((rows, columns.data)).apply(x)
