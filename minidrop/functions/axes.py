"""Axes in another order, of length 1, or joined and cut, under the names of NumPy and PyTorch.

Of the dense value of a compact tensor. Where nothing has to be copied, results are views of x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.errors import ShapeError, TensorError, in_short
from minidrop.functions.checks import LISTS, WHOLE, checked_axis
from minidrop.functions.conversion import astype
from minidrop.functions.operands import (
    AXIS,
    DIM,
    Axes,
    as_tensor,
    chosen_axis,
    common_dtype,
    fitted,
    values_of,
)
from minidrop.functions.shape import Reshape, concat, slice

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


class Transpose(Function):
    """The axes of x in another order, as a view: axis order[i] of x becomes axis i of y."""

    __slots__ = ("order",)

    def __init__(self, order: tuple[int, ...]):
        self.order = order

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return x.transpose(self.order)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.xp.ascontiguousarray(gy.transpose([self.order.index(i) for i in range(gy.ndim)]))


class Broadcast(Function):
    """x, repeated along axes of length 1 and along new ones before."""

    __slots__ = ("shape",)

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        y = backend.empty(self.shape, x.dtype)
        y[...] = x
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return fitted(gy, self.inputs[0].data.shape, gy.dtype)


def lengths(given: tuple) -> tuple[int, ...]:
    """Return a shape or axes, which methods take as one tuple or as several numbers."""
    given = tuple(given[0]) if len(given) == 1 and isinstance(given[0], LISTS) else given
    for n in given:
        if not isinstance(n, WHOLE):
            raise TensorError(f"expected whole numbers, got {', '.join(map(in_short, given))}")
    return tuple(map(int, given))


def reshaped(x: Any, *shape: Any) -> Tensor:
    """Return x with another shape, given as a tuple or as numbers, of which one may be -1.

    Raises ShapeError where the numbers of entries differ.
    """
    x, wanted = values_of(x), lengths(shape)
    size, unknown = math.prod(x.shape), wanted.count(-1)
    known = math.prod(wanted) * (-1 if unknown else 1)
    fits = known and not size % known if unknown else known == size
    if not fits or unknown > 1 or min(wanted, default=1) < -1:
        raise ShapeError(f"shape {x.shape} of {size} entries cannot become {wanted}")
    if unknown:
        wanted = tuple([size // known if n == -1 else n for n in wanted])
    return Reshape(wanted).apply(x)


def reshaped_flat(x: Any, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Return x with axes start_dim .. end_dim merged into one, by default all.

    Raises ShapeError for axes in the wrong order.
    """
    x = values_of(x)
    if not x.ndim:
        return reshaped(x, 1)
    first, last = checked_axis(start_dim, x.ndim), checked_axis(end_dim, x.ndim)
    if first > last:
        raise ShapeError(f"flatten: axis {start_dim} comes after axis {end_dim} in shape {x.shape}")
    return reshaped(x, (*x.shape[:first], math.prod(x.shape[first:last + 1]), *x.shape[last + 1:]))


def in_order(x: Any, *order: Any) -> Tensor:
    """Return x with its axes in another order: axis order[i] of x becomes axis i.

    Raises ShapeError unless each axis is given once.
    """
    x, order = values_of(x), lengths(order)
    if sorted(axis % x.ndim if -x.ndim <= axis < x.ndim else -1 for axis in order) != list(range(x.ndim)):
        raise ShapeError(f"permute needs each of the {x.ndim} axes of x once, got {order}")
    return Transpose(tuple([axis % x.ndim for axis in order])).apply(x)


def transpose(x: Any, *axes: Any) -> Tensor:
    """Return x with two axes exchanged, as in PyTorch; without any, with its axes in reverse order.

    Raises ShapeError unless two are given, or none.
    """
    x, given = values_of(x), lengths(axes)
    order = list(range(x.ndim))
    if not given:
        return Transpose(tuple(order[::-1])).apply(x)
    if len(given) != 2:
        raise ShapeError(f"transpose exchanges two axes, got {given}; permute takes an order of all axes")
    a, b = (checked_axis(axis, x.ndim) for axis in given)
    order[a], order[b] = b, a
    return Transpose(tuple(order)).apply(x)


def moveaxis(x: Any, source: int, destination: int) -> Tensor:
    """Return x with one axis moved to another place."""
    x = values_of(x)
    order = list(range(x.ndim))
    axis = order.pop(checked_axis(source, x.ndim))
    order.insert(checked_axis(destination, x.ndim), axis)
    return Transpose(tuple(order)).apply(x)


def squeeze(x: Any, axis: Axes = None, *, dim: Axes = AXIS) -> Tensor:
    """Return x without its axes of length 1, or without the given ones; ShapeError for a longer one."""
    x, given = values_of(x), chosen_axis("squeeze", axis, dim)
    if given is None:
        return reshaped(x, tuple([n for n in x.shape if n != 1]))
    axes = {checked_axis(one, x.ndim) for one in (given if isinstance(given, LISTS) else (given,))}
    if any(x.shape[one] != 1 for one in axes):
        raise ShapeError(f"squeeze: axis {given} of shape {x.shape} has not the length 1")
    return reshaped(x, tuple([n for i, n in enumerate(x.shape) if i not in axes]))


