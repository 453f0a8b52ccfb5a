"""Indices of classes or rows, stored as integers or as floats, and checked before they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from minidrop.errors import DataError

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


def whole_numbers(flat: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (int64 array, bool array: which entries are not whole numbers in 0 .. limit-1)."""
    if flat.dtype.kind != "f":
        whole = flat.astype(np.int64)
        return whole, whole.view(np.uint64) >= limit        # negative numbers become huge ones
    with np.errstate(invalid="ignore"):      # NaN and infinities become integers, which differ from them
        whole = flat.astype(np.int64)
    return whole, (whole.view(np.uint64) >= limit) | (whole != flat)


def refuse(backend: Backend, whole: np.ndarray, flat: np.ndarray, wrong: np.ndarray, what: str, limit: int,
           reason: str) -> np.ndarray:
    """Return `whole`, the entries of `flat` as safe indices. Raises DataError for the first that is `wrong`.

    The error's `place` is the position of that entry. While a step is being captured values cannot be
    inspected, so wrong entries are replaced by 0.
    """
    def error():
        place = int(wrong.argmax())
        return DataError(f"{what} {float(flat[place]):g} at place {place} of the batch is out of range: "
                         f"expected a whole number of 0..{limit - 1} ({reason})", place)

    backend.refuse(wrong, error)
    return backend.xp.where(wrong, 0, whole) if backend.capturing else whole
