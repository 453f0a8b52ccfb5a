"""Draw: what one iteration drops at one site, in its various forms. Immutable; layers only read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.errors import CaptureError, ShapeError
from minidrop.kept import KeptByGroup
from minidrop.patterns.base import Pattern
from minidrop.patterns.grid import BlockGrid, BlockGroups

if TYPE_CHECKING:
    from minidrop.kept import Kept
    from minidrop.patterns.part import Part


class Draw:
    """Nothing is dropped: the form of an inactive drop, and the base of the other forms.

    scale: what surviving values are multiplied by. kept: the Kept of the units, or None if all live.
    pattern: the Pattern that was drawn, or None.
    """

    scale: float = 1.0
    pattern: Pattern | None = None
    masked = False

    @property
    def kept(self) -> Kept | KeptByGroup | None:
        return None

    def tiles(self, outputs: int, inputs: int) -> Any:
        """What lives of a product's weights: (outputs, inputs) pairs of Kept, or None if all live."""
        return None

    def groups(self, samples: int, steps: int | None = None) -> Any:
        """What lives of activations (samples, total): (first, last, Kept) per group of samples, or None.

        steps: how many steps of sequences the samples are, where a batch may have fewer than the longest.
        """
        return None

    def grid(self, samples: Any) -> Any:
        """The BlockGrid of activations (samples, total), or None if no grid describes what lives."""
        return None

    def kept_sets(self, weights: Any = None) -> list:
        """Every Kept of this draw that layers read, in order; `weights`: (outputs, inputs) of its product."""
        return []

    def given(self, read: Any) -> Draw:
        """Return this draw with what a captured step reads in place of its `kept_sets`, or of its grid."""
        return self

    def of_part(self, part: Part, shape: Sequence[int], axis: int) -> Draw:
        """Return what one rank's part of the batch drops, whose activations have this shape."""
        return self

    def mask(self, shape: Sequence[int], axis: int) -> np.ndarray:
        """The mask, scale included, that dense code multiplies activations of `shape` by; it broadcasts."""
        return np.ones([length if i == axis % len(shape) else 1 for i, length in enumerate(shape)])

    def weight_mask(self, outputs: int, inputs: int) -> np.ndarray:
        """The mask (outputs, inputs), scale included, that dense code multiplies a product's weights by."""
        return np.ones((outputs, inputs))


NOTHING = Draw()


