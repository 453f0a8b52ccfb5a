"""Rearranging data: reshape, flatten, concat, slice, permute, patches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import ShapeError
from minidrop.functions.checks import checked_axis
from minidrop.functions.conversion import astype
from minidrop.functions.dropout import expand
from minidrop.functions.groups import by_groups
from minidrop.functions.operands import common_dtype
from minidrop.kept import Kept, KeptByGroup

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class Reshape(Function):
    """The same elements in another shape."""

    __slots__ = ("shape", "before")

    def __init__(self, shape: tuple[int, ...]):
        self.shape = tuple(shape)

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.before = x.shape
        return x.reshape(self.shape)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy.reshape(self.before)


class Flatten(Function):
    """Merge axes `axis` .. `end`. A kept set on the first of them is passed on, each entry as a run; one on
    an axis that is not merged stays on it."""

    __slots__ = ("axis", "end", "before")
    kept_rule = "native"

    def __init__(self, axis: int, end: int):
        self.axis, self.end = axis, end

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        kept, at = self.input_kept[0]
        rest = math.prod(x.shape[self.axis + 1:self.end + 1])
        if kept is not None:
            at %= x.ndim
            samples = at - 1 if isinstance(kept, KeptByGroup) else at
            if self.axis < at and samples <= self.end:
                raise ShapeError(f"flatten from axis {self.axis} on would mix the entries of {kept} on axis "
                                 f"{at}; call functions.expand on it first")
            self.output_kept = ((kept.spread(rest), at) if at == self.axis else
                                (kept, at if at < self.axis else at - self.end + self.axis))
        self.before = x.shape
        return x.reshape(x.shape[:self.axis] + (x.shape[self.axis] * rest,) + x.shape[self.end + 1:])

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy.reshape(self.before)


class Concat(Function):
    """Join along `axis`. If all inputs carry kept sets on that axis, the output carries them joined."""

    __slots__ = ("axis", "ends")
    kept_rule = "native"

    def __init__(self, axis: int = 1):
        self.axis = axis

    def forward(self, backend: Backend, *xs: np.ndarray) -> np.ndarray:
        kept, axis = [kept for kept, _ in self.input_kept], self.axis % xs[0].ndim
        if any(one is not None for one in kept):
            if any(one is None or its_axis % xs[0].ndim != axis for one, its_axis in self.input_kept):
                raise ShapeError(f"concat on axis {axis} needs inputs that are all dense, or all with a kept "
                                 f"set on it, got {', '.join(map(repr, kept))}; call functions.expand on "
                                 f"them first")
            self.output_kept = (Kept.joined(kept), axis)
        _check_lengths(xs, axis)
        self.ends = list(itertools.accumulate(x.shape[self.axis] for x in xs))
        return backend.concatenate(xs, self.axis)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple[np.ndarray, ...]:
        return tuple(backend.xp.split(gy, self.ends[:-1], axis=self.axis))


def _check_lengths(xs, axis):
    """Raise ShapeError unless arrays are equally long along all other axes."""
    if len({(*x.shape[:axis], *x.shape[axis + 1:]) for x in xs}) > 1:
        raise ShapeError(f"concat along axis {axis}: lengths of all other axes must be equal, got shapes "
                         f"{', '.join(str(x.shape) for x in xs)}")


class Slice(Function):
    """Cut `axis` before each of `points` into len(points) + 1 outputs."""

    __slots__ = ("points", "axis", "shapes", "dtype")

    def __init__(self, points: list[int], axis: int = 1):
        self.points, self.axis = list(points), axis

    def forward(self, backend: Backend, x: np.ndarray) -> tuple[np.ndarray, ...]:
        parts = tuple(backend.xp.split(x, self.points, axis=self.axis))
        self.shapes, self.dtype = [part.shape for part in parts], x.dtype
        return parts

    def backward(self, backend: Backend, gy: tuple, wanted: Sequence[bool]) -> np.ndarray:
        whole = [backend.zeros(shape, self.dtype) if g is None else g
                 for g, shape in zip(gy, self.shapes, strict=True)]
        return backend.concatenate(whole, self.axis)


class Permute(Function):
    """The axes of x in another order: axis order[i] of x becomes axis i of y."""

    __slots__ = ("order",)

    def __init__(self, order: Sequence[int]):
        self.order = tuple(order)

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        if sorted(self.order) != list(range(x.ndim)):
            raise ShapeError(f"permute needs each of the {x.ndim} axes of x once, got {self.order}")
        return backend.xp.ascontiguousarray(x.transpose(self.order))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.xp.ascontiguousarray(gy.transpose([self.order.index(i) for i in range(gy.ndim)]))


class Patches(Function):
    """Images (N, C, H, W) as sequences of square patches, row by row: (H / size * W / size, N, C * size^2).

    The values of a patch are in the order (C, size, size), that of the weights of a convolution.
    """

    __slots__ = ("size", "before")

    def __init__(self, size: int):
        self.size = size

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.before, size = x.shape, self.size
        if x.ndim != 4 or size < 1 or x.shape[2] % size or x.shape[3] % size:
            raise ShapeError(f"patches of side {size} need images (records, channels, height, width) that "
                             f"they cover, got {x.shape}")
        n, c, h, w = x.shape
        cut = x.reshape(n, c, h // size, size, w // size, size).transpose(2, 4, 0, 1, 3, 5)
        return backend.xp.ascontiguousarray(cut).reshape(h // size * (w // size), n, c * size * size)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        (n, c, h, w), size = self.before, self.size
        cut = gy.reshape(h // size, w // size, n, c, size, size).transpose(2, 3, 0, 4, 1, 5)
        return backend.xp.ascontiguousarray(cut).reshape(self.before)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return x with another shape; one entry of `shape` may be -1. Raises ShapeError if it does not fit."""
    known = math.prod([n for n in shape if n != -1])
    size = math.prod(x.shape)
    if -1 in shape and (not known or size % known) or -1 not in shape and size != known:
        raise ShapeError(f"shape {x.shape} of {size} entries cannot become {tuple(shape)}")
    return Reshape(tuple(shape)).apply(x)


