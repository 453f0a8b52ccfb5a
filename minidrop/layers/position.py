"""Position: where a step stands."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidrop import functions
from minidrop.autograd import Tensor
from minidrop.config import decimal
from minidrop.errors import ConfigError
from minidrop.layers.base import ParameterSpec, register_layer
from minidrop.layers.continuing import ContinuingLayer
from minidrop.layers.flow import Pass


@register_layer("Position")
class Position(ContinuingLayer):
    """y[t] = x[t] + P[t] for the steps t of x (steps, streams, units), the same for all streams.

    P (max_steps, units) is learned, or the sines and cosines of t / base^(2 i / units), one after the other
    (Vaswani et al. 2017). With `continues` t counts on from batch to batch.
    """

    along = 0

    def read_settings(self) -> None:
        settings = self.settings
        self.learned = settings.kind == settings.LEARNED
        for field, learned in (("max_steps", True), ("weight_filler", True), ("base", False)):
            if settings.HasField(field) and self.learned != learned:
                kinds = ("LEARNED", "SINUSOIDAL")
                raise ConfigError(f"{field} is a setting of kind {kinds[not learned]}, and the kind is "
                                  f"{kinds[not self.learned]}; remove it")
        self.base = decimal(settings.base)
        if not 0 < self.base < math.inf:
            raise ConfigError(f"base must be above 0, got {self.base:g}")
        if self.learned and settings.continues and not settings.max_steps:
            raise ConfigError("continues needs max_steps, the length of the longest sequence: as many as the "
                              "net had in training")

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        self.check_steps(shape)
        self.steps, self.units = shape[0], shape[2]
        if self.learned:
            self.most = self.settings.max_steps or self.steps
            if self.most < self.steps:
                raise ConfigError(f"max_steps is {self.most}, but the bottom has {self.steps} steps; give at "
                                  f"least as many")
        self.table: Tensor | None = None
        return [shape]

    def parameter_specs(self) -> list[ParameterSpec]:
        if not self.learned:
            return []
        return [ParameterSpec("weight", (self.most, self.units), self.settings.weight_filler)]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        return [Pass()]

    def forward(self, x: Tensor) -> Tensor:
        return functions.add_positions(x, self.vectors(x, self.first_step(x)), carry=True)

    def vectors(self, x: Tensor, first: Any) -> Tensor:
        """Return P from step `first` on, with at least the steps of x."""
        if self.learned:
            weight = self.params["weight"]
            if not self.settings.continues:
                return weight
            places = x.backend.xp.arange(x.shape[0], dtype=np.int64) + first.astype(np.int64)
            return functions.embed(Tensor(places, backend=x.backend), weight)
        steps = max(self.steps, x.shape[0])
        if self.table is None or self.settings.continues or self.table.shape[0] < steps:
            angles = functions.step_angles(x.backend, first, steps, self.units, self.base)
            self.table = Tensor(functions.sinusoids(x.backend, angles, self.units, x.dtype),
                                backend=x.backend)
        return self.table
