"""What LayerNorm and RMSNorm have in common: the axes that they take their means over, and eps."""

from __future__ import annotations

import math

from minidrop.config import decimal
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, checked_axis
from minidrop.layers.flow import Pass


class RowNormLayer(Layer):
    """Base class of layers that normalize the axes from `axis` on, of each place of the others alone."""

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.axis, self.eps = checked_axis(self.settings.axis, len(shape)), decimal(self.settings.eps)
        if self.axis == 0:
            raise ConfigError("axis 0 is the batch; expected 1 or more")
        if not 0 <= self.eps < math.inf:
            raise ConfigError(f"eps must not be negative, got {self.eps:g}")
        self.shape = tuple(shape[self.axis:])
        if not math.prod(self.shape):
            raise ShapeError(f"bottom of shape {tuple(shape)} has nothing to normalize from axis {self.axis} "
                             f"on")
        return [shape]

    def passes(self, keeps_zero: bool) -> list[Pass]:
        """Return the flow facts: the axes before `axis` pass; with an eps of 0 what is constant is 0 / 0."""
        bounded = self.eps > 0
        return [Pass(axis=axis, keeps_zero=keeps_zero and bounded, finite=bounded)
                for axis in range(self.axis)]