@overload
def unsqueeze(x: Any, axis: int) -> Tensor: ...
@overload
def unsqueeze(x: Any, *, dim: int) -> Tensor: ...
def unsqueeze(x: Any, axis: int = DIM, *, dim: int = AXIS) -> Tensor:
    """Return x with a new axis of length 1 before `axis`; negative ones count from the end of the result."""
    x = values_of(x)
    axis = checked_axis(chosen_axis("unsqueeze", axis, dim, DIM), x.ndim + 1)
    return reshaped(x, (*x.shape[:axis], 1, *x.shape[axis:]))


def broadcast_to(x: Any, *shape: Any) -> Tensor:
    """Return x repeated to a shape: along axes of length 1, and along new ones before.

    Raises ShapeError where lengths do not fit.
    """
    x, wanted = values_of(x), lengths(shape)
    lead = len(wanted) - x.ndim
    if lead < 0 or any(n not in (1, m) for n, m in zip(x.shape, wanted[lead:], strict=True)):
        raise ShapeError(f"shape {x.shape} does not broadcast to {wanted}: read from the last axis on, "
                         f"lengths must be equal, or that of x 1")
    return Broadcast(wanted).apply(x)


def cat(xs: Sequence[Any], axis: int = 0, *, dim: int = AXIS) -> Tensor:
    """Return tensors and arrays joined along an axis; integers take the dtype of numbers beside them.

    Raises ShapeError where other axes differ.
    """
    return _joined("cat", xs, chosen_axis("cat", axis, dim, 0))


def stack(xs: Sequence[Any], axis: int = 0, *, dim: int = AXIS) -> Tensor:
    """Return tensors and arrays of one shape joined along a new axis. Raises ShapeError for others."""
    xs, axis = _alike("stack", xs), chosen_axis("stack", axis, dim, 0)
    if any(x.shape != xs[0].shape for x in xs):
        raise ShapeError(f"stack: tensors of one shape expected, got {', '.join(str(x.shape) for x in xs)}")
    return concat([unsqueeze(x, axis) for x in xs], checked_axis(axis, xs[0].ndim + 1))


def _joined(what, xs, axis):
    xs = _alike(what, xs)
    axis = checked_axis(axis, xs[0].ndim)
    if any(x.ndim != xs[0].ndim or any(n != m for i, (n, m) in enumerate(zip(x.shape, xs[0].shape,
                                                                             strict=True)) if i != axis)
           for x in xs):
        raise ShapeError(f"{what} along axis {axis}: lengths of all other axes must be equal, got shapes "
                         f"{', '.join(str(x.shape) for x in xs)}")
    return concat(xs, axis)


def _alike(what, xs):
    """Return tensors and arrays as dense tensors of one dtype on one device."""
    if isinstance(xs, Tensor) or not len(xs):
        raise TensorError(f"{what} takes a list of one or more tensors, got "
                          f"{'one tensor' if isinstance(xs, Tensor) else 'an empty one'}")
    like = next((x for x in xs if isinstance(x, Tensor)), None)
    xs = [values_of(as_tensor(x, like)) for x in xs]
    dtype = common_dtype(*[x.dtype for x in xs])
    return [astype(x, dtype) for x in xs]


def split(x: Any, sizes: int | Sequence[int], axis: int = 0, *, dim: int = AXIS) -> tuple[Tensor, ...]:
    """Return x cut along an axis into parts of `sizes` entries: a list, or a number, the last smaller.

    Raises ShapeError for sizes that do not add up.
    """
    x = values_of(x)
    axis = checked_axis(chosen_axis("split", axis, dim, 0), x.ndim)
    length = x.shape[axis]
    if isinstance(sizes, WHOLE):
        if sizes < 1:
            raise ShapeError(f"split: parts of {sizes} entries; expected 1 or more")
        points = list(range(int(sizes), length, int(sizes)))
    else:
        if not isinstance(sizes, LISTS) or not all(isinstance(size, WHOLE) and size >= 0 for size in sizes):
            raise ShapeError(f"split: expected a whole number of entries, or a list of them, got "
                             f"{in_short(sizes)}")
        if sum(sizes) != length:
            raise ShapeError(f"split: sizes {list(sizes)} do not add up to the {length} entries of axis "
                             f"{axis} of shape {x.shape}")
        points = list(np.cumsum(sizes)[:-1].tolist())
    return slice(x, points, axis)


def chunk(x: Any, chunks: int, axis: int = 0, *, dim: int = AXIS) -> tuple[Tensor, ...]:
    """Return x cut along an axis into at most `chunks` parts of one size, the last perhaps smaller.

    Raises ShapeError for fewer than one part.
    """
    x, axis = values_of(x), chosen_axis("chunk", axis, dim, 0)
    if chunks < 1:
        raise ShapeError(f"chunk: into {chunks} parts; expected 1 or more")
    length = x.shape[checked_axis(axis, x.ndim)]
    return split(x, max(1, -(-length // chunks)), axis)
