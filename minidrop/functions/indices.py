"""Whole numbers that say which class or which row, stored as integers or as floats; checked before they are
used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minidrop.errors import DataError

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


def whole_numbers(flat: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 array, bool array of the entries that are no whole number of 0 .. limit-1)."""
    with np.errstate(invalid="ignore"):      # NaN and infinities become some integer, unlike themselves
        whole = flat.astype(np.int64)
    wrong = whole.view(np.uint64) >= limit           # a negative number is a huge one
    if flat.dtype.kind == "f":
        wrong |= whole != flat
    return whole, wrong


def refuse(backend: Backend, whole: np.ndarray, flat: np.ndarray, wrong: np.ndarray, what: str, limit: int,
           reason: str) -> np.ndarray:
    """Return `whole`, the entries of `flat` as integers, for use as addresses; DataError for the first that
    is `wrong`.

    `place` of the error is the number of that entry. While a step is captured nobody can look: a wrong entry
    counts as 0.
    """
    def error():
        place = int(wrong.argmax())
        return DataError(f"{what} {float(flat[place]):g} at place {place} of the batch is out of range: "
                         f"expected a whole number of 0..{limit - 1} ({reason})", place)

    backend.refuse(wrong, error)
    return backend.xp.where(wrong, 0, whole) if backend.capturing else whole
