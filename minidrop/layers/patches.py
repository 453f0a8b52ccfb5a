"""Patches: images as sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Patches")
class Patches(Layer):
    """Images (N, C, H, W) as sequences of patches, row by row: (H / p * W / p, N, C * p * p), p = patch_size.

    The values of a patch are in the order (C, p, p): an InnerProduct of them is a Convolution with kernels
    and steps of p, with the same weights.
    """

    def read_settings(self) -> None:
        if not self.settings.patch_size:
            raise ConfigError("patches_param needs patch_size, at least 1")

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        size = self.settings.patch_size
        if len(shape) != 4:
            raise ShapeError(f"expected images (records, channels, height, width), got shape {tuple(shape)}")
        n, c, h, w = shape
        if h % size or w % size:
            raise ConfigError(f"patch_size {size} does not divide the height and width of the images, {h} x "
                              f"{w}")
        return [(h // size * (w // size), n, c * size * size)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.patches(x, self.settings.patch_size)
