"""Checks of the numbers of a pattern's settings."""

from __future__ import annotations

import operator
from numbers import Real

import numpy as np

from minidrop.errors import ConfigError


def checked_rate(rate: object) -> float:
    """Return a drop rate as a float, a float32 as the decimal it stands for; raises ConfigError."""
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise ConfigError(f"rate (dropout_ratio) must be a number in [0, 1), got {rate!r}; try 0.5")
    rate = float(rate)
    if not 0 <= rate < 1:
        raise ConfigError(f"rate (dropout_ratio) must lie in [0, 1), got {rate!r}; it is the share of units "
                          "to drop: 0 drops nothing, 0.5 every other one")
    single = np.float32(rate)
    return float(str(single)) if float(single) == rate else rate


def checked_length(name: str, value: int, least: int) -> int:
    """Return a length as an int, 0 or at least `least`; raises ConfigError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or 0 < number < least or isinstance(value, bool):
        raise ConfigError(f"{name} must be 0 (the family chooses) or an integer of at least {least}, "
                          f"got {value!r}; remove it to have it chosen")
    return number
