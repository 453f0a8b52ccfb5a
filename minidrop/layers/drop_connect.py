"""DropConnect: drops individual weights of a product, not units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop import functions
from minidrop.layers.base import ProductLayer, RandomDrop, register_layer
from minidrop.layers.flow import Drops

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.layers.flow import Product


@register_layer("DropConnect")
class DropConnect(RandomDrop, ProductLayer):
    """y = x (W * m / (1 - dropout_ratio))^T + b, m ~ Bernoulli(1 - dropout_ratio) per weight.

    Wan et al. 2013, "Regularization of Neural Networks using DropConnect", with three differences: one m for
    the whole batch, where the paper draws one for each record; b is never dropped; and where drops do not act
    (phase TEST) y = x W^T + b, the mean over all m, where the paper samples from a Gaussian with the mean and
    variance of y.
    """

    stream = "drop connect"
    draws_by_place = True      # of weights, which all samples share
    reason = "it drops every weight on its own, and the product is computed whole"

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Drops | Product]:
        return [self.product(*shapes), Drops(reason=self.reason)]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != self.axis + 1:
            x = functions.flatten(x, self.axis)
        W: Tensor = self.params["weight"]
        if self.drawn.dropping:
            W = functions.dropout(W, self.rate, self.drawn.key)
        return functions.linear(x, W, self.params.get("bias"), transpose=self.transpose,
                                activation=self.plan.activation)
