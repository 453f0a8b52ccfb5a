"""HiddenDrop: what is dropped of the state of a recurrent network between steps."""

from __future__ import annotations

from dataclasses import dataclass

from minidrop.kept import Kept


@dataclass(frozen=True)
class HiddenDrop:
    """What is dropped of the state h between steps, in one of three forms; by default nothing.

    units: a Kept, time SEQUENCE. The other units are absent from all steps, with their gates, their rows and
    columns of Wh, and from the result; the state that they carry stays as it was.
    steps: time STEP. For each step the Kept of the units that the gates read, or None for all.
    mask: an array that broadcasts to (T, N, H), scale included: the gates read mask * h. With `moving`, a
    Kept, the state of the other units stays as it was: the dense form of `units`.
    scale: without a mask, what h is multiplied by where the gates read it.
    whole: the result is masked or scaled in the same way.
    """

    units: Kept | None = None
    steps: tuple | None = None
    mask: object = None
    moving: Kept | None = None
    scale: float = 1.0
    whole: bool = False

    def __post_init__(self):
        if self.units is not None and self.units.is_all:       # then nothing carries a kept set
            object.__setattr__(self, "units", None)


NOTHING = HiddenDrop()


def gate_rows(units: Kept | None, gates: int) -> Kept | None:
    """Return the Kept of the rows of some units in `gates` blocks of all units, one after the other."""
    return None if units is None else Kept.joined([units] * gates)
