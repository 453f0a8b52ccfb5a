"""The cost of the products of a net, dense and with its drops: counted, not measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from minidrop.layers.flow import OWN

if TYPE_CHECKING:
    from minidrop.net.graph import Node
    from minidrop.net.net import Net
    from minidrop.net.planner import Drop


@dataclass
class Cost:
    """Operations in the products of one layer for one batch; a multiply-add counts as 2."""

    node: Node
    dense: float = 0.0
    expected: float = 0.0


def costs(net: Net, without: Drop | None = None, loss_outside: bool = False) -> list[Cost]:
    """Return a Cost for every layer: forward, and in phase TRAIN those gradients that are computed.

    `expected` is the mean over the patterns of all drops. The Drop `without` is counted as if it dropped
    nothing. A net without a loss has no gradients, unless with `loss_outside` it is a module's.
    """
    rows = {node.index: Cost(node) for node in net.graph.nodes}
    trained = _trained_blobs(net)
    training = net.phase == "TRAIN" and (loss_outside or bool(net.losses))
    for node in net.graph.nodes:
        for product in node.products:
            weights = node.layer.params.get(product.parameter)
            factor = (product.factor is not None and _wants_gradient_of(node, product.factor, trained)
                      or weights is not None and weights.requires_grad)
            gradients = [training and _wants_input_gradient(node, product, trained), training and factor]
            drops = [drop for drop in _drops_of(net.plan, node, product) if drop is not without]
            shares = _shares(product, drops, net.backend) if net.phase == "TRAIN" else [1.0] * 3
            row = rows[node.index]
            row.dense += product.operations * (1 + sum(gradients))
            passes = zip(shares, (True, *gradients), strict=True)
            row.expected += product.operations * sum(share * wanted for share, wanted in passes)
    return list(rows.values())


def _wants_input_gradient(node, product, trained):
    """Whether the gradient of a product's input is computed."""
    if product.bottom == OWN:
        return node.tops[0] in trained
    return _wants_gradient_of(node, product.bottom, trained)


def _wants_gradient_of(node, bottom, trained):
    """Whether the gradient of a bottom is computed."""
    wanted = node.config.propagate_down or [True] * len(node.bottoms)
    return node.bottoms[bottom] in trained and wanted[bottom]


def _drops_of(plan, node, product):
    """Return the drops that make a product smaller, one entry per side."""
    found = [drop for drop in plan.drops if node in drop.producers and product.out_axis is not None
             and (product.top == OWN) == (drop.node is node and drop.fact.top == OWN)]
    for drop in plan.drops:
        own = product.bottom == OWN and drop.node is node and (node in drop.consumers
                                                               or node in drop.producers)
        if product.in_axis is not None and (own or (node.index, product.bottom) in drop.reads):
            found.append(drop)
        elif not product.kinds and _passes(node, product, drop):
            found.append(drop)
    return found


def _passes(node, product, drop):
    """Whether a drop passes through a product of single channels, which has the rest of them alone then."""
    crossed = node in drop.carriers or drop.producer is not None and node in drop.crossed
    return crossed and any(fact.bottom == product.bottom and fact.axis == product.out_axis
                           and (fact.runs == 1 or drop.others and drop.site.runs % fact.runs == 0)
                           for fact in node.passes)


def _shares(product, drops, backend):
    """Return the shares left of a product, of its input's gradient and of its weights' gradient."""
    if len(drops) == 2 and drops[0] is drops[1]:
        return [drops[0].kept_square_share] * 3
    share = 1.0
    for drop in drops:
        share *= drop.kept_share
    # If each of several calls leaves out other entries, the gradient of the weights leaves out nothing where
    # it is one product for all calls.
    whole = product.calls > 1 and any(drop.varied and not drop.site.parts_gradient(backend, product.rows)
                                      for drop in drops)
    return [share, share, 1.0 if whole else share]


def drop_savings(net: Net) -> Iterator:
    """Yield (drop, operations it saves: how many more there would be if it alone dropped nothing)."""
    total = sum(row.expected for row in costs(net))
    for drop in net.plan.drops:
        yield drop, sum(row.expected for row in costs(net, drop)) - total


def _trained_blobs(net):
    """Return the blobs whose gradient is needed because a trained parameter lies above them."""
    found = set()
    for node in net.graph.nodes:
        own = any(parameter.requires_grad for parameter in node.layer.params.values())
        if own or any(ref in found for ref in node.bottoms):
            found.update(node.tops)
    return found
