"""What the products of a net cost, dense and with its drops: plain counting, nothing is run."""

from dataclasses import dataclass

from minidrop.net.planner import gemm_shares, state_gemm_shares


@dataclass
class Cost:
    """Operations (2 a multiplication with its addition) in the products of one layer for one batch."""

    node: object
    dense: float = 0.0
    expected: float = 0.0


def costs(net, without=None):
    """Return a Cost for every layer: forward, and in phase TRAIN both gradients where they are computed.

    `expected` is the mean over the patterns of all drops; `without` is a Drop that is counted as if it dropped nothing.
    """
    rows = {node.index: Cost(node) for node in net.graph.nodes}
    trained = _trained_blobs(net)
    for node, products, outputs_drop, inputs_drop in gemm_shares(net.graph, net.plan):
        passes = 1
        if net.phase == "TRAIN" and net.losses:
            passes += any(parameter.requires_grad for parameter in node.layer.params.values())
            asked = node.config.propagate_down or [True] * len(node.bottoms)
            passes += any(ref in trained and wanted for ref, wanted in zip(node.bottoms, asked, strict=True))
        share = 1.0
        for drop in (outputs_drop, inputs_drop):
            if drop is not None and drop is not without and net.phase == "TRAIN":
                share *= drop.kept_share
        row = rows[node.index]
        row.dense = passes * sum(2.0 * m * k * n for m, k, n in products)
        row.expected = row.dense * share
    training = net.phase == "TRAIN" and net.losses
    for node, products, drop in state_gemm_shares(net.graph, net.plan):
        operations = sum(2.0 * m * k * n for m, k, n in products)
        own = any(parameter.requires_grad for parameter in node.layer.params.values())
        # Forward, the state's gradient, the weights'.
        shares = [1.0] * (1 + (node.tops[0] in trained) + own if training else 1)
        if drop is not None and drop is not without and net.phase == "TRAIN":
            # Step by step only the weights' gradient stays whole: one product of all steps.
            square, share = drop.kept_square_share, drop.kept_share
            shares = ([share, share, 1.0] if drop.by_steps else [square] * 3)[:len(shares)]
        rows[node.index].dense += operations * len(shares)
        rows[node.index].expected += operations * sum(shares)
    return list(rows.values())


def drop_savings(net):
    """Yield (drop, operations that the net would need more if this drop alone dropped nothing)."""
    total = sum(row.expected for row in costs(net))
    for drop in net.plan.drops:
        yield drop, sum(row.expected for row in costs(net, drop)) - total


def _trained_blobs(net):
    """The blobs whose gradient is needed, because something trained lies above them."""
    found = set()
    for node in net.graph.nodes:
        own = any(parameter.requires_grad for parameter in node.layer.params.values())
        if own or any(ref in found for ref in node.bottoms):
            found.update(node.tops)
    return found
