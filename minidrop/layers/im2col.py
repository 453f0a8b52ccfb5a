"""Im2col: the windows of images as channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import register_layer
from minidrop.layers.flow import Pass
from minidrop.layers.sliding import SlidingLayer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Im2col")
class Im2col(SlidingLayer):
    """y[n, (c, k), p] = x[n, c, p * stride + k * dilation - pad]; y (N, C * window's entries, *places)."""

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.read(shape)
        self.places = self.fitting_places(shape)
        return [(*shape[:self.axis], self.channels * self.window.entries, *self.places)]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        spread = self.window.entries
        return [*(Pass(axis=axis, keeps_zero=True, compact=False) for axis in range(self.axis)),
                Pass(axis=self.axis, spread=spread, keeps_zero=True, compact=self.axis == 1)]

    def forward(self, x: Tensor) -> Tensor:
        if self.axis == 1:
            return functions.im2col(x, self.window)
        y = functions.im2col(functions.reshape(x, (-1, *x.shape[self.axis:])), self.window)
        return functions.reshape(y, (*x.shape[:self.axis], *y.shape[1:]))
