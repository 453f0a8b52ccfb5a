"""Embed: a vector for each index."""

from minidrop import functions
from minidrop.errors import ConfigError
from minidrop.layers.base import Layer, ParameterSpec, register_layer


@register_layer("Embed")
class Embed(Layer):
    """y = W[x] + b: x (...) indices of 0 .. input_dim-1, W (input_dim, num_output) -> y (..., num_output), as in Caffe.

    Only the rows that a batch reads have a gradient. Of a drop of units below, lent as `out_site`, only the kept columns
    are read and trained.
    """

    computes_subset = True
    subset_kinds = ("units",)

    def setup(self, shape):
        settings = self.settings
        for field in ("num_output", "input_dim"):
            if not getattr(settings, field):
                raise ConfigError(f"embed_param needs {field}, at least 1")
        self.axis = len(shape)
        return [(*shape, settings.num_output)]

    def parameter_specs(self):
        settings = self.settings
        specs = [ParameterSpec("weight", (settings.input_dim, settings.num_output), settings.weight_filler)]
        if settings.bias_term:
            specs.append(ParameterSpec("bias", (settings.num_output,), settings.bias_filler))
        return specs

    def output_axes(self):
        return {"weight": 1, "bias": 0} if self.settings.bias_term else {"weight": 1}

    def forward(self, x):
        kept = self.out_site.kept if self.out_site is not None else None
        return functions.embed(x, self.params["weight"], self.params.get("bias"), kept)
