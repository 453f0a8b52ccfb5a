"""Flatten."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, checked_axis, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Flatten")
class Flatten(Layer):
    """Merges axes `axis` .. `end_axis` into one."""

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.axis = checked_axis(self.settings.axis, len(shape))
        self.end_axis = checked_axis(self.settings.end_axis, len(shape), "end_axis")
        if self.end_axis < self.axis:
            raise ConfigError(f"end_axis {self.settings.end_axis} lies before axis {self.settings.axis}")
        size = math.prod(shape[self.axis:self.end_axis + 1])
        return [tuple(shape[:self.axis]) + (size,) + tuple(shape[self.end_axis + 1:])]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        shape = shapes[0]
        rest = math.prod(shape[self.axis + 1:self.end_axis + 1])
        same = [Pass(axis=axis, keeps_zero=True) for axis in range(self.axis)]
        return [*same, Pass(axis=self.axis, spread=rest, keeps_zero=True)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.flatten(x, self.axis, self.end_axis)
