"""Whole numbers that say which class or which row, stored as integers or as floats; checked before they are used."""

import numpy as np

from minidrop.errors import DataError


def whole_numbers(flat, limit):
    """Return (int64 array, bool array of the entries that are no whole number of 0 .. limit-1)."""
    with np.errstate(invalid="ignore"):      # NaN and infinities become some integer, unlike themselves
        whole = flat.astype(np.int64)
    wrong = whole.view(np.uint64) >= limit           # a negative number is a huge one
    if flat.dtype.kind == "f":
        wrong |= whole != flat
    return whole, wrong


def refuse(flat, wrong, what, limit, reason):
    """Raise DataError for the first entry of `flat` that is `wrong`, if there is one; `place` of the error is its number."""
    if bool(wrong.any()):
        place = int(wrong.argmax())
        error = DataError(f"{what} {float(flat[place]):g} at place {place} of the batch is out of range: expected a whole "
                          f"number of 0..{limit - 1} ({reason})")
        error.place = place       # so that a net can name the record
        raise error
