"""HiddenDrop: what is dropped from the state of a recurrent network between steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from minidrop.kept import Kept, KeptByGroup


@dataclass(frozen=True)
class HiddenDrop:
    """What is dropped from the state h between steps, in one of three forms; by default nothing.

    units: a Kept, for time SEQUENCE. The other units are absent from all steps, with their gates and their
    rows and columns of Wh, and from the result; the state they carry is left unchanged.
    steps: for time STEP and for patterns held for some steps. For each step the Kept of the units that the
    gates read, or None for all. Neighbours that share one object gather its weights once. With
    `parts_gradient` the gradient of the weights is a product for each pattern, instead of one for all steps.
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
        """Return what is dropped in each group of streams, [self] where that is the same in all.

        A mask is of all streams anyway.
        """
        grouped = next((kept for kept in (self.units, *(self.steps or ())) if isinstance(kept, KeptByGroup)),
                       None)
        return [self] if grouped is None else [self._of_group(i) for i in range(len(grouped.sets))]

    def ranges(self) -> dict[Kept | None, list[tuple[int, int]]]:
        """Return {what the gates read: [(first, last), ...]}: the steps first .. last - 1 that read it."""
        found: dict[Kept | None, list[tuple[int, int]]] = {}
        for t, kept in enumerate(self.steps or ()):
            ranges = found.setdefault(kept, [])
            if ranges and ranges[-1][1] == t:
                ranges[-1] = ranges[-1][0], t + 1
            else:
                ranges.append((t, t + 1))
        return found

    def _of_group(self, i):
        units = None if self.units is None else self.units.sets[i]
        steps = self.steps and tuple(None if kept is None or kept.sets[i].is_all else kept.sets[i]
                                     for kept in self.steps)
        return replace(self, units=units, steps=steps)


NOTHING = HiddenDrop()


def gate_rows(units: Any, gates: int) -> Any:
    """Return the rows of `units` in `gates` consecutive blocks of all units; None if all live."""
    if isinstance(units, KeptByGroup):
        return units.each(lambda kept: Kept.joined([kept] * gates))
    return None if units is None else Kept.joined([units] * gates)
