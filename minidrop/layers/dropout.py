"""Dropout: each element independently, or one mask shared along some axes. No product becomes smaller."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError
from minidrop.layers.base import RandomDrop, checked_axis, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Dropout")
class Dropout(RandomDrop):
    """y = x * m / (1 - p), m ~ Bernoulli(1 - p), p = dropout_ratio.

    y = x where drops do not act (phase TEST). `axes` are those along which m is the same: [2, 3] drops whole
    channels of images (N, C, H, W), 0 gives sequences (T, N, I) one mask for all steps (Gal and Ghahramani
    2016). `shared` adds axis 0, the batch axis of blobs whose first axis counts records; in sequences
    (T, N, I) the batch is axis 1.
    """

    stream = "dropout"
    draws_by_place = True
    reads_axes = True
    reason = "it drops every element on its own; try --dropout approx"

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        tops = super().setup(shape)
        self.axes = _shared_axes(self.settings, shape)
        own = [axis for axis in range(1, len(shape)) if axis not in self.axes]
        if len(shape) > 3 and len(own) > 1 and math.prod(shape[2:]) > 1:
            places = list(range(2, len(shape)))
            self.reason = (f"it drops single values of images, which --dropout approx leaves as they are; "
                           f"axes: {places} drops whole channels")
        elif self.axes:
            self.reason = "it multiplies by zero what has been computed; try --dropout approx"
        return tops

    def forward(self, x: Tensor) -> Tensor:
        drawn = self.drawn
        if not drawn.dropping:
            return x
        return functions.dropout(x, self.rate, drawn.key, axes=self.axes, part=drawn.part)


def _shared_axes(settings, shape):
    """Return the axes along which one mask is shared, non-negative; raises ConfigError for invalid ones."""
    axes = [checked_axis(axis, len(shape), "axes:") for axis in settings.axes]
    axes += [checked_axis(0, len(shape), "shared: axis")] * settings.shared
    given = " and ".join([f"axes {list(settings.axes)}"] * bool(settings.axes) + ["shared"] * settings.shared)
    twice = [axis for axis in axes if axes.count(axis) > 1]
    if twice:
        raise ConfigError(f"{given} name axis {twice[0]} twice; name it once")
    if axes and len(axes) == len(shape):
        raise ConfigError(f"{given}: that is every axis of the bottom, so one draw would drop everything or "
                          f"nothing; leave one out")
    return tuple(sorted(axes))
