"""Parameters that cover some axes of x: read and differentiated where x, perhaps compact, has entries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Block, Tensor
from minidrop.errors import KeptError, ShapeError
from minidrop.functions.dropout import expand
from minidrop.functions.groups import by_groups
from minidrop.kept import Kept, KeptByGroup

if TYPE_CHECKING:
    from minidrop.autograd import Function
    from minidrop.backend.generic.base import Backend


class Along:
    """How parameters of one shape lie along an array x: they cover its axes from `axis` on.

    view: x as (samples, channels, places), where each parameter has one entry for a channel. kept: of the
    axis of x that it is on, `kept_axis`; where the parameters cover that, theirs too.

    Raises ShapeError if the shapes do not fit, KeptError if groups of samples keep different entries of a
    covered axis.
    """

    __slots__ = ("kept", "at", "shape", "view")

    def __init__(self, x_shape: tuple[int, ...], axis: int, shape: tuple[int, ...],
                 kept: Kept | KeptByGroup | None = None, kept_axis: int = 1):
        end, kept_axis = axis + len(shape), kept_axis % max(1, len(x_shape))
        lengths = list(x_shape[axis:end])
        self.kept: Kept | None = None
        self.at = 0
        if kept is not None and axis <= kept_axis < end:
            if isinstance(kept, KeptByGroup):
                raise KeptError(f"parameters along axes {axis} to {end - 1} need one kept set for all "
                                f"samples, got {kept}; call functions.expand on it first")
            self.kept, self.at = kept, kept_axis - axis
            lengths[self.at] = kept.total
        if tuple(lengths) != tuple(shape):
            raise ShapeError(f"parameters of shape {tuple(shape)} from axis {axis} on do not fit x, which "
                             f"has {tuple(lengths)} there")
        self.shape = x_shape[axis:end]
        self.view = math.prod(x_shape[:axis]), math.prod(self.shape), math.prod(x_shape[end:])

    def take(self, backend: Backend, parameter: np.ndarray) -> np.ndarray:
        """Return the entries of a parameter that x has, (channels,)."""
        return backend.take(parameter, self.kept, self.at).reshape(self.view[1])

    def gradient(self, backend: Backend, g: np.ndarray) -> Block | np.ndarray:
        """Return g (channels,) as the gradient of a parameter."""
        if self.kept is None:
            return g.reshape(self.shape)
        if self.at == 0:        # a row for each kept entry, if there is more than one number for it
            rest = self.shape[1:]
            return Block(g.reshape(self.shape[0], math.prod(rest)) if rest else g, self.kept)
        return backend.put(g.reshape(self.shape), self.kept, self.at)


def each_group(work: Callable[[Tensor], Tensor], x: Tensor, axis: int, count: int) -> Tensor:
    """Return work(x), where parameters cover `count` axes of x from `axis` on.

    If groups of samples keep different entries of one of these, each group is worked on alone; if the samples
    lie along another of these, x is expanded.
    """
    kept, kept_axis = x.kept, x.kept_axis % max(1, x.ndim)
    if not isinstance(kept, KeptByGroup) or not axis <= kept_axis < axis + count:
        return work(x)
    if axis < kept_axis:
        return work(expand(x))
    return by_groups(lambda _, part: work(part), [x], kept, kept_axis - 1, kept)


def carried(function: Function, ndim: int, axes: range, why: str) -> tuple:
    """Return (kept, axis) of the first input; raises KeptError if the set is on none of `axes`."""
    kept, axis = function.input_kept[0]
    if kept is not None and axis % ndim not in axes:
        raise KeptError(f"{type(function).__name__} {why}, but its input carries {kept} on axis {axis}; call "
                        f"functions.expand on it first")
    return kept, axis
