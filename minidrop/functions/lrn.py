"""Local response normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Function
from minidrop.functions.along import carried
from minidrop.functions.checks import checked_axis

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class LRN(Function):
    """y = x (k + alpha * m)^-beta, m the sum of x^2 over a window of `size` places on each of `axes`.

    The window has x in its middle and may reach over the ends, where there is nothing. A compact x may lack
    entries of axes before the first of `axes`, which are neighbours; KeptError otherwise. Source: Krizhevsky
    et al. 2012, section 3.3.
    """

    __slots__ = ("window", "x")
    kept_rule = "native"

    def __init__(self, axes: tuple[int, ...], size: int, alpha: float, beta: float, k: float):
        self.window = axes, size, alpha, beta, k

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        first = self.window[0][0]
        self.output_kept = carried(self, x.ndim, range(first), f"adds up neighbours from axis {first} on")
        self.x = x
        return backend.lrn(x, *self.window)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.lrn_gradient(gy, self.x, *self.window)


def lrn(x: Tensor, size: int = 5, alpha: float = 1.0, beta: float = 0.75, k: float = 1.0,
        axes: tuple[int, ...] = (1,)) -> Tensor:
    """Return x (k + a * m)^-beta, where m sums x^2 over a window of `size` places on each of `axes`.

    a = alpha / (the number of places in a window), as in Caffe. Raises ShapeError for an axis that x lacks.
    """
    for axis in axes:
        checked_axis(axis, x.ndim)
    return LRN(axes, size, alpha / size ** len(axes), beta, k).apply(x)
