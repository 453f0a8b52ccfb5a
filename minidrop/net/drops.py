"""NetDrops: the drops of a running net, its mode, the drawn patterns, and what each layer is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidrop.layers import Layer
from minidrop.layers.given import NodeDraw
from minidrop.net.graph import BlobRef, Graph
from minidrop.net.plan import Drop, Plan
from minidrop.patterns.draw import NOTHING, Draw
from minidrop.patterns.part import Part


@dataclass(frozen=True)
class Mode:
    """How a net runs.

    dropping: whether drops act; None: in phase TRAIN only.
    masked: everything is computed and multiplied by explicit masks, the reference.
    fused: products apply their epilogues.
    """

    dropping: bool | None = None
    masked: bool = False
    fused: bool = True


class NetDrops:
    """The drops of one net; it gives layers a NodePlan when the mode changes and a NodeDraw for each draw.

    `drawn`: {node index: Draw} of the iteration drawn last, {} before any; `whole_draws`: those of the whole
    batch, of which the net may have one rank's part. `reached`: the indices of the nodes whose tops depend on
    the draws. parts: of the blobs of which the net has one rank's part, in a batch of full size.
    """

    def __init__(self, graph: Graph, plan: Plan, parts: Mapping[BlobRef, Part]):
        self.graph, self.plan, self.full_parts, self.parts = graph, plan, parts, parts
        scalers = plan.scalers.values()
        self.random_nodes = [node for node in graph.nodes if node.drops or node.layer.stream is not None
                             or node.index in scalers
                             or any(node in (*drop.producers, *drop.consumers) for drop in plan.drops)]
        self.reached = _reached(graph, plan)
        self.iteration: int | None = None
        self.whole_draws: dict[int, Draw] = {}
        self.drawn: dict[int, Draw] = {}
        self._mode: Mode | None = None
        self.mode = Mode()

    @property
    def mode(self) -> Mode:
        """The Mode of the net; setting it renews the plan and the draws of every layer."""
        assert self._mode is not None
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if self._mode is None or mode.fused != self._mode.fused:
            for index, plan in self.plan.node_plans(self.graph.nodes, mode.fused).items():
                self.graph.nodes[index].layer.plan = plan
        self._mode = mode
        self.give_drawn()

    @property
    def state(self) -> tuple:
        """What passes change, (iteration, whole_draws, drawn, parts, mode); assign it to restore."""
        return self.iteration, self.whole_draws, self.drawn, self.parts, self.mode

    @state.setter
    def state(self, state: tuple) -> None:
        self.iteration, self.whole_draws, self.drawn, self.parts, self.mode = state

    def draw(self, iteration: int, share: float = 1.0) -> None:
        """Draw the patterns of an iteration, and give every layer its NodeDraw.

        share: the samples of the next batch, divided by those of a full one.
        """
        self.iteration = iteration
        self.parts = {ref: part.of_share(share) for ref, part in self.full_parts.items()}
        self.whole_draws = {drop.node.index: drop.site.draw(iteration) for drop in self.plan.drops}
        self.drawn = {drop.node.index: self.of_part(drop, self.whole_draws[drop.node.index])
                      for drop in self.plan.drops}
        self.give_drawn()

    def of_part(self, drop: Drop, draw: Draw) -> Draw:
        """Return what the net's part of the batch drops, from the draw of the whole batch."""
        ref = drop.node.tops[max(0, drop.fact.top)]
        if ref not in self.parts:
            return draw
        shape, part, full = list(self.graph.shapes[ref]), self.parts[ref], self.full_parts[ref]
        shape[part.axis] = shape[part.axis] // full.count * part.count
        return draw.of_part(part, shape, drop.fact.axis % len(shape))

    def give_drawn(self) -> None:
        """Give every layer its NodeDraw of the drawn iteration in this mode; NOTHING before any draw."""
        iteration = self.iteration or 0
        self.give(self.acting(), lambda layer: layer.key(iteration))

    def acting(self, whole: bool = False) -> dict[int, Draw]:
        """Return {node index: Draw} of all drops, NOTHING for those that do not act.

        Weights that no product can leave out are dropped as units. whole: those of the whole batch.
        """
        drawn = self.whole_draws if whole else self.drawn
        return {drop.node.index: drop.formed(drawn[drop.node.index])
                if drawn and self.is_dropping(drop.node.layer) else NOTHING for drop in self.plan.drops}

    def is_dropping(self, layer: Layer) -> bool:
        """Whether the drops of a layer act: in phase TRAIN, unless the mode says otherwise."""
        return layer.training if self.mode.dropping is None else self.mode.dropping

    def is_random(self) -> bool:
        """Whether a drop or another layer with random numbers acts, so that passes differ."""
        return any(self.is_dropping(node.layer) for node in self.random_nodes
                   if node.drops or node.layer.stream is not None)

    def give(self, draws: dict[int, Draw], key_of: Callable[[Layer], Any]) -> None:
        """Give each layer its NodeDraw from `draws`, as `acting` returns them, and its key, key_of(layer)."""
        given = self.plan.node_draws(draws, self.mode.masked)
        for node in self.random_nodes:
            layer = node.layer
            outputs, inputs, own = given.get(node.index, (NOTHING,) * 3)
            layer.drawn = NodeDraw(outputs, inputs, own, self.is_dropping(layer),
                                   None if layer.stream is None else key_of(layer),
                                   self.parts.get(node.bottoms[0]) if node.bottoms else None)

    @property
    def by_name(self) -> dict[str, Draw]:
        """{layer: Draw} of the iteration drawn last."""
        return {drop.node.name: self.drawn[drop.node.index] for drop in self.plan.drops if self.drawn}

    def masks(self) -> dict[str, np.ndarray]:
        """Return {layer: float64 mask, scale included, by which dense code would multiply}.

        With groups of samples a mask has a row for each sample of the batch that the net declares.
        """
        draws, masks = self.acting(), {}
        for drop in self.plan.drops:
            draw = draws[drop.node.index]
            if drop.kind == "weights":
                mask = draw.weight_mask(drop.producer.layer.outputs, drop.producer.layer.inputs)
            else:
                shape, axis = list(self.graph.shapes[drop.node.tops[max(0, drop.fact.top)]]), drop.fact.axis
                shape[axis] = drop.site.total
                mask = draw.mask(shape, axis)
            masks[drop.node.name] = mask
        return masks


def _reached(graph, plan):
    """Return the indices of the nodes whose tops depend on the draws.

    Those are drop layers, products that leave out weights, and all nodes below them. A product that leaves
    out *outputs* does not count: the drop below it can also take them out of a complete top.
    """
    thinned = {drop.producer.index for drop in plan.drops if drop.kind == "weights"}
    found, tops = set(), set()
    for node in graph.nodes:
        if node.drops or node.index in thinned or tops & set(node.bottoms):
            found.add(node.index)
            tops.update(node.tops)
    return found
