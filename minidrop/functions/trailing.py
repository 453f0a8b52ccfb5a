"""Functions of all axes from one on: crop, tile, reduction. A kept set on an axis before is passed on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Function
from minidrop.config.numbers import whole_number
from minidrop.errors import KeptError, ShapeError
from minidrop.functions.checks import check_name, checked_axis

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class _Trailing(Function):
    """Base class: what is computed from an entry of an axis before `axis` is that axis' entry of the result.

    Axes after `axis` cannot carry a kept set either: it may differ between groups of samples, which lie along
    the axes before it.
    """

    __slots__ = ("axis", "shape")
    kept_rule = "native"
    axis: int
    shape: tuple[int, ...]      # of x

    def carry(self, x: np.ndarray) -> None:
        """Note the shape of x, and pass its kept set on; KeptError if that is on `axis` or after it."""
        kept, at = self.input_kept[0]
        if kept is not None and at % x.ndim >= self.axis:
            raise KeptError(f"{type(self).__name__} from axis {self.axis} on needs every entry of axis {at}, "
                            f"which carries {kept}; call functions.expand on it first")
        self.shape, self.output_kept = x.shape, (kept, at)


class Crop(_Trailing):
    """y = x[..., offset : offset + length, ...] on each axis from `axis` on."""

    __slots__ = ("offsets", "lengths")

    def __init__(self, axis: int, offsets: Sequence[int], lengths: Sequence[int]):
        self.axis, self.offsets, self.lengths = axis, tuple(offsets), tuple(lengths)

    @property
    def place(self) -> tuple[slice, ...]:
        """The index of y in x."""
        return (slice(None),) * self.axis + tuple(slice(offset, offset + length) for offset, length
                                                  in zip(self.offsets, self.lengths, strict=True))

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.carry(x)
        ends = [offset + length for offset, length in zip(self.offsets, self.lengths, strict=True)]
        if len(ends) != x.ndim - self.axis or any(end > length for end, length
                                                  in zip(ends, x.shape[self.axis:], strict=True)):
            raise ShapeError(f"crop: lengths {self.lengths} from offsets {self.offsets} on do not fit into "
                             f"shape {x.shape} from axis {self.axis} on")
        return backend.xp.ascontiguousarray(x[self.place])

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        gx = backend.zeros(self.shape, gy.dtype)
        gx[self.place] = gy
        return gx


class Tile(_Trailing):
    """`tiles` copies of x, one after the other along `axis`."""

    __slots__ = ("tiles",)

    def __init__(self, tiles: int, axis: int):
        self.tiles, self.axis = tiles, axis

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.carry(x)
        return backend.concatenate([x] * self.tiles, self.axis)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        copies = gy.reshape(self.shape[:self.axis] + (self.tiles,) + self.shape[self.axis:])
        return copies.sum(axis=self.axis)


OPERATIONS = ("SUM", "ASUM", "SUMSQ", "MEAN")


class Reduction(_Trailing):
    """y = coeff times the "SUM", "ASUM" (of |x|), "SUMSQ" (of x^2) or "MEAN" over all axes from `axis` on."""

    __slots__ = ("operation", "coeff", "factor", "x")

    def __init__(self, operation: str, axis: int, coeff: float = 1.0):
        self.operation, self.axis, self.coeff = operation, axis, coeff

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.carry(x)
        lead, rest = x.shape[:self.axis], math.prod(x.shape[self.axis:])
        mean = self.operation == "MEAN"
        if mean and not rest:
            raise ShapeError(f"shape {x.shape} has no entries from axis {self.axis} on to take a mean of")
        self.factor = x.dtype.type(self.coeff / rest if mean else self.coeff)
        if self.operation in ("ASUM", "SUMSQ"):
            self.x = x
        terms = (backend.xp.abs(x) if self.operation == "ASUM" else
                 backend.xp.square(x) if self.operation == "SUMSQ" else x)
        return (terms.reshape(math.prod(lead), rest).sum(axis=1) * self.factor).reshape(lead)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        xp = backend.xp
        g = (gy * self.factor).reshape(gy.shape + (1,) * (len(self.shape) - self.axis))
        if self.operation == "ASUM":
            return g * xp.sign(self.x)
        if self.operation == "SUMSQ":
            return g * self.x * gy.dtype.type(2)
        return xp.ascontiguousarray(xp.broadcast_to(g, self.shape))


def crop(x: Tensor, axis: int, offsets: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """Return of each axis from `axis` on the entries offset .. offset + length - 1."""
    return Crop(checked_axis(axis, x.ndim), offsets, lengths).apply(x)


def tile(x: Tensor, tiles: int, axis: int = 1) -> Tensor:
    """Return `tiles` copies of x, one after the other along `axis`."""
    return Tile(whole_number("tile: tiles", tiles, 1), checked_axis(axis, x.ndim)).apply(x)


def reduction(x: Tensor, operation: str = "SUM", axis: int = 0, coeff: float = 1.0) -> Tensor:
    """Return coeff times the sum over all axes from `axis` on; other operations: see `Reduction`."""
    check_name("reduction", operation, OPERATIONS)
    return Reduction(operation, checked_axis(axis, x.ndim), coeff).apply(x)
