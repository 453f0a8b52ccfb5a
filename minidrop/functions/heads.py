"""Which heads of attention are computed together: stacks of matrices that are views, found from kept sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minidrop.backend.device_sets import MovingKept, RepeatedKept
from minidrop.kept import Kept, KeptByGroup

if TYPE_CHECKING:
    from minidrop.autograd import Tensor


@dataclass(frozen=True)
class Stack:
    """Pairs of a sample and a head whose matrices have one size, so that batched products do all of them.

    pairs: how many there are. start, stride: pair number p is number start + stride p of those of a net that
    drops nothing, sample * heads + head. heads: of each sample. samples: which ones; None for all. reads,
    values: the columns of q and k, and of v; None for all, of which each head has its share.
    """

    pairs: int
    start: int
    stride: int
    heads: int
    samples: slice | None = None
    reads: slice | None = None
    values: slice | None = None

    def view(self, x: np.ndarray, columns: slice | None) -> np.ndarray:
        """Return x (steps, samples, columns), C-contiguous, as a view (pairs, steps, columns of a head)."""
        if self.samples is None:
            steps, samples, entries = x.shape
            x = x.reshape(steps, samples * self.heads, entries // self.heads)
        else:
            x = x[:, self.samples, columns]
        return x.transpose(1, 0, 2)


def stacks_of(heads: int, samples: int, size: int, width: int, kept: Kept | KeptByGroup | None,
              whole: bool, in_order: bool) -> list[Stack]:
    """Return the Stacks of all heads of which something is left.

    size, width: of a head of q and k, and of v, where nothing is dropped. kept: what v keeps of its last
    axis. whole: q and k keep the very heads that v keeps, and no others. If every sample keeps equal heads,
    all are one Stack; otherwise there is one for each head and group of samples. in_order: the numbers of the
    pairs matter.
    """
    if not samples:
        return []
    if kept is None or _on_device(kept):        # see `splits_evenly`
        return [Stack(samples * heads, 0, 1, heads)]
    parts = kept.parts(samples) if isinstance(kept, KeptByGroup) else [(0, samples, kept)]
    counts = [_by_head(own, heads) for _, _, own in parts]
    left = {(int(np.count_nonzero(count)), int(n)) for count in counts for n in set(count) - {0}}
    if len(left) == 1 and all(count.any() for count in counts):
        (number, entries), = left
        if (number == heads or whole and not in_order) and number * entries == kept.count:
            return [Stack(samples * number, 0, 1, number)]
    found = []
    for (first, last, _), count in zip(parts, counts, strict=True):
        ends = np.cumsum(count).tolist()
        for place, head in enumerate(np.flatnonzero(count).tolist()):
            column = size * (place if whole else head)
            values = slice(ends[head] - int(count[head]), ends[head])
            found.append(Stack(last - first, first * heads + head, heads, 1, slice(first, last),
                               slice(column, column + size), values))
    return found


def keep_same_heads(q: Tensor, k: Tensor, v: Tensor, heads: int) -> bool:
    """Whether q, k and v lack the same heads as wholes, and nothing else."""
    kept = [x.kept for x in (q, k, v)]
    if any(own is None or x.kept_axis % 3 != 2 or _on_device(own)
           for own, x in zip(kept, (q, k, v), strict=True)):
        return False
    grouped = [isinstance(own, KeptByGroup) for own in kept]
    if len(set(grouped)) > 1 or kept[0] != kept[1]:
        return False
    ours, theirs = (own.sets if isinstance(own, KeptByGroup) else (own,) for own in kept[1:])
    return len(ours) == len(theirs) and all(
        _whole_heads(a, heads) is not None and _whole_heads(a, heads) == _whole_heads(b, heads)
        for a, b in zip(ours, theirs, strict=True))


def splits_evenly(kept: Kept | KeptByGroup, heads: int) -> bool:
    """Whether a set can be split into heads: its entries are known, or each head has as many of them."""
    if not _on_device(kept):
        return True
    if not isinstance(kept, Kept):
        return False
    if isinstance(kept, RepeatedKept) and kept.times % heads == 0:      # a set repeated for each head
        return True
    # One of every `step`, whole steps to a head: each has one a step, wherever the set begins.
    return (isinstance(kept, MovingKept) and kept.width == 1 and kept.total // heads % kept.step == 0
            and kept.count * kept.step == kept.total)


def _by_head(kept, heads):
    """Return how many entries of each head a Kept has."""
    return np.bincount(kept.indices // max(1, kept.total // heads), minlength=heads)


def _whole_heads(kept, heads):
    """Return the heads that a Kept consists of, None if it has parts of some."""
    counts = _by_head(kept, heads)
    return np.flatnonzero(counts).tolist() if set(counts.tolist()) <= {0, kept.total // heads} else None


def _on_device(kept):
    return any(own.on_device for own in (kept.sets if isinstance(kept, KeptByGroup) else (kept,)))
