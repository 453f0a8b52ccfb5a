"""ApproxDropout: a regular pattern per iteration, shared by a group of samples, decides what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, checked_axis, register_layer
from minidrop.layers.drop_settings import drop_site, shape_site
from minidrop.layers.flow import Drops, Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("ApproxDropout")
class ApproxDropout(Layer):
    """y = scale * x on the units that the drawn pattern keeps, 0 on the others; in phase TEST y = x.

    The layer's `site` draws the pattern. The product that computes x is given the draw as well and leaves the
    dropped units out; y carries the kept set, and the layers that read y leave them out too. Patterns may
    also drop weights of the product above (TILE) or blocks of activations (BLOCK). In sequences (T, N, I) one
    pattern holds for all steps, or with steps_per_pattern for so many; with time STEP each step has its own
    (Sarma et al., arXiv 2106.12089).
    Source: Song and Jiang, arXiv 1805.08939.
    """

    axis = 1

    def read_settings(self) -> None:
        self.site = drop_site(self.name, self.settings, self.context.seed)

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        if len(shape) < 2:
            raise ConfigError(f"ApproxDropout drops features, but the bottom of shape {tuple(shape)} has "
                              f"only a batch axis")
        # Features are the last axis of vectors and sequences, and axis 1 (channels) of images.
        usual = -1 if len(shape) == 3 else 1
        self.axis = checked_axis(self.settings.axis if self.settings.HasField("axis") else usual, len(shape))
        if self.axis == 0:
            raise ConfigError("axis 0 is the batch; expected 1 or more")
        shape_site(self.site, self.settings, shape, self.axis)
        self.along = None if self.site.steps is None else 0
        return [shape]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Drops | Pass]:
        return [Pass(keeps_zero=True), Drops(self.site, axis=self.axis, leaves_scale=True,
                                             reshuffle_interval=self.settings.reshuffle_interval)]

    def forward(self, x: Tensor) -> Tensor:
        return functions.approx_dropout(x, self.drawn.own, self.axis, scaled=self.plan.done)
