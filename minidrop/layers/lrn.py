"""LRN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import decimal
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("LRN")
class LRN(Layer):
    """y = x (k + alpha / n * m)^-beta, where m sums x^2 over the n places of a window around each place.

    ACROSS_CHANNELS: local_size neighbouring channels. WITHIN_CHANNEL: a square of side local_size in the same
    channel, and 1 in place of k, as in Caffe.
    """

    def read_settings(self) -> None:
        settings = self.settings
        self.within = settings.norm_region == settings.WITHIN_CHANNEL
        if settings.local_size % 2 == 0:
            raise ConfigError(f"local_size must be odd, got {settings.local_size}")
        self.alpha, self.beta = decimal(settings.alpha), decimal(settings.beta)
        self.k = 1.0 if self.within else decimal(settings.k)

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        if len(shape) < 2 or self.within and len(shape) != 4:
            expected = "(samples, channels, height, width)" if self.within else "(samples, channels, ...)"
            raise ShapeError(f"expected a bottom of shape {expected}, got {tuple(shape)}")
        return [shape]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        bounded = self.k > 0 and self.alpha >= 0        # a power of 0, or of a negative number, otherwise
        return [Pass(axis=axis, keeps_zero=self.k > 0, finite=bounded)
                for axis in ((0, 1) if self.within else (0,))]

    def forward(self, x: Tensor) -> Tensor:
        return functions.lrn(x, self.settings.local_size, self.alpha, self.beta, self.k,
                             (2, 3) if self.within else (1,))
