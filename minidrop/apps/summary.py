"""What a net consists of and costs, counted from its description: shapes, parameters, operations, memory."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.net.costs import costs, drop_savings

if TYPE_CHECKING:
    from minidrop.net import Net


@dataclass(frozen=True)
class LayerSummary:
    """A layer: its outputs {blob: shape}, trained parameters, and operations in products for one batch.

    A multiply-add counts as 2 operations. `expected` is their mean over the patterns of drops, `output_bytes`
    the size of the outputs.
    """

    name: str
    type: str
    outputs: dict[str, tuple[int, ...]]
    parameters: int
    dense: float
    expected: float
    output_bytes: int


@dataclass(frozen=True)
class DropSummary:
    """What a layer that drops saves: operations of a batch, `share` of those of the dense net.

    where: what it saves is all in this, "" for both sides. reason: why it saves nothing, "" where it does.
    """

    layer: str
    kind: str
    saved: float = 0.0
    share: float = 0.0
    where: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Summary:
    """What a net consists of: layers, drops, and sums; see `summarise`."""

    phase: str
    batch: int
    dtype: str
    layers: list[LayerSummary]
    drops: list[DropSummary]
    parameters: int
    dense: float
    expected: float
    memory: dict[str, int]

    @property
    def drops_count(self) -> bool:
        """Whether drops make any product smaller."""
        return any(layer.expected != layer.dense for layer in self.layers)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def summarise(net: Net) -> Summary:
    """Return the Summary of a net; it may be one that is not filled (`Net(..., fills=False)`).

    Operations are those of a batch: forward, and in phase TRAIN backward. memory, in bytes: `parameters`;
    `activations`, every blob of a batch once; in phase TRAIN `gradients` and `activation_gradients`, as large
    where everything is kept. Blobs that layers share, and what drops leave out, take less. What a solver
    remembers comes on top (as much as the parameters with momentum, twice that with Adam), what layers keep
    for their gradients, and work spaces.
    """
    size = np.dtype(net.dtype).itemsize
    rows = costs(net)
    layers = []
    for row in rows:
        node = row.node
        shapes = {ref.name: net.graph.shapes[ref] for ref in node.tops}
        layers.append(LayerSummary(
            node.name, node.config.type, shapes,
            sum(math.prod(spec.shape) for spec in node.layer.parameter_specs() if spec.trained),
            row.dense, row.expected, size * sum(map(math.prod, shapes.values()))))
    dense = sum(row.dense for row in rows)
    count = net.graph.parameter_count
    activations = sum(layer.output_bytes for layer in layers)
    memory = {"parameters": size * count, "activations": activations}
    if net.phase == "TRAIN":
        memory |= {"gradients": size * count, "activation_gradients": activations}
    first = next((shape for layer in layers for shape in layer.outputs.values() if shape), (0,))
    return Summary(net.phase, first[0], net.dtype, layers, _drops(net, dense) if net.phase == "TRAIN" else [],
                   count, dense, sum(row.expected for row in rows), memory)


def _drops(net, dense):
    found = [DropSummary(drop.node.name, drop.site.family.name, saved, saved / dense if dense else 0.0,
                         _where(drop), "" if saved else "dropout_ratio is 0")
             for drop, saved in drop_savings(net) if drop.saves]        # otherwise the plan gives the reason
    found += [DropSummary(node.name, node.config.type, reason=fact.reason)
              for node in net.graph.nodes for fact in node.drops if fact.reason]
    return found


def _where(drop):
    """Return in what all is that a drop saves, "" where both of its sides are smaller."""
    sides = [node.name for node in (*drop.producers, *drop.consumers)]
    if drop.kind == "weights":
        return f"the weights of {sides[0]}"
    return "" if drop.producer is not None and drop.consumers else " and ".join(sides)
