"""InnerProduct: y = x W^T + b."""

import math

from minidrop import functions
from minidrop.layers.base import ProductLayer, register_layer


@register_layer("InnerProduct")
class InnerProduct(ProductLayer):
    """y = x W^T + b with x flattened from `axis` on; W (num_output, inputs) as in Caffe, or its transpose.

    The one layer that drops can make cheaper. `out_site`, set by the planner, is that of the drop below: only what it keeps
    is computed. A compact bottom is read as it is; `in_site` is that of a drop above that keeps blocks of a dense bottom.
    `epilogue`, lent too, is the activation below: y = f(x W^T + b), times the scale of a drop whose kept set is computed.
    """

    computes_subset = True
    applies_epilogue = True

    def setup(self, shape):
        tops = super().setup(shape)
        # A kept set can be read as it is only on the last axis, where no flattening mixes it with others. Images carry
        # theirs on axis 1, the channels.
        self.reads_kept = not self.flattens and len(shape) != 4
        return tops

    def forward(self, x):
        if x.ndim != self.axis + 1:
            x = functions.flatten(x, self.axis)
        W, b = self.params["weight"], self.params.get("bias")
        below, above = self.out_site, self.in_site
        if below is not None and below.drops == "weights":
            return self._with_tiles(below, x, W, b)
        # Of `groups` and `kept`, a site knows the one of its kind, and the other is None.
        samples = math.prod(x.shape[:-1])
        outs = below.groups(samples) if below is not None else None
        ins = above.groups(samples) if above is not None else None
        if outs is not None or ins is not None:
            return functions.block_linear(x, W, b, outs, ins, 1.0, self.transpose, self.epilogue)
        kept = below.kept if below is not None else None
        # With all units the drop below applies its scale: it may have been at rest when they were computed.
        scale = below.scale if kept is not None and below.scaled else 1.0
        return functions.linear(x, W, b, kept, self.transpose, self.epilogue, scale)

    def _with_tiles(self, site, x, W, b):
        if site.masked:
            mask = site.weight_mask(self.outputs, self.inputs)
            W = functions.multiply_mask(W, mask.T if self.transpose else mask)
        tiles = site.tiles(self.outputs, self.inputs)
        if tiles is None:
            return functions.linear(x, W, b, None, self.transpose, self.epilogue)
        pieces = functions.tile_pieces(math.prod(x.shape[:-1]), tiles)
        return functions.linear_pieces(x, W, b, pieces, site.scale, self.transpose, self.epilogue)
