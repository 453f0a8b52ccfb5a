"""What functions check of their settings before they compute: axes, shares, lengths of biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.config.numbers import real_number
from minidrop.errors import ConfigError, ShapeError, TensorError, in_short, nearest

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor

# Tuples made once: isinstance(x, int | np.integer) makes its union in every call.
WHOLE, LISTS = (int, np.integer), (list, tuple)

Key = Any       # of what is drawn at random: a whole number of 64 bits, on a device an array of one


def checked_axes(axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Return axes as non-negative numbers; None: all of them. ShapeError if there is none such, or twice."""
    if axis is None:
        return tuple(range(ndim))
    given: Any = axis
    if not isinstance(given, LISTS):
        return (checked_axis(given, ndim),)
    found = tuple([checked_axis(one, ndim) for one in given])
    if len(set(found)) != len(found):
        raise ShapeError(f"axes {tuple(given)} name one axis twice")
    return found


def checked_axis(axis: int, ndim: int) -> int:
    """Return an axis as a non-negative number; ShapeError if a tensor of `ndim` axes has none such."""
    if not isinstance(axis, WHOLE) or isinstance(axis, bool):
        raise TensorError(f"an axis is a whole number, got {in_short(axis)}")
    if not -ndim <= axis < ndim:
        raise ShapeError(f"axis {in_short(axis)} does not exist: the tensor has {ndim} "
                         f"{'axis' if ndim == 1 else 'axes'}")
    return int(axis) % ndim


def check_rate(what: str, rate: float) -> None:
    """Raise ConfigError unless a rate is a share that can be dropped, 0 <= rate < 1."""
    rate = real_number(f"{what}: rate", rate)
    if not 0 <= rate < 1:
        raise ConfigError(f"{what}: rate must lie in [0, 1), got {rate:g}; it is the share that is dropped")


def check_smoothing(what: str, share: float) -> None:
    """Raise ConfigError unless a share of labels can be spread over all classes, 0 <= share <= 1."""
    real_number(f"{what}: smoothing", share, "a number from 0 to 1", lambda number: 0 <= number <= 1)


def check_name(what: str, name: str, known: Sequence[str]) -> None:
    """Raise ConfigError for a name that is not among the known ones."""
    if name not in known:
        raise ConfigError(f"{what}: unknown {in_short(name)}{nearest(name, known)} (known: "
                          f"{', '.join(known)})")


def check_shapes(what: str, **expected: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Raise ShapeError where a tensor has another shape than the one it needs: name=(its own, that one)."""
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise ShapeError(f"{what}: expected {name} of shape {wanted}, got {found}")


def check_bias(what: str, b: Tensor | None, outputs: int) -> None:
    """Raise ShapeError unless a bias, if there is one, has a number for each output."""
    if b is not None and b.shape != (outputs,):
        raise ShapeError(f"{what}: expected a bias of shape ({outputs},), one number for each output, got "
                         f"{b.shape}")


def check_real(what: str, x: Tensor) -> None:
    """Raise TensorError for a tensor of integers where a factor would be rounded to one."""
    if x.dtype.kind != "f":
        raise TensorError(f"{what}: expected real numbers, got dtype {x.dtype}; convert them, as in "
                          f"x.astype('float32')")
