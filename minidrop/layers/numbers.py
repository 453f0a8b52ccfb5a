"""The numbers that layers compute with: what becomes an array of them, and which integers a dtype has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidrop.errors import ConfigError, DataError

MOST_COUNTED = {"float32": 2**24, "float64": 2**53}     # up to here every integer is exact


def check_countable(count: int, dtype: str, what: str) -> None:
    """Raise ConfigError unless `dtype` represents every index 0 .. count - 1 exactly."""
    if count > MOST_COUNTED[dtype]:
        raise ConfigError(f"{what} is {count}, but {dtype} tells indices apart only up to "
                          f"{MOST_COUNTED[dtype]}; use dtype float64 (--dtype float64)")


def check_held(array: Any, dtype: str) -> None:
    """Raise DataError where `dtype` lacks an integer of an array, which would become another one.

    Only arrays of integers on the host are looked at: numbers with fractions are rounded as everywhere.
    """
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.dtype.itemsize < 4:
        return
    most = MOST_COUNTED[dtype]
    if not array.size or -most <= array.min() and array.max() <= most:
        return
    for wanted in map(int, array[(array < -most) | (array > most)]):
        if int(np.dtype(dtype).type(wanted)) != wanted:
            raise DataError(f"has the integer {wanted}, which in {dtype} would be "
                            f"{int(np.dtype(dtype).type(wanted))}; use dtype float64 (--dtype float64), or "
                            f"convert the array where that may be rounded")


def as_numbers(value: Any, convert: Callable[[Any], Any] = np.asarray, dtype: str = "") -> Any:
    """Return convert(value), an array of what a caller gives. Raises DataError where it is none of real
    numbers, hides some behind a mask, which would be lost, or has an integer that `dtype` lacks."""
    try:
        array = convert(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"is no array of numbers ({error})") from None
    if np.ma.is_masked(value):
        raise DataError("is no array of numbers (entries are masked; fill them first)")
    if array.dtype.kind not in "biuf":
        raise DataError(f"is no array of numbers (its dtype is {array.dtype}; convert it)")
    if dtype:
        check_held(value if isinstance(value, np.ndarray) else array, dtype)
    return array
