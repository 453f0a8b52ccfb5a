"""The elementwise formula of an update rule as C, for update rules on a GPU (rule.cu).

A formula is called once with names in place of arrays and numbers, and every operation on them becomes a line
of C, rounded separately as the formula's own. cpu_update.py compiles the same formulas for the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

MOST_SLOTS = 2          # history arrays, and numbers of an iteration, that the kernels take
MOST_NUMBERS = 8
_CALLS = {np.sqrt: "sqrt({})", np.square: "{0} * {0}", np.abs: "({0} > 0 ? {0} : 0 - {0})",
          np.negative: "-{}", np.sign: "({0} != {0} ? {0} : REAL(({0} > 0) - ({0} < 0)))",
          np.add: "{} + {}", np.subtract: "{} - {}", np.multiply: "{} * {}", np.true_divide: "{} / {}",
          # NaN where either is NaN, as in NumPy
          np.maximum: "({0} > {1} || {0} != {0} ? {0} : {1})",
          np.minimum: "({0} < {1} || {0} != {0} ? {0} : {1})"}


@lru_cache
def in_c(formula: Callable, slots: int, numbers: int) -> str | None:
    """Return a formula as statements of C, which set W, A and B from w, g, a, b and n0, n1, ...; or None.

    formula: see UpdateRule; slots, numbers: how many history arrays and numbers it takes. None where it does
    something else than arithmetic, square roots, absolute values, signs and the larger or smaller of two, or
    takes more than the kernels have room for.
    """
    if not 1 <= slots <= MOST_SLOTS or numbers > MOST_NUMBERS:
        return None
    lines: list[str] = []
    names = ["w", "g", *"ab"[:slots], *(f"n{i}" for i in range(numbers))]
    try:
        results = formula(*(_Name(name, lines) for name in names))
        written = [_written(one) for one in results]
    except (TypeError, AttributeError):     # an operation that a name has not
        return None
    if len(written) != 1 + slots:
        return None
    return " ".join(lines + [f"{target} = {value};"
                             for target, value in zip("WAB"[:1 + slots], written, strict=True)])


class _Name(NDArrayOperatorsMixin):
    """A number of the kernel by its name in C; what is computed of it is a new one, declared in `lines`."""

    __slots__ = ("name", "lines")

    def __init__(self, name: str, lines: list[str]):
        self.name, self.lines = name, lines

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **more: Any) -> Any:
        if method != "__call__" or more or ufunc not in _CALLS:
            return NotImplemented
        name = f"t{len(self.lines)}"
        self.lines.append(f"const REAL {name} = {_CALLS[ufunc].format(*map(_written, inputs))};")
        return _Name(name, self.lines)

    def __array__(self, *given: Any, **more: Any) -> Any:
        raise TypeError("a name is no array; as an object NumPy would let some functions do nothing to it")

    def __bool__(self) -> bool:
        raise TypeError("a formula that asks for a value is not the same for all entries")


def _written(x):
    """Return a name, or a number of Python, as C. TypeError for others: NumPy would take their type."""
    if isinstance(x, _Name):
        return x.name
    if type(x) in (int, float) and abs(x) < float("inf"):
        return f"REAL({float(x)!r})"
    raise TypeError(f"expected a name or a number, got {type(x).__name__}")
