"""Sequences (steps, streams, features) as wholes: one input added to every step, and the order reversed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.errors import ShapeError

if TYPE_CHECKING:
    from minidrop.backend import Backend


class AddToSteps(Function):
    """y_t = x_t + s: x (T, N, F), s (N, F), both with the same kept set."""

    __slots__ = ()
    kept_rule = "native"

    def forward(self, backend: Backend, x: np.ndarray, s: np.ndarray) -> np.ndarray:
        kept, other = (kept for kept, _ in self.input_kept)
        if kept != other or x.shape[1:] != s.shape:
            raise ShapeError(f"add_to_steps needs x (steps, streams, features) and s (streams, features) of "
                             f"one kept set, got {x.shape} with {kept} and {s.shape} with {other}")
        self.output_kept = (kept, 2)
        return x + s

    def backward(self, backend: Backend, gy: np.ndarray,
                 wanted: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
        return gy, gy.sum(axis=0)


class ReverseSteps(Function):
    """The steps of a sequence in reverse order: y_t = x_{T-1-t}."""

    __slots__ = ()
    kept_rule = "same"

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        return x[::-1]

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy[::-1]


class LastState(Function):
    """y_n = x_{t,n}, t the last step of stream n: x (T, N, F), cont (T, N) 0 1 ... 1 and then 0 -> (N, F).

    With `both` the second half of the features is taken at step 0, where a network that reads from the end
    has read all. A stream without a step counts as one with one.
    """

    __slots__ = ("both", "last", "shape")

    def __init__(self, both: bool = False):
        self.both = both

    def forward(self, backend: Backend, x: np.ndarray, cont: np.ndarray) -> np.ndarray:
        xp = backend.xp
        if x.ndim != 3 or cont.shape != x.shape[:2] or not len(x):
            raise ShapeError(f"last_state needs x (steps, streams, features) and cont (steps, streams), got "
                             f"{x.shape} and {cont.shape}")
        self.shape = x.shape
        # Streams go on as long as cont has been 1 at every step since the first.
        self.last = xp.cumprod((cont[1:] != 0).astype(np.int64), axis=0).sum(axis=0)
        y = x[self.last, xp.arange(x.shape[1])]
        half = x.shape[2] // 2
        if self.both:
            y[:, half:] = x[0, :, half:]
        return y

    def backward(self, backend: Backend, gy: np.ndarray,
                 wanted: Sequence[bool]) -> tuple[np.ndarray, None]:
        gx = backend.zeros(self.shape, gy.dtype)
        half = self.shape[2] // 2 if self.both else self.shape[2]
        gx[self.last, backend.xp.arange(self.shape[1]), :half] = gy[:, :half]
        if self.both:
            gx[0, :, half:] = gy[:, half:]
        return gx, None


def last_state(x: Tensor, cont: Tensor | np.ndarray, both: bool = False) -> Tensor:
    """Return what x (T, N, F) has at the last step of each stream, (N, F); see `LastState`."""
    return LastState(both).apply(x, cont)


def add_to_steps(x: Tensor, s: Tensor) -> Tensor:
    """Return x_t + s for every step of x (T, N, F); s (N, F)."""
    return AddToSteps().apply(x, s)


def reverse_steps(x: Tensor) -> Tensor:
    """Return x with its steps (axis 0) reversed; a kept set is passed on."""
    return ReverseSteps().apply(x)
