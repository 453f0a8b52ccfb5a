"""HiddenDrop: what is dropped from the state of a recurrent network between steps."""

from __future__ import annotations

from dataclasses import dataclass

from minidrop.kept import Kept


@dataclass(frozen=True)
class HiddenDrop:
    """What is dropped from the state h between steps, in one of three forms; by default nothing.

    units: a Kept, for time SEQUENCE. The other units are absent from all steps, with their gates and their
    rows and columns of Wh, and from the result; the state they carry is left unchanged.
    steps: for time STEP. For each step the Kept of the units that the gates read, or None for all.
    mask: an array that broadcasts to (T, N, H), scale included: the gates read mask * h. With `moving`, a
    Kept, the state of the other units is left unchanged: the dense form of `units`.
    scale: without a mask, what the gates multiply h by when they read it.
    whole: the result is masked or scaled in the same way.
    """

    units: Kept | None = None
    steps: tuple | None = None
    mask: object = None
    moving: Kept | None = None
    scale: float = 1.0
    whole: bool = False

    def __post_init__(self):
        if self.units is not None and self.units.is_all:       # nothing needs to carry a kept set then
            object.__setattr__(self, "units", None)


NOTHING = HiddenDrop()


def gate_rows(units: Kept | None, gates: int) -> Kept | None:
    """Return the Kept of the rows of `units` in `gates` consecutive blocks of all units; None if all live."""
    return None if units is None else Kept.joined([units] * gates)
