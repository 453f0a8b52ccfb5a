"""Numbers and truths that a caller gives: Python's or NumPy's, also as an array without axes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from minidrop.errors import ConfigError, MinidropError, in_short


def real_number(what: str, value: Any, expected: str = "a number",
                fits: Callable[[float], bool] | None = None,
                error: type[MinidropError] = ConfigError) -> float:
    """Return a number as a float; raises `error` for what is none or does not fit: `expected` says what does.

    True is none: it was meant for another setting.
    """
    found = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    if isinstance(found, int | float | np.number) and not isinstance(found, bool | np.complexfloating):
        with suppress(OverflowError):       # of a whole number that no real one is as large as
            number = float(found)
            if fits is None or fits(number):
                return number
    raise error(f"{what}: expected {expected}, got {in_short(value)}")


def truth(what: str, value: Any, error: type[MinidropError] = ConfigError) -> bool:
    """Return True or False for these, 1 and 0; raises `error` for anything else: "no" would count as True."""
    if value is True or value is False:
        return value
    found = value.item() if isinstance(value, np.ndarray | np.generic) and value.ndim == 0 else value
    if isinstance(found, int) and found in (0, 1):
        return bool(found)
    raise error(f"{what}: expected True or False, got {in_short(value)}")


def whole_number(what: str, value: Any, least: int | None = None,
                 error: type[MinidropError] = ConfigError, most: int | None = None) -> int:
    """Return a whole number, from `least` to `most`; raises `error` for anything else, 2.0 and True too."""
    try:
        number = None if isinstance(value, bool) or np.ndim(value) else operator.index(value)
    except (TypeError, ValueError):
        number = None
    if (number is None or least is not None and number < least
            or most is not None and number > most):
        at_least = "" if least is None else f" of at least {least}"
        span = at_least if most is None else f" from {least} to {most}"
        raise error(f"{what}: expected a whole number{span}, got {in_short(value)}")
    return number
