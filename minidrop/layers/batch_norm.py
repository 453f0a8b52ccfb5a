"""BatchNorm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.config import FillerParameter, decimal
from minidrop.errors import ConfigError, ShapeError
from minidrop.functions import Stored
from minidrop.layers.base import Layer, ParameterSpec, register_layer
from minidrop.layers.flow import Pass

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("BatchNorm")
class BatchNorm(Layer):
    """y = (x - mean) / sqrt(variance + eps) of each channel (axis 1), without a learned factor or bias.

    Mean and variance are those of the batch, or the stored ones with use_global_stats, the default in phase
    TEST. Every forward pass that takes the batch's adds them to the stored ones, which no solver trains:
    decayed sums of means and of variances, and as `scale_factor` the sum of their weights.
    """

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        if not shape:
            raise ShapeError("expected a bottom with samples on axis 0, got a single number")
        self.channels = shape[1] if len(shape) > 1 else 1
        self.eps, self.fraction = decimal(settings.eps), decimal(settings.moving_average_fraction)
        if self.eps < 0:
            raise ConfigError(f"eps must not be negative, got {self.eps:g}")
        if not 0 <= self.fraction <= 1:
            raise ConfigError(f"moving_average_fraction must lie in [0, 1], got {self.fraction:g}")
        self.uses_stored = (settings.use_global_stats if settings.HasField("use_global_stats")
                            else not self.training)
        return [shape]

    def parameter_specs(self) -> list[ParameterSpec]:
        return [ParameterSpec(name, (length,), FillerParameter(), trained=False)
                for name, length in (("mean", self.channels), ("variance", self.channels),
                                     ("scale_factor", 1))]

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Pass]:
        finite = self.eps > 0
        # A channel of zeros would stay one, but they count in the statistics of a batch.
        return [Pass(finite=finite) if self.uses_stored else
                Pass(axis=1, finite=finite, mixes_samples=True, epilogue=True)]

    def forward(self, x: Tensor) -> Tensor:
        means, variances, weight = (self.params[name].data for name in ("mean", "variance", "scale_factor"))
        stored = Stored(means, variances, weight, self.fraction)
        if self.uses_stored:
            return functions.stored_norm(x, stored, self.eps, carry=True)
        if self.plan.scaling is None:
            return functions.batch_norm(x, stored, self.eps)
        own, below = self.plan.scaling.params, self.drawn.outputs
        scales = self.plan.scales and x.kept is not None and x.kept == below.kept
        return functions.batch_norm(x, stored, self.eps, own["factor"], own.get("bias"),
                                    self.plan.activation == "relu", below.scale if scales else 1.0)
