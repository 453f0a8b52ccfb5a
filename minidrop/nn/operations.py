"""Operations on several Symbols, inside of a forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidrop import functions
from minidrop.autograd import Tensor
from minidrop.errors import ShapeError
from minidrop.nn.symbol import Symbol


def concat(parts: Sequence[Any], axis: int = 1) -> Symbol | Tensor:
    """Return Symbols, or Tensors, put side by side along an axis."""
    trace = _trace_of(parts, "concat")
    return functions.concat(parts, axis) if trace is None else trace.add("Concat", parts, axis=axis)


def maximum(parts: Sequence[Any]) -> Symbol | Tensor:
    """Return the largest of several Symbols, or Tensors, of one shape, entry by entry."""
    trace = _trace_of(parts, "maximum")
    return functions.maximum(parts) if trace is None else trace.add("Eltwise", parts, operation="MAX")


def _trace_of(parts, what):
    """Return the Trace of Symbols, None of Tensors."""
    kinds = {isinstance(part, Symbol) for part in parts}
    if len(kinds) != 1:
        raise ShapeError(f"{what}: expected Symbols or Tensors, one at least and all of one kind, got "
                         f"{', '.join(type(part).__name__ for part in parts) or 'none'}")
    return parts[0].trace if kinds.pop() else None
