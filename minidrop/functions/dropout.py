"""Dropout: Bernoulli (ordinary), Gaussian, by a drawn pattern (compact), or by a mask (the oracle)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import ShapeError
from minidrop.functions.checks import Key, check_rate, check_real, checked_axis
from minidrop.functions.pieces import MultiplyBlocks
from minidrop.kept import KeptByGroup
from minidrop.patterns.draw import NOTHING

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend
    from minidrop.kept import Kept
    from minidrop.patterns.draw import Draw
    from minidrop.patterns.part import Part


class Dropout(Function):
    """y = x * m * scale, m ~ Bernoulli(1 - rate) for every element, a function of (key, element) alone.

    Srivastava et al. 2014, inverted as in Caffe: scale = 1 / (1 - rate) by default, identity when testing.
    """

    __slots__ = ("rate", "key", "scale", "part", "mask")

    def __init__(self, rate: float, key: int, scale: float | None = None, part: Part | None = None):
        self.rate, self.key, self.part = rate, key, part
        self.scale = 1 / (1 - rate) if scale is None else scale

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        if self.part is not None:
            self.mask = dropout_mask(backend, x.shape, self.rate, self.key, self.part)
            return backend.dropout_gradient(x, self.mask, self.scale)
        y, self.mask = backend.dropout(x, self.rate, self.scale, self.key)
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.dropout_gradient(gy, self.mask, self.scale)


class SharedDropout(Function):
    """y = x * m * scale with one m for all entries along `axes`.

    m is drawn as in `Dropout`, for a shape of length 1 along `axes`.
    """

    __slots__ = ("rate", "key", "scale", "axes", "part", "factor")

    def __init__(self, rate: float, key: int, scale: float, axes: set[int], part: Part | None = None):
        self.rate, self.key, self.scale, self.axes = rate, key, scale, axes
        self.part = None if part is None or part.axis in axes else part

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        shape = tuple(1 if i in self.axes else length for i, length in enumerate(x.shape))
        ones = backend.xp.ones(shape, x.dtype)
        if self.part is not None:
            mask = dropout_mask(backend, shape, self.rate, self.key, self.part)
            self.factor = backend.dropout_gradient(ones, mask, self.scale)
        else:
            self.factor, _ = backend.dropout(ones, self.rate, self.scale, self.key)
        return backend.xp.multiply(x, self.factor, out=backend.empty(x.shape, x.dtype))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.xp.multiply(gy, self.factor, out=backend.empty(gy.shape, gy.dtype))


class GaussianDropout(Function):
    """y = x * (1 + sqrt(rate / (1 - rate)) e), e ~ N(0, 1) per element, a function of (key, element) alone.

    Srivastava et al. 2014, section 10: the factor has the mean and the variance of dropout's m / (1 - rate).
    """

    __slots__ = ("deviation", "key", "part", "factor")

    def __init__(self, rate: float, key: int, part: Part | None = None):
        self.deviation, self.key, self.part = math.sqrt(rate / (1 - rate)), key, part

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        if self.part is None:
            self.factor = backend.gaussian(x.shape, x.dtype, self.key)
        else:
            part = self.part.holding(x.shape[self.part.axis])
            whole = backend.gaussian(part.whole_shape(x.shape), x.dtype, self.key)
            self.factor = backend.xp.ascontiguousarray(part.take(whole))
        self.factor *= x.dtype.type(self.deviation)
        self.factor += x.dtype.type(1)
        return backend.xp.multiply(x, self.factor, out=backend.empty(x.shape, x.dtype))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.xp.multiply(gy, self.factor, out=backend.empty(gy.shape, gy.dtype))


class Scale(Function):
    """y = factor * x."""

    __slots__ = ("factor",)
    kept_rule = "same"

    def __init__(self, factor: float):
        self.factor = factor

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return backend.xp.multiply(x, x.dtype.type(self.factor), out=backend.empty(x.shape, x.dtype))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return self.forward(backend, gy)


class Take(Function):
    """Keep only the entries of `axis` in `kept`: dense x -> compact y that carries `kept`."""

    __slots__ = ("kept", "axis")

    def __init__(self, kept: Kept | KeptByGroup, axis: int):
        self.kept, self.axis = kept, axis

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        if self.kept is not None and self.kept.total != x.shape[self.axis]:
            raise ShapeError(f"take: {self.kept} does not fit axis {self.axis} of shape {x.shape}")
        if isinstance(self.kept, KeptByGroup) and self.axis == 0:
            raise ShapeError(f"take: samples lie along the axis before the kept one, but {self.kept} is for "
                             f"axis 0")
        self.output_kept = (self.kept, self.axis)
        return backend.compact(x, self.kept, self.axis)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.expand(gy, self.kept, self.axis)


class Expand(Function):
    """Restore the full length, zero where dropped: compact x -> dense y. The transpose of `Take`."""

    __slots__ = ("kept", "axis")
    kept_rule = "native"

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.kept, self.axis = self.input_kept[0]
        return backend.expand(x, self.kept, self.axis)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.compact(gy, self.kept, self.axis)


class MultiplyMask(Function):
    """y = x * mask for a constant mask that broadcasts."""

    __slots__ = ("mask",)

    def __init__(self, mask: np.ndarray):
        self.mask = mask

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.mask = backend.asarray(self.mask, x.dtype)
        return x * self.mask

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy * self.mask


def dropout_mask(backend: Backend, shape: tuple[int, ...], rate: float, key: int, part: Part) -> np.ndarray:
    """Return which entries of one part of a batch `Backend.dropout` keeps of the whole, a bool array."""
    tile, begin, strides = part.holding(shape[part.axis]).window(shape)
    return backend.dropout_tile(tile, begin, strides, rate, key).reshape(shape)


def dropout(x: Tensor, rate: float, key: Key, scale: float | None = None, axes: tuple[int, ...] = (),
            part: Part | None = None) -> Tensor:
    """Return x with every element dropped with probability `rate`, the rest scaled by 1 / (1 - rate).

    Along `axes` (negative ones count from the end) all entries are dropped or kept together. part: x has
    these samples of a batch, all of which would be dropped as here.
    """
    check_rate("dropout", rate)
    check_real("dropout", x)
    if rate == 0:
        return x
    if not axes:
        return Dropout(rate, key, scale, part).apply(x)
    scale = 1 / (1 - rate) if scale is None else scale
    return SharedDropout(rate, key, scale, {checked_axis(axis, x.ndim) for axis in axes}, part).apply(x)


def gaussian_dropout(x: Tensor, rate: float, key: Key, part: Part | None = None) -> Tensor:
    """Return x with every element multiplied by a random number of mean 1 and variance rate / (1 - rate).

    part: as in `dropout`.
    """
    check_rate("gaussian_dropout", rate)
    check_real("gaussian_dropout", x)
    return x if rate == 0 else GaussianDropout(rate, key, part).apply(x)


def take(x: Tensor, kept: Kept | KeptByGroup, axis: int = 1) -> Tensor:
    """Return x with only the kept entries of `axis`, carrying `kept`: x times the 0/1 mask, compactly."""
    return Take(kept, checked_axis(axis, x.ndim)).apply(expand(x))


def expand(x: Tensor) -> Tensor:
    """Return x dense, with zeros where its kept set drops; x itself if it is dense already."""
    return x if x.kept is None else Expand().apply(x)


def scale(x: Tensor, factor: float) -> Tensor:
    """Return factor * x; a kept set is passed on."""
    if factor == 1:
        return x
    check_real("scale", x)
    return Scale(factor).apply(x)


def multiply_mask(x: Tensor, mask: Any) -> Tensor:
    """Return x * mask for a constant, broadcasting mask."""
    return MultiplyMask(mask).apply(expand(x))


def approx_dropout(x: Tensor, draw: Draw, axis: int = 1, scaled: bool = False) -> Tensor:
    """Drop what `draw` drops from `axis` of x and scale the rest.

    Units: if x already lacks the dropped ones (their producer did not compute them), only the scale remains
    to be applied, or nothing if x is `scaled`; otherwise the kept ones are gathered. Either way the result
    carries the kept set, so the next product is smaller. Blocks: x is multiplied by their mask and stays
    dense.
    """
    if draw is NOTHING:
        return x
    if draw.masked:
        return multiply_mask(x, draw.mask(x.shape, axis))
    groups = draw.groups(math.prod(x.shape[:axis % x.ndim]), x.shape[0])
    if groups is not None:
        return MultiplyBlocks(groups, draw.scale, axis % x.ndim).apply(expand(x))
    if draw.kept is None:
        x = expand(x)
    elif x.kept != draw.kept or x.kept_axis != axis:
        x = take(x, draw.kept, axis)
    elif scaled:
        return x
    return scale(x, draw.scale)
