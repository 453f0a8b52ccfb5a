"""Rotary: pairs of entries turned by angles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.config import decimal
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.continuing import ContinuingLayer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Rotary")
class Rotary(ContinuingLayer):
    """Turns pairs of each head of x (steps, streams, num_heads * size) by t / base^(2 i / size), t the step.

    Pair i of a head is its entries i and size / 2 + i, as in GPT-NeoX and Llama. With `continues` t counts on
    from batch to batch.
    """

    along = 0

    def read_settings(self) -> None:
        self.heads, self.base = self.settings.num_heads, decimal(self.settings.base)
        if not self.heads:
            raise ConfigError("num_heads must be at least 1, got 0")
        if not 0 < self.base < math.inf:
            raise ConfigError(f"base must be above 0, got {self.base:g}")

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.check_steps(shape)
        if shape[2] % (2 * self.heads):
            raise ConfigError(f"{shape[2]} units are no {self.heads} heads of pairs; give a number of units "
                              f"that 2 * num_heads divides")
        self.steps, self.size = shape[0], shape[2] // self.heads
        self.table: tuple | None = None
        return [shape]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass(axis=1, keeps_zero=True)]

    def forward(self, x: Tensor) -> Tensor:
        cosine, sine = self.angles(x, self.first_step(x))
        return functions.rotary(x, cosine, sine, self.heads)

    def angles(self, x: Tensor, first: Any) -> tuple:
        """Return the cosines and sines of the angles from step `first` on, (steps of x, size / 2) each."""
        steps = x.shape[0]          # which a batch may have fewer or more of than the shapes of the net say
        if self.table is None or self.settings.continues or len(self.table[0]) < steps:
            angles = functions.step_angles(x.backend, first, max(self.steps, steps), self.size, self.base)
            xp = x.backend.xp
            self.table = xp.cos(angles).astype(x.dtype), xp.sin(angles).astype(x.dtype)
        cosine, sine = self.table
        return cosine[:steps], sine[:steps]
