"""Embed: a vector for each index."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, ParameterSpec, register_layer
from minidrop.layers.flow import Product
from minidrop.layers.numbers import check_countable

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor


@register_layer("Embed")
class Embed(Layer):
    """y = W[x] + b: indices x (...) in 0 .. input_dim-1 -> y (..., num_output), as in Caffe.

    W has shape (input_dim, num_output). Only the rows that a batch reads have a gradient. With a drop of
    units below, only the kept columns are read and trained.
    """

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        for field in ("num_output", "input_dim"):
            if not getattr(settings, field):
                raise ConfigError(f"embed_param needs {field}, at least 1")
        check_countable(settings.input_dim, self.context.dtype, "input_dim")
        self.axis = len(shape)
        return [(*shape, settings.num_output)]

    def parameter_specs(self) -> list[ParameterSpec]:
        settings = self.settings
        specs = [ParameterSpec("weight", (settings.input_dim, settings.num_output), settings.weight_filler)]
        if settings.bias_term:
            specs.append(ParameterSpec("bias", (settings.num_output,), settings.bias_filler))
        return specs

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Product]:
        settings = self.settings
        # Rows are looked up, not multiplied: a product without inputs.
        return [Product("weight", math.prod(shapes[0]), 0, settings.num_output, out_axis=self.axis,
                        kinds=("units", "groups"), weight_axes=(1, None),
                        biases=("bias",) * settings.bias_term)]

    def forward(self, x: Tensor) -> Any:
        return functions.embed(x, self.params["weight"], self.params.get("bias"), self.drawn.outputs.kept)
