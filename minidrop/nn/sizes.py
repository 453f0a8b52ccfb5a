"""Sizes of windows and shapes, as a module is given them: a number, or one for each axis."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from minidrop.errors import ConfigError, in_short

Sizes = int | Sequence[int]


def sizes_of(name: str, sizes: Sizes, axes: int | None = None) -> tuple[int, ...]:
    """Return the numbers that the argument `name` gives: one for each of `axes`, or any number without.

    A single number holds for all axes. Raises ConfigError for anything but whole numbers, or another count.
    """
    try:
        found = tuple(map(operator.index, sizes if np.ndim(sizes) else (sizes,)))     # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = ()
    if axes is not None and len(found) == 1:
        found *= axes
    if not found or len(found) != (axes or len(found)):
        count = "" if axes is None else f"{axes}, "
        raise ConfigError(f"{name} takes a whole number or {count}one for each axis, got "
                              f"{in_short(sizes)}")
    return found