@dataclass(frozen=True)
class Units(Draw):
    """The units of `every` live: a Kept for the whole batch, or a KeptByGroup. `kept` is None if all live."""

    pattern: Pattern | None = field()
    every: Kept | KeptByGroup = field()
    scale: float = field()

    @cached_property
    def kept(self) -> Any:
        return None if self.every.is_all else self.every

    def kept_sets(self, weights: Any = None) -> list[Kept]:
        if self.kept is None:
            return []
        return list(self.kept.sets) if isinstance(self.kept, KeptByGroup) else [self.kept]

    def given(self, sets: list[Kept]) -> Draw:
        if not sets:
            return self
        return replace(self, every=KeptByGroup(sets) if isinstance(self.every, KeptByGroup) else sets[0])

    def of_part(self, part: Part, shape: Sequence[int], axis: int) -> Draw:
        if part.axis != axis - 1:
            return self
        return replace(self, every=_kept_of(self.every, part, shape[part.axis] // part.count))

    def mask(self, shape: Sequence[int], axis: int) -> np.ndarray:
        axis %= len(shape)
        spread = [length if i == axis else 1 for i, length in enumerate(shape)]
        if isinstance(self.every, KeptByGroup):
            spread[axis - 1] = shape[axis - 1]
            mask = self.every.mask(shape[axis - 1], np.float64)
        else:
            mask = self.every.mask(np.float64)
        return (mask * self.scale).reshape(spread)


@dataclass(frozen=True)
class Weights(Draw):
    """Weights of one product; `sets`, if given, replace the pattern's own."""

    pattern: Pattern = field()
    scale: float = field()
    sets: tuple[Kept, ...] | None = None

    def tiles(self, outputs: int, inputs: int) -> tuple[tuple[Kept, Kept], ...]:
        if self.sets is None:
            return self.pattern.tiles(outputs, inputs)
        return tuple(zip(self.sets[::2], self.sets[1::2], strict=True))

    def kept_sets(self, weights: Any = None) -> list[Kept]:
        return [kept for tile in self.pattern.tiles(*weights) for kept in tile]

    def given(self, sets: list[Kept]) -> Draw:
        return replace(self, sets=tuple(sets))

    def weight_mask(self, outputs: int, inputs: int) -> np.ndarray:
        return self.pattern.weight_mask(outputs, inputs).astype(np.float64) * self.scale

    def as_units(self, total: Any) -> Draw:
        """Return the Units, in runs, that are dropped instead when no product drops the weights."""
        return Units(self.pattern, self.pattern.kept(total), self.scale)


@dataclass(frozen=True)
class Blocks(Draw):
    """Blocks of activations, different ones for each group of samples; `read`: see `given`."""

    pattern: Pattern = field()
    total: int = field()
    scale: float = field()
    read: BlockGrid | None = None

    def groups(self, samples: int,
               steps: int | None = None) -> BlockGroups | tuple[tuple[int, int, Kept], ...]:
        if self.read is not None:
            return BlockGroups(self.read, samples, self.total)
        return self.pattern.groups(samples, self.total)

    def grid(self, samples: Any) -> Any:
        return self.pattern.grid(samples, self.total) if self.pattern.rate else None

    def given(self, grid: BlockGrid) -> Draw:
        return replace(self, read=grid)

    def of_part(self, part: Part, shape: Sequence[int], axis: int) -> Draw:
        if part.axis >= axis:
            return self
        inner = int(np.prod(shape[part.axis + 1:axis]))
        return PartOfBlocks(self.pattern, self.total, self.scale, part=part, inner=inner)

    def mask(self, shape: Sequence[int], axis: int) -> np.ndarray:
        axis %= len(shape)
        samples = int(np.prod(shape[:axis]))
        mask = np.full((samples, self.total), self.scale)
        for first, last, kept in self.groups(samples, shape[0]):
            mask[first:last] *= kept.mask(np.float64)
        return mask.reshape(*shape[:axis + 1], *[1] * (len(shape) - axis - 1))


@dataclass(frozen=True)
class PartOfBlocks(Blocks):
    """The Blocks of a whole batch, for one rank's part of it; each sample is `inner` rows."""

    part: Part = field(kw_only=True)
    inner: int = 1

    def groups(self, samples: int, steps: int | None = None) -> tuple[tuple[int, int, Kept], ...]:
        if not samples:
            return ()
        part = self.part.holding(samples // self.inner)
        own, every = part.count * self.inner, part.whole * self.inner
        runs = samples // own
        whole = self.pattern.groups(runs * every, self.total)
        number = np.repeat(np.arange(len(whole)), [last - first for first, last, _ in whole])
        number = number.reshape(runs, every)[:, part.first * self.inner:][:, :own].reshape(-1)
        ends = [*(np.flatnonzero(np.diff(number)) + 1).tolist(), samples]
        return tuple((first, last, whole[number[first]][2])
                     for first, last in zip([0, *ends[:-1]], ends, strict=True))

    def grid(self, samples: int) -> Any:
        raise CaptureError("the blocks of a part of a batch have no grid of their own")


@dataclass(frozen=True)
class Steps(Blocks):
    """Units of sequences (steps, streams, total), different ones in each run of steps: those of `by_run`.

    by_run: a Kept or a KeptByGroup of the streams for each run. steps: of a sequence; a batch may have fewer.
    held: the steps of a run; the last one may have fewer.
    """

    by_run: tuple = ()
    layer: str = ""
    steps: int = 0
    held: int = 1

    @property
    def by_step(self) -> tuple:
        """What lives at each step; the steps of a run share one object."""
        return self.of_first(self.steps)

    def of_first(self, steps: int) -> tuple:
        """What lives at each of the first steps, all that a batch has. Raises ShapeError if it has more."""
        if steps > self.steps:
            raise ShapeError(f"layer {self.layer!r} draws patterns for at most {self.steps} steps, but the "
                             f"batch has {steps}; build the net for its longest batch")
        return tuple(self.by_run[t // self.held] for t in range(steps))

    def of_part(self, part: Part, shape: Sequence[int], axis: int) -> Draw:
        if part.axis != axis - 1:
            return self
        return replace(self, by_run=tuple(_kept_of(every, part) for every in self.by_run))

    def groups(self, samples: int, steps: int | None = None) -> tuple[tuple[int, int, Kept], ...]:
        by_step = self.by_step if steps is None else self.of_first(steps)
        streams = samples // max(1, len(by_step))   # samples are ordered by step: (steps, streams, total)
        found: list = []
        for begin in range(0, len(by_step), self.held):
            every, end = by_step[begin], min(begin + self.held, len(by_step))
            parts = every.parts(streams) if isinstance(every, KeptByGroup) else [(0, streams, every)]
            if len(parts) == 1:                     # the same for all streams, so the run is one group
                found.append((begin * streams, end * streams, parts[0][2]))
                continue
            found += [(t * streams + first, t * streams + last, kept) for t in range(begin, end)
                      for first, last, kept in parts]
        return tuple(found)

    def grid(self, samples: int) -> Any:
        every = "step" if self.held == 1 else f"{self.held} steps"
        raise CaptureError(f"layer {self.layer!r} draws another pattern for each {every}")


@dataclass(frozen=True)
class Masked(Draw):
    """The dense form of another draw: everything is computed and multiplied by the mask of `draw`."""

    draw: Draw
    scale: float = field(init=False)
    pattern: Pattern | None = field(init=False)
    masked = True

    def __post_init__(self):
        object.__setattr__(self, "scale", self.draw.scale)
        object.__setattr__(self, "pattern", self.draw.pattern)

    def mask(self, shape: Sequence[int], axis: int) -> np.ndarray:
        return self.draw.mask(shape, axis)

    def weight_mask(self, outputs: int, inputs: int) -> np.ndarray:
        return self.draw.weight_mask(outputs, inputs)


def _kept_of(every, part, runs=1):
    """Return what the samples of a part keep, from the Kept or KeptByGroup of all runs of the whole batch."""
    if not isinstance(every, KeptByGroup):
        return every
    return every.between(part.first, part.first + part.count, part.whole, runs)
