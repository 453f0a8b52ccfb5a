"""SPP: spatial pyramid pooling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.backend.window import Window
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("SPP")
class SPP(Layer):
    """Images (N, C, H, W) pooled into 1, 4, 16, ... windows that cover them, as vectors of one length.

    Level i < pyramid_height has 2^i by 2^i windows; y (N, C (4^pyramid_height - 1) / 3), the levels one after
    the other; with a single level (N, C, 1, 1), as in Caffe. Source: He et al., arXiv 1406.4729.
    """

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        if len(shape) != 4 or not min(shape[2:]):
            raise ShapeError(f"expected images (N, C, H, W), got a bottom of shape {tuple(shape)}")
        if not settings.pyramid_height:
            raise ConfigError("spp_param needs pyramid_height, at least 1")
        self.method = settings.PoolMethod.Name(settings.pool)
        self.stream = "pooling" if self.method == "STOCHASTIC" and self.training else None
        levels = len(self.windows(shape))
        if levels == 1:
            return [(*shape[:2], 1, 1)]
        return [(shape[0], shape[1] * sum(4 ** level for level in range(levels)))]

    def windows(self, shape: tuple[int, ...]) -> list[Window]:
        """Return the Window of each level, for images of this shape. Raises ConfigError for small ones."""
        height = self.settings.pyramid_height
        # Not beyond what an image can be cut into: the height is a number of the file.
        levels = min(height, min(shape[2:]).bit_length() + 1)
        windows = [self._window(shape[2:], 2 ** level) for level in range(levels)]
        if levels < height or None in windows:
            raise ConfigError(f"pyramid_height {height} cuts an axis into 2^{height - 1} windows, but the "
                              f"bottom of shape {tuple(shape)} is too small for that; make it smaller")
        return windows

    def _window(self, spatial, count):
        """Return a Window with `count` places on each axis, or None if one would lie in the padding alone."""
        size = tuple(math.ceil(n / count) for n in spatial)
        pad = tuple((k * count - n + 1) // 2 for k, n in zip(size, spatial, strict=True))
        if any(p >= k for p, k in zip(pad, size, strict=True)) and any(pad):
            return None
        window = Window(size, size, pad, (1, 1))
        return window if functions.pooled_places(spatial, window) == (count, count) else None

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(axis=0, keeps_zero=True, compact=self.stream is None)]

    def forward(self, x: Tensor) -> Tensor:
        # Of the images that come: they may differ in size from those of `setup`.
        levels = [self._pooled(x, window, level) for level, window in enumerate(self.windows(x.shape))]
        if len(levels) == 1:
            return levels[0]
        return functions.concat([functions.flatten(y) for y in levels], 1)

    def _pooled(self, x, window, level):
        if self.method == "MAX":
            return functions.max_pooling(x, window)
        if self.method == "AVE":
            return functions.mean_pooling(x, window)
        return functions.stochastic_pooling(x, window, self.drawn.key + level if self.training else None)