def flatten(x: Tensor, axis: int = 1, end_axis: int = -1) -> Tensor:
    """Return x with axes `axis` .. `end_axis` merged into one."""
    return Flatten(checked_axis(axis, x.ndim), checked_axis(end_axis, x.ndim)).apply(x)


def concat(xs: Sequence[Tensor], axis: Any = 1) -> Tensor:
    """Return the tensors joined along `axis`; raises ShapeError where they do not fit."""
    if not xs:
        raise ShapeError("concat joins one or more tensors, got none")
    checked_axis(axis, xs[0].ndim)
    if len({x.dtype for x in xs}) > 1:
        dtype = common_dtype(*[x.dtype for x in xs])
        xs = [astype(x, dtype) for x in xs]
    along = [x.kept is not None and x.kept_axis % x.ndim == axis % x.ndim for x in xs]
    groups = {len(x.kept.sets) for x, own in zip(xs, along, strict=True)
              if own and isinstance(x.kept, KeptByGroup)}
    if len(groups) > 1:             # the samples are cut at other places in each
        xs = [expand(x) for x in xs]
    if len(groups) == 1 and all(along):
        return _concat_groups(xs, axis % xs[0].ndim, *groups)
    return Concat(axis).apply(*xs)


def _concat_groups(xs, axis, groups):
    """Join tensors group by group: in each a group may have fewer entries than another."""
    sets = [x.kept.sets if isinstance(x.kept, KeptByGroup) else (x.kept,) * groups for x in xs]
    kept = KeptByGroup(map(Kept.joined, zip(*sets, strict=True)))
    return by_groups(lambda _, *parts: Concat(axis).apply(*parts), xs, kept, axis - 1, kept)


def slice(x: Tensor, points: list[int], axis: Any = 1) -> Any:
    """Return x cut along `axis` before each of `points`, as a tuple; raises ShapeError for wrong points."""
    bounds = [0, *points, x.shape[checked_axis(axis, x.ndim)]]
    if bounds != sorted(bounds):
        raise ShapeError(f"slice: expected points in ascending order within the {bounds[-1]} entries of axis "
                         f"{axis} of shape {x.shape}, got {list(points)}")
    return Slice(points, axis).apply(x)


def permute(x: Tensor, order: Sequence[int]) -> Tensor:
    """Return x with its axes in another order: axis order[i] of x becomes axis i."""
    return Permute(order).apply(x)


def patches(x: Tensor, size: int) -> Tensor:
    """Return images (N, C, H, W) as sequences of square patches (patches, N, C * size^2); see `Patches`."""
    return Patches(size).apply(x)
