"""Wire: what numbers are rounded to on their way between ranks."""

from __future__ import annotations

import numpy as np

from minidrop.config import SolverParameter
from minidrop.errors import nearest

WIRES = ("float16", "bfloat16")
_AT_A_TIME = 1 << 15        # numbers whose intermediate results stay in the cache


class Wire:
    """Numbers of 16 bits in place of those of gradients: half the bytes, or a quarter of float64.

    float16: 11 significant bits, below 6.1e-5 fewer; above 65504 it is infinite. bfloat16: 8 significant
    bits, and the range of float32. Both round to the nearest, ties to even.
    """

    def __init__(self, name: str):
        self.name = name

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """Return a row of numbers rounded, as 16 bits each."""
        if self.name == "float16":
            with np.errstate(over="ignore"):        # an infinite gradient is reported before the update
                return numbers.astype(np.float16)
        coded = np.empty_like(numbers, dtype=np.uint16)     # on the device of the numbers
        step = _AT_A_TIME if isinstance(numbers, np.ndarray) else max(1, len(numbers))
        for first in range(0, len(numbers), step):
            part = slice(first, first + step)
            with np.errstate(over="ignore"):
                single = numbers[part].astype(np.float32, copy=False)
            bits = single.view(np.uint32)
            rounded = bits >> np.uint32(16)
            rounded &= np.uint32(1)         # ties go to even
            rounded += np.uint32(0x7FFF)
            rounded += bits
            rounded >>= np.uint32(16)
            # A NaN of all bits would become a zero; a device is not asked whether there is one.
            if not isinstance(numbers, np.ndarray) or not np.isfinite(single).all():
                rounded = np.where(np.isnan(single), np.uint32(0x7FC0), rounded)
            coded[part] = rounded
        return coded

    def decode(self, coded: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Return what `encode` returned as numbers of a dtype."""
        if self.name == "float16":
            return coded.astype(dtype)
        return (coded.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(dtype, copy=False)


def wire_of(settings: SolverParameter) -> Wire | None:
    """Return what a solver file's `wire` says; None if numbers travel as they are."""
    return Wire(settings.wire) if settings.wire else None


def wire_problems(settings: SolverParameter) -> list[tuple[str, str]]:
    """Return (field, what is wrong with it) of the field `wire`, and of what it does not go with."""
    if settings.wire in ("", *WIRES):
        return []
    return [("wire", f"wire must be {' or '.join(WIRES)}, or empty, got {settings.wire!r}"
                     f"{nearest(settings.wire, WIRES)}")]
