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


def add_to_steps(x: Tensor, s: Tensor) -> Tensor:
    """Return x_t + s for every step of x (T, N, F); s (N, F)."""
    return AddToSteps().apply(x, s)


def reverse_steps(x: Tensor) -> Tensor:
    """Return x with its steps (axis 0) reversed; a kept set is passed on."""
    return ReverseSteps().apply(x)
