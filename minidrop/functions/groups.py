"""Groups of samples, each with units of its own: taking activations apart, and putting them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.kept import KeptByGroup, group_bounds

if TYPE_CHECKING:
    from minidrop.backend import Backend


class SplitGroups(Function):
    """Cut x along the axis of samples into one output for each group that has any.

    If x carries a KeptByGroup, each output carries the Kept of its group.
    """

    __slots__ = ("groups", "axis", "places", "shape", "dtype")
    kept_rule = "native"

    def __init__(self, groups: int, axis: int):
        self.groups, self.axis = groups, axis

    def forward(self, backend: Backend, x: np.ndarray) -> tuple[np.ndarray, ...]:
        kept, kept_axis = self.input_kept[0]
        grouped = isinstance(kept, KeptByGroup)
        sets = kept.sets if isinstance(kept, KeptByGroup) else [kept] * self.groups
        self.shape, self.dtype = x.shape, x.dtype
        own_of = inhabited(x.shape[self.axis], sets)
        self.places = [_place(x.ndim, self.axis, bound, kept_axis, own.count if grouped else None)
                       for bound, own in own_of]
        self.output_kept = [(own, kept_axis) for _, own in own_of]
        return tuple(backend.xp.ascontiguousarray(x[place]) for place in self.places)

    def backward(self, backend: Backend, gy: tuple, wanted: Sequence[bool]) -> np.ndarray:
        gx = backend.zeros(self.shape, self.dtype)
        for place, g in zip(self.places, gy, strict=True):
            if g is not None:
                gx[place] = g
        return gx


class JoinGroups(Function):
    """Put groups of samples together again: the inverse of `SplitGroups`, without groups that have no sample.

    kept: a KeptByGroup of which each input carries the Kept of its group; None if all carry the same.
    """

    __slots__ = ("kept", "axis", "samples", "places")
    kept_rule = "native"

    def __init__(self, kept: KeptByGroup | None, axis: int, samples: int):
        self.kept, self.axis, self.samples = kept, axis, samples

    def forward(self, backend: Backend, *xs: np.ndarray) -> np.ndarray:
        own, kept_axis = next((pair for pair in self.input_kept if pair[0] is not None), (None, -1))
        shape = [self.samples if i == self.axis else n for i, n in enumerate(xs[0].shape)]
        if self.kept is not None:
            own, shape[kept_axis] = self.kept, self.kept.count
        self.output_kept = own, kept_axis % xs[0].ndim
        even = self.kept is None or self.kept.is_even
        y = (backend.empty if even else backend.zeros)(tuple(shape), xs[0].dtype)
        self.places, first = [], 0
        for x in xs:
            bound = first, first + x.shape[self.axis]
            self.places.append(_place(x.ndim, self.axis, bound, kept_axis, x.shape[kept_axis]))
            y[self.places[-1]] = x
            first = bound[1]
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple[np.ndarray, ...]:
        return tuple(backend.xp.ascontiguousarray(gy[place]) for place in self.places)


def inhabited(samples: int, sets: Sequence) -> list[tuple[tuple[int, int], Any]]:
    """Return ((first, last), set) of the groups that have samples; of the first where there are no samples.

    sets: anything that there is one of for each group.
    """
    pairs = list(zip(group_bounds(samples, len(sets)), sets, strict=True))
    return [(bound, own) for bound, own in pairs if bound[0] < bound[1]] or pairs[:1]


def _place(ndim, axis, bound, kept_axis, count):
    """Return the index of a group's entries in an array of all groups; count None: all of the kept axis."""
    place = [slice(None)] * ndim
    if count is not None:
        place[kept_axis] = slice(count)
    place[axis] = slice(*bound)
    return tuple(place)


def by_groups(work: Callable[..., Tensor], tensors: Sequence[Tensor], kept: KeptByGroup, axis: int,
              result: KeptByGroup | None) -> Tensor:
    """Return work(Kept of the group, parts...) for each group of the samples of `tensors`, put together.

    axis: of the samples, in `tensors` and in the result, which carries the KeptByGroup `result`; None: what
    every part carries.
    """
    samples = tensors[0].shape[axis]
    split = [SplitGroups(len(kept.sets), axis).apply(x) for x in tensors]
    sets = [own for _, own in inhabited(samples, kept.sets)]
    made = [work(own, *parts) for own, *parts in zip(sets, *split, strict=True)]
    return JoinGroups(result, axis, samples).apply(*made)
