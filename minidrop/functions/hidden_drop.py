"""HiddenDrop: what is dropped from the state of a recurrent network between steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.kept import Kept, KeptByGroup

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


@dataclass(frozen=True)
class HiddenDrop:
    """What is dropped from the state h between steps, in one of three forms; by default nothing.

    units: a Kept, for time SEQUENCE. The other units are absent from all steps, with their gates and their
    rows and columns of Wh, and from the result; the state they carry is left unchanged.
    steps: for time STEP and for patterns held for some steps. For each step the Kept of the units that the
    gates read, or None for all. Neighbours that share one object gather its weights once. Groups of streams
    that read different units have a product each, and all else together. With `parts_gradient` the gradient
    of the weights is a product for each pattern, instead of one for all steps.
    mask: an array that broadcasts to (T, N, H), scale included: the gates read mask * h. With `moving`, a
    Kept, the state of the other units is left unchanged: the dense form of `units`.
    scale: without a mask, what the gates multiply h by when they read it.
    whole: the result is masked or scaled in the same way.

    units, moving and those of steps may be a KeptByGroup of the streams; see `split`.
    """

    units: Any = None
    steps: tuple | None = None
    mask: object = None
    moving: Any = None
    scale: float = 1.0
    whole: bool = False
    parts_gradient: bool = False

    def __post_init__(self):
        if self.units is not None and self.units.is_all:       # nothing needs to carry a kept set then
            object.__setattr__(self, "units", None)

    def split(self) -> list[HiddenDrop]:
        """Return what is dropped in each group of streams, [self] where the same units are absent in all."""
        if not isinstance(self.units, KeptByGroup):
            return [self]
        return [replace(self, units=own) for own in self.units.sets]

    def parts(self, t: int, streams: int) -> Sequence[tuple[int, int, Kept]]:
        """Return what the gates read at step t, not all: (first, last, Kept) for each group of streams."""
        kept = self.steps[t] if self.steps else None
        if isinstance(kept, KeptByGroup):
            return kept.parts(streams)
        return [] if kept is None else [(0, streams, kept)]

    def rows_read(self, streams: int) -> dict[Kept | None, list[tuple[int, int]]]:
        """Return {what the gates read: [(first, last), ...]}: the rows first .. last - 1 that read it.

        Row t * streams + n is that of step t and stream n.
        """
        found: dict[Kept | None, list[tuple[int, int]]] = {}
        for t in range(len(self.steps or ())):
            parts: Sequence[tuple[int, int, Kept | None]] = self.parts(t, streams)
            for first, last, kept in parts or [(0, streams, None)]:
                rows = found.setdefault(None if kept is None or kept.is_all else kept, [])
                if rows and rows[-1][1] == t * streams + first:
                    rows[-1] = rows[-1][0], t * streams + last
                else:
                    rows.append((t * streams + first, t * streams + last))
        return found


NOTHING = HiddenDrop()


def gate_rows(units: Any, gates: int) -> Any:
    """Return the rows of `units` in `gates` consecutive blocks of all units; None if all live."""
    if isinstance(units, KeptByGroup):
        return units.each(lambda kept: Kept.joined([kept] * gates))
    return None if units is None else Kept.joined([units] * gates)


def kept_mask(backend: Backend, kept: Kept | KeptByGroup, dtype: np.dtype, streams: int) -> np.ndarray:
    """Return the 0/1 mask (units,) of a Kept, or (streams, units) of a KeptByGroup.

    Made on the device: only that may know what is kept.
    """
    lead = (streams,) if isinstance(kept, KeptByGroup) else ()
    return backend.expand(backend.xp.ones((*lead, kept.count), dtype), kept, len(lead))


def step_masks(backend: Backend, steps: tuple, streams: int, total: int, scale: float,
               dtype: np.dtype) -> np.ndarray:
    """Return masks (steps, streams or 1, total), scale included, on the device.

    steps: a Kept or a KeptByGroup of the streams for each step (None: all).
    """
    grouped = any(isinstance(kept, KeptByGroup) for kept in steps)
    masks = backend.empty((len(steps), streams if grouped else 1, total), dtype)
    for t, kept in enumerate(steps):
        if t and kept is steps[t - 1]:      # held for some steps
            masks[t] = masks[t - 1]
        else:
            masks[t] = 1 if kept is None else kept_mask(backend, kept, dtype, streams)
    masks *= dtype.type(scale)
    return masks
