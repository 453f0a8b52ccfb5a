"""Tile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, checked_axis, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Tile")
class Tile(Layer):
    """`tiles` copies of the bottom, one after the other along `axis`."""

    def read_settings(self) -> None:
        self.tiles = self.settings.tiles
        if self.tiles < 1:
            raise ConfigError("tile_param needs tiles, at least 1")

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.axis = self.along = checked_axis(self.settings.axis, len(shape))
        return [tuple(shape[:self.axis]) + (shape[self.axis] * self.tiles,) + tuple(shape[self.axis + 1:])]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        # Not of later axes: what they drop may differ between groups of samples, which a copy would move.
        return [Pass(axis=axis, keeps_zero=True) for axis in range(self.axis)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.tile(x, self.tiles, self.axis)
