"""Where a step of a sequence (steps, streams, units) stands: vectors to add, pairs to turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Block, Function
from minidrop.errors import KeptError, ShapeError
from minidrop.functions.along import carried
from minidrop.functions.groups import by_groups
from minidrop.functions.operands import real_operand
from minidrop.kept import Kept, KeptByGroup

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class AddPositions(Function):
    """y[t] = x[t] + P[t]: x (T, N, C), compact on any axis; P (rows, C), of which the first T are read.

    The gradient of P is a Block of what was read. Raises ShapeError.
    """

    __slots__ = ("rows", "cols")
    kept_rule = "native"

    def forward(self, backend: Backend, x: np.ndarray, P: np.ndarray) -> np.ndarray:
        (kept, axis), (dense, _) = self.input_kept
        if x.ndim != 3 or P.ndim != 2 or dense is not None:
            raise ShapeError(f"add_positions needs x (steps, streams, units) and all of P (rows, units), got "
                             f"{x.shape} and {P.shape}")
        axis %= 3
        steps = kept.total if kept is not None and axis == 0 else x.shape[0]
        units = kept.total if kept is not None and axis == 2 else x.shape[2]
        if steps > P.shape[0] or units != P.shape[1]:
            raise ShapeError(f"add_positions: {steps} steps of {units} units need P with as many units and "
                             f"at least as many rows, got {P.shape}")
        self.output_kept = kept, axis
        if isinstance(kept, KeptByGroup) and axis != 1:
            raise KeptError(f"add_positions needs one kept set for all samples, got {kept}; call "
                            f"functions.expand on it first")
        self.cols = kept if isinstance(kept, Kept) and axis == 2 else None
        self.rows = None if steps == P.shape[0] else Kept(0, P.shape[0], steps, P.shape[0])
        if isinstance(kept, Kept) and axis == 0:
            self.rows = kept if steps == P.shape[0] else Kept.of(kept.indices, P.shape[0])
        own = backend.take(backend.take(P, self.rows, 0), self.cols, 1)
        y = backend.empty(x.shape, x.dtype)

        def some(first, last):
            backend.xp.add(x[first:last], own[first:last, None], out=y[first:last])

        backend.in_chunks(some, len(x), x[:1].size, x.dtype.itemsize)
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        return gy, Block(gy.sum(axis=1), self.rows, self.cols) if wanted[1] else None


class Rotary(Function):
    """Turns pairs of entries of each head by the angles of their step (Su et al. 2021).

    x (T, N, heads * 2 half), perhaps without some streams; cosine, sine (T, half). The pair k of a head is
    its entries k and half + k. Raises ShapeError, KeptError.
    """

    __slots__ = ("heads", "cosine", "sine")
    kept_rule = "native"

    def __init__(self, cosine: np.ndarray, sine: np.ndarray, heads: int = 1):
        self.cosine, self.sine, self.heads = cosine, sine, heads

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.output_kept = carried(self, x.ndim, range(1, 2), "turns steps by angles, and units in pairs")
        if x.ndim != 3 or self.cosine.shape != (x.shape[0], x.shape[2] / self.heads / 2):
            raise ShapeError(f"rotary with {self.heads} heads and angles of shape {self.cosine.shape} does "
                             f"not fit x (steps, streams, units) of shape {x.shape}")
        return backend.rotate(x, self.cosine, self.sine, self.heads)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.rotate(gy, self.cosine, -self.sine, self.heads)


def step_angles(backend: Backend, first: Any, steps: int, units: int, base: float) -> np.ndarray:
    """Return (first + t) / base^(2 i / units) for t < steps, 2 i < units: float64 (steps, half of units).

    first: a number, or an array of one on the device.
    """
    xp = backend.xp
    places = first + xp.arange(steps, dtype=np.float64)
    return places[:, None] / base ** (xp.arange(0, units, 2, dtype=np.float64) / max(1, units))


def sinusoids(backend: Backend, angles: np.ndarray, units: int, dtype: Any) -> np.ndarray:
    """Return the sine and the cosine of each angle, one after the other: (steps, units)."""
    xp = backend.xp
    both = xp.stack((xp.sin(angles), xp.cos(angles)), axis=2)
    return xp.ascontiguousarray(both.reshape(len(angles), 2 * angles.shape[1])[:, :units].astype(dtype))


def add_positions(x: Tensor, P: Tensor, carry: bool = False) -> Tensor:
    """Return x + P[t] for every step t of x (T, N, C); see `AddPositions`, and `real_operand` for carry."""
    x = real_operand(x, False, carry)
    if isinstance(x.kept, KeptByGroup) and x.kept_axis % x.ndim == 2:
        return by_groups(lambda _, part: AddPositions().apply(part, P), [x], x.kept, 1, x.kept)
    return AddPositions().apply(x, P)


def rotary(x: Tensor, cosine: np.ndarray, sine: np.ndarray, heads: int = 1) -> Tensor:
    """Return x (T, N, C) with the pairs of each head turned by angles; see `Rotary`."""
    return Rotary(cosine, sine, heads).apply(x)
