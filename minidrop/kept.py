"""Kept: which entries of one axis survive; KeptByGroup: others for each group of samples. Integers only."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np

from minidrop.errors import CaptureError


class Kept:
    """The surviving entries of an axis of length `total`, in increasing order.

    Two forms share one interface. The regular form needs four integers and no array:

        unit(j) = start + (j + skip) // width * step + (j + skip) % width,   j = 0 .. count-1

    `start` exceeds -width: a negative one means that the first run began before the axis, and
    skip = max(0, -start) leaves out what lies there. A start of `total` or more keeps nothing: a count of 0
    is legal. The other form is a list of indices.

    `index` is what to index an array with: a slice where one describes the set, else an int64 array. Raises
    ValueError unless 0 < width <= step, start > -width and total >= 0.
    """

    on_device = False       # True: the host does not know its entries
    is_table = False        # True: nor how often each occurs, see TableKept
    # Of disjoint sets that together are the axis: (anything, how many there are).
    family: tuple[object, int] | None = None

    __slots__ = ("total", "count", "regular", "_indices", "__dict__")
    _indices: np.ndarray    # of a set that is not regular

    def __init__(self, start: int, step: int, width: int, total: int):
        try:
            start, step, width, total = map(operator.index, (start, step, width, total))
        except TypeError:
            raise ValueError(f"Kept needs whole numbers, got start={start!r:.40} step={step!r:.40} "
                             f"width={width!r:.40} total={total!r:.40}") from None
        if not (total >= 0 and 0 < width <= step and -width < start):
            raise ValueError(f"Kept needs 0 < width <= step, start > -width and total >= 0; "
                             f"got start={start} step={step} width={width} total={total}")
        self.total = total
        self.regular: tuple[int, int, int] | None = start, step, width
        runs, rest = divmod(max(0, total - start), step)
        self.count = runs * width + min(rest, width) - max(0, -start) if total > start else 0
        self.count = max(0, self.count)

    @classmethod
    def of(cls, indices: Any, total: Any) -> Kept:
        """Return the set of these indices, strictly increasing within 0 .. total-1, or raise ValueError."""
        indices = np.array(indices, dtype=np.int64)     # a copy: frozen below, and the caller's must not be
        if indices.ndim != 1 or (indices.size and (indices[0] < 0 or indices[-1] >= total
                                                   or (np.diff(indices) <= 0).any())):
            raise ValueError(f"Kept.of needs strictly increasing indices within 0..{total - 1}")
        self = object.__new__(cls)
        self.total, self.count, self.regular, self._indices = int(total), int(indices.size), None, indices
        indices.flags.writeable = False
        return self

    @classmethod
    def all(cls, total: int) -> Kept:
        """Return the set of all `total` entries."""
        return cls(0, max(1, total), max(1, total), total)

    @classmethod
    def joined(cls, parts: Any) -> Kept:
        """Return the set of axes put one after the other, each with its own Kept.

        Raises CaptureError for different sets that only the device knows.
        """
        first = parts[0]
        if any(part.on_device for part in parts):
            if any(part is not first for part in parts):
                raise CaptureError(f"{', '.join(map(repr, parts))}, one after the other, are known to the "
                                   f"device alone")
            return first.repeated(len(parts))
        if first.regular is not None and all(part is first for part in parts):
            start, step, width = first.regular
            if first.total % step == 0 and start + width <= step:
                return cls(start, step, width, first.total * len(parts))
        totals = np.cumsum([0, *(part.total for part in parts)])
        return cls.of(np.concatenate([part.indices + start
                                      for part, start in zip(parts, totals, strict=False)]), totals[-1])

    def repeated(self, times: int) -> Kept:
        """Return the set of `times` such axes, one after the other."""
        return self if times == 1 else Kept.joined((self,) * times)

    def spread(self, factor: int) -> Kept:
        """Return the set in which every entry has become a run of `factor` neighbours."""
        if factor == 1:
            return self
        if self.regular is not None:
            return Kept(*(factor * n for n in (*self.regular, self.total))) if factor else Kept.all(0)
        return Kept.of((self.indices[:, None] * factor + np.arange(factor)).reshape(-1), self.total * factor)

    @property
    def is_all(self) -> bool:
        """True where nothing is dropped."""
        return self.count == self.total

    @cached_property
    def indices(self) -> np.ndarray:
        """The kept indices as an int64 array of length `count`."""
        if self.regular is None:
            return self._indices
        start, step, width = self.regular
        j = np.arange(self.count, dtype=np.int64) + max(0, -start)
        indices = start + j // width * step + j % width
        indices.flags.writeable = False
        return indices

    @cached_property
    def places(self) -> np.ndarray:
        """The place of each entry of the axis among the kept ones, -1 for a dropped one: int64 (total,)."""
        places = np.full(self.total, -1)
        places[self.index] = np.arange(self.count)
        places.flags.writeable = False
        return places

    @cached_property
    def index(self) -> Any:
        """A slice where one describes the set, else `indices`."""
        if self.count == self.total:
            return slice(None)
        if self.regular is not None:
            start, step, width = self.regular
            if width == 1:
                return slice(start, self.total, step)
            if self.count and self.indices[-1] - self.indices[0] == self.count - 1:
                first = int(self.indices[0])
                return slice(first, first + self.count)
        return self.indices

    @cached_property
    def runs(self) -> tuple | None:
        """The set as slices of neighbours if there are one or two of them, else None."""
        if self.is_all:
            return (slice(0, self.total),)
        start, step, width = self.regular or (0, 1, 1)
        if self.regular is None or start + 2 * step < self.total:
            return None
        ends = ((max(0, first), min(self.total, first + width)) for first in (start, start + step))
        return tuple(slice(first, last) for first, last in ends if first < last)

    @cached_property
    def run_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """(begins, ends) of the runs of neighbours, int64 (runs,): begins[r] .. ends[r] - 1 are kept."""
        if self.regular is None:
            gaps = np.flatnonzero(np.diff(self.indices) > 1)
            begins = self.indices[np.append(0, gaps + 1)[:self.count]]
            ends = self.indices[np.append(gaps, self.count - 1)[:self.count]] + 1
        else:
            start, step, width = self.regular
            begins = np.arange(start, self.total if self.count else start, step)
            ends = np.minimum(begins + width, self.total)
            begins = np.maximum(begins, 0)
        begins.flags.writeable = ends.flags.writeable = False
        return begins, ends

    def mask(self, dtype: np.dtype | type = bool) -> np.ndarray:
        """Return a dense 0/1 array of length `total`."""
        mask = np.zeros(self.total, dtype)
        mask[self.index] = 1
        return mask

    def _unit(self, j):
        if self.regular is None:
            return int(self._indices[j])
        start, step, width = self.regular
        j += max(0, -start)
        return start + j // width * step + j % width

    @cached_property
    def _outline(self):
        return self.total, self.count, *((self._unit(0), self._unit(self.count - 1)) if self.count else ())

    def __eq__(self, other):
        """Equal sets of the same axis are equal, whatever their form."""
        if self is other:
            return True
        if not isinstance(other, Kept) or self._outline != other._outline:
            return False
        return (self.regular is not None and self.regular == other.regular
                or self.count in (0, self.total) or np.array_equal(self.indices, other.indices))

    def __hash__(self):
        return hash(self._outline)

    def __len__(self):
        return self.count

    def __bool__(self):
        raise TypeError("an empty Kept and no Kept (None) mean opposite things: compare with None, or ask "
                        "for .count")

    def __repr__(self):
        if self.regular is None:
            return f"Kept({self.count} of {self.total})"
        start, step, width = self.regular
        return f"Kept({self.count} of {self.total}: {width} of every {step} from {start})"


class KeptByGroup:
    """The surviving entries of an axis of length `total` for each of several groups of samples: `sets`.

    The samples lie along the axis before the kept one. Of n samples group i of G has those from i n // G to
    (i + 1) n // G - 1; some groups are empty where n < G. An array of the kept entries is as wide as the
    largest set. A group with fewer uses the first columns, and nobody reads its others.
    """

    __slots__ = ("sets", "total", "count", "_parts", "__dict__")

    def __init__(self, sets: Iterable[Kept]):
        self.sets = tuple(sets)
        self._parts: tuple[int, tuple] = -1, ()     # for how many samples, and what `parts` returns for them
        self.total, self.count = self.sets[0].total, max(kept.count for kept in self.sets)
        if any(kept.total != self.total for kept in self.sets):
            raise ValueError(f"groups keep entries of one axis, got axes of "
                             f"{[kept.total for kept in self.sets]} entries")

    @cached_property
    def is_all(self) -> bool:
        """True where no group drops anything."""
        return all(kept.is_all for kept in self.sets)

    @cached_property
    def is_even(self) -> bool:
        """True where all groups keep as many entries."""
        return all(kept.count == self.count for kept in self.sets)

    def bounds(self, samples: int) -> list[tuple[int, int]]:
        """Return (first, last) for each group: it has samples first .. last - 1."""
        return group_bounds(samples, len(self.sets))

    def parts(self, samples: int) -> tuple[tuple[int, int, Kept], ...]:
        """Return (first, last, Kept) in order: groups without samples left out, equal neighbours joined."""
        known, parts = self._parts      # one object, so that another thread never sees half of it
        if known != samples:
            parts = self._find_parts(samples)
            self._parts = samples, parts
        return parts

    def _find_parts(self, samples):
        found: list = []
        for (first, last), kept in zip(self.bounds(samples), self.sets, strict=True):
            if found and found[-1][2] == kept:
                found[-1] = found[-1][0], last, kept
            elif first < last:
                found.append((first, last, kept))
        return tuple(found)

    def between(self, first: int, last: int, samples: int, runs: int = 1) -> Any:
        """Return what samples first .. last - 1 of each of some runs of `samples` keep, as a batch of their
        own: a KeptByGroup, or a Kept where they are all of one group."""
        parts: list = []
        for run in range(runs):
            to_own = run * (last - first) - run * samples - first
            for begin, end, kept in self.parts(runs * samples):
                own = max(begin, run * samples + first) + to_own, min(end, run * samples + last) + to_own
                if own[0] < own[1]:
                    before = parts.pop() if parts and parts[-1][2] == kept else own
                    parts.append((before[0], own[1], kept))
        if len(parts) == 1:
            return parts[0][2]
        if [(begin, end) for begin, end, _ in parts] == group_bounds(runs * (last - first), len(parts)):
            return KeptByGroup(kept for *_, kept in parts)
        size = math.gcd(*(end for _, end, _ in parts))
        return KeptByGroup(kept for begin, end, kept in parts for _ in range(begin, end, size))

    def each(self, change: Callable[[Kept], Kept]) -> KeptByGroup:
        """Return the sets that `change` makes of those of this one."""
        return KeptByGroup(map(change, self.sets))

    def spread(self, factor: int) -> KeptByGroup:
        """Return the sets in which every entry has become a run of `factor` neighbours."""
        return self.each(lambda kept: kept.spread(factor))

    def mask(self, samples: int, dtype: np.dtype | type = bool) -> np.ndarray:
        """Return a dense 0/1 array (samples, total)."""
        mask = np.zeros((samples, self.total), dtype)
        for first, last, kept in self.parts(samples):
            mask[first:last] = kept.mask(dtype)
        return mask

    def __eq__(self, other):
        return self is other or isinstance(other, KeptByGroup) and self.sets == other.sets

    def __hash__(self):
        return hash(self.sets)

    def __repr__(self):
        return f"KeptByGroup({', '.join(map(repr, self.sets))})"


def group_bounds(samples: int, groups: int) -> list[tuple[int, int]]:
    """Return (first, last) for each of `groups` runs of samples, as equal as they can be."""
    ends = [i * samples // groups for i in range(groups + 1)]
    return list(zip(ends[:-1], ends[1:], strict=True))


def are_family(sets: Any) -> bool:
    """Whether sets are the whole of one family: disjoint, and together all of the axis."""
    families = {getattr(kept, "family", None) for kept in sets}     # None stands for all of the axis
    return None not in families and [len(sets)] == [own[-1] for own in families if own is not None]


def are_disjoint(sets: list, total: int) -> bool:
    """Whether no two of some sets of one axis share an entry. None stands for all of it."""
    sets = [Kept.all(total) if kept is None else kept for kept in sets]
    if len(sets) < 2:
        return True
    if any(kept.on_device for kept in sets):
        return are_family(sets)         # the host does not know their entries
    sets = [kept for kept in sets if kept.count]
    if sum(kept.count for kept in sets) > total:
        return False
    taken = np.zeros(total, bool)
    for kept in sets:
        if taken[kept.index].any():
            return False
        taken[kept.index] = True
    return True
