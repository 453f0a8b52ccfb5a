"""InnerProduct: y = x W^T + b."""

import math

from minidrop import functions
from minidrop.errors import ConfigError, ShapeError
from minidrop.layers.base import Layer, ParameterSpec, checked_axis, register_layer


@register_layer("InnerProduct")
class InnerProduct(Layer):
    """y = x W^T + b with x flattened from `axis` on; W (num_output, inputs) as in Caffe, or its transpose.

    The one layer that a drop can make cheaper: `out_site`, set by the planner, names the drop whose units are the only
    ones computed; a compact bottom is read as it is.
    """

    computes_subset = True

    def setup(self, shape):
        settings = self.settings
        if not settings.num_output:
            raise ConfigError("inner_product_param needs num_output, at least 1")
        self.axis = checked_axis(settings.axis, len(shape))
        if self.axis == 0:
            raise ConfigError("axis 0 is the batch; expected 1 or more")
        self.inputs = math.prod(shape[self.axis:])
        if not self.inputs:
            raise ShapeError(f"bottom of shape {tuple(shape)} has no features from axis {self.axis} on")
        self.outputs, self.transpose = settings.num_output, settings.transpose
        # A kept set can be read as it is only on the last axis, where no flattening mixes it with others. Images carry
        # theirs on axis 1, the channels.
        self.reads_kept = len(shape) == self.axis + 1 and len(shape) != 4
        return [tuple(shape[:self.axis]) + (self.outputs,)]

    def parameter_specs(self):
        settings = self.settings
        shape = (self.inputs, self.outputs) if settings.transpose else (self.outputs, self.inputs)
        specs = [ParameterSpec("weight", shape, settings.weight_filler)]
        if settings.bias_term:
            specs.append(ParameterSpec("bias", (self.outputs,), settings.bias_filler))
        return specs

    def forward(self, x):
        if x.ndim != self.axis + 1:
            x = functions.flatten(x, self.axis)
        out_kept = self.out_site.kept if self.out_site else None
        return functions.linear(x, self.params["weight"], self.params.get("bias"), out_kept, self.transpose)

    def gemms(self, shape):
        return [(math.prod(shape[:self.axis]), self.inputs, self.outputs)]
