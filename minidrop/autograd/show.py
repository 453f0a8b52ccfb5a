"""How a tensor is shown: its values, as NumPy prints them, and what else it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from minidrop.kept import KeptByGroup

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor

_MOST_SHOWN = 100       # entries; of a larger tensor the first and last of each axis are
_EDGE = 3
_MOST_EXPANDED = 10_000     # entries of a tensor that is compact by groups, which no corner can be taken of


def described(tensor: Tensor) -> str:
    """Return a tensor as text: values, name, shape, dtype, device, kept set, requires_grad. Never raises."""
    facts = [f"shape={tensor.shape}", str(tensor.dtype), tensor.backend.name]
    if tensor.kept is not None:
        facts.append(f"axis {tensor.kept_axis} {tensor.kept!r}")
    if tensor.requires_grad:
        facts.append("requires_grad=True")
    head = f"{type(tensor).__name__}({f'{tensor.name}, ' if tensor.name else ''}"
    try:
        values = _values(tensor, len(head))
    except Exception:       # shown by debuggers, too, where a device failed
        values = "values cannot be read"
    between = ",\n" + " " * len(head) if "\n" in values else ", "
    return f"{head}{values}{between}{', '.join(facts)})"


def _values(tensor, indent):
    if tensor.backend.capturing:
        return "values not computed yet"
    size = math.prod(tensor.shape)
    if isinstance(tensor.kept, KeptByGroup):
        if size > _MOST_EXPANDED:
            return "..."
        values = tensor.numpy()
    else:
        values = _corner(tensor) if size > _MOST_SHOWN else tensor.numpy()
    return np.array2string(values, separator=", ", prefix=" " * indent, edgeitems=_EDGE,
                           threshold=0 if size > _MOST_SHOWN else size + 1)


def _corner(tensor):
    """Return the logical values of the first and last entries of each axis, with one between for '...'.

    Only they are read from the device.
    """
    x, kept_axis = tensor.data, tensor.kept_axis % tensor.ndim if tensor.kept is not None else None
    for axis, length in enumerate(x.shape):
        if axis != kept_axis and length > 2 * _EDGE + 1:
            x = x[(slice(None),) * axis + (_edges(length),)]
    x = tensor.backend.to_host(tensor.backend.expand(x, tensor.kept, tensor.kept_axis))
    if kept_axis is not None and x.shape[kept_axis] > 2 * _EDGE + 1:
        x = x[(slice(None),) * kept_axis + (_edges(x.shape[kept_axis]),)]
    return x


def _edges(length):
    return [*range(_EDGE + 1), *range(length - _EDGE, length)]
