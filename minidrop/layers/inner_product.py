"""InnerProduct: y = x W^T + b."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop import functions
from minidrop.layers.base import ProductLayer, register_layer

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.layers.flow import Product


@register_layer("InnerProduct")
class InnerProduct(ProductLayer):
    """y = x W^T + b with x flattened from `axis` on; W (num_output, inputs) as in Caffe, or its transpose.

    Drops make it cheaper: it computes only what the drop below keeps (`drawn.outputs`), reads a compact
    bottom as it is, and of a dense one only the blocks that the drop above keeps (`drawn.inputs`). If `plan`
    says so, it also applies the activation below, y = f(x W^T + b), and the scale of the drop whose kept
    units it computes.
    """

    def flow(self, shapes: Any) -> list[Product]:
        return [self.product(shapes[0], kinds=("units", "groups", "weights", "blocks"))]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self.axis + 1:
            x = functions.flatten(x, self.axis)
        below = self.drawn.outputs
        # If all units are computed, the drop below applies its scale itself: it may have been off then.
        scale = below.scale if below.kept is not None and self.plan.scales else 1.0
        return functions.linear(x, self.params["weight"], self.params.get("bias"), below, self.transpose,
                                self.plan.activation, scale, self.drawn.inputs)
