"""InnerProduct: y = x W^T + b."""

import math

from minidrop import functions
from minidrop.layers.base import ProductLayer, register_layer


@register_layer("InnerProduct")
class InnerProduct(ProductLayer):
    """y = x W^T + b with x flattened from `axis` on; W (num_output, inputs) as in Caffe, or its transpose.

    The one layer that drops can make cheaper: it computes only what a drop below keeps (`drawn.outputs`),
    reads a compact bottom as it is, and of a dense one only the blocks that a drop above keeps
    (`drawn.inputs`). `plan` may ask for the activation below: y = f(x W^T + b), times the scale of a drop
    whose kept set is computed.
    """

    def flow(self, shapes):
        return [self.product(*shapes, kinds=("units", "weights", "blocks"))]

    def forward(self, x):
        if x.ndim != self.axis + 1:
            x = functions.flatten(x, self.axis)
        W, b, plan = self.params["weight"], self.params.get("bias"), self.plan
        below, above = self.drawn.outputs, self.drawn.inputs
        tiles = below.tiles(self.outputs, self.inputs)
        if below.masked:
            mask = below.weight_mask(self.outputs, self.inputs)
            W = functions.multiply_mask(W, mask.T if self.transpose else mask)
        samples = math.prod(x.shape[:-1])
        if tiles is not None:
            pieces = functions.tile_pieces(samples, tiles)
            return functions.linear_pieces(x, W, b, pieces, below.scale, self.transpose, plan.activation)
        outs, ins = below.groups(samples), above.groups(samples)
        if outs is not None or ins is not None:
            return functions.block_linear(x, W, b, outs, ins, 1.0, self.transpose, plan.activation)
        # With all units the drop below applies its scale: it may have been at rest when they were computed.
        scale = below.scale if below.kept is not None and plan.scales else 1.0
        return functions.linear(x, W, b, below.kept, self.transpose, plan.activation, scale)
