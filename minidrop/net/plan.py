"""Plan: what each drop of a net does, decided once by `plan_compaction`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from minidrop.layers.given import NodePlan
from minidrop.patterns.draw import NOTHING, Masked, Units, Weights

if TYPE_CHECKING:
    from minidrop.layers.flow import Drops
    from minidrop.net.graph import Node
    from minidrop.patterns.draw import Draw
    from minidrop.patterns.drop_site import DropSite


@dataclass
class Drop:
    """What the plan does for one drop: which nodes compute, carry and read only what it keeps, or why not."""

    node: Node
    fact: Drops
    site: DropSite
    producer: Node | None = None         # the node that computes only what is kept
    others: list = field(default_factory=list)      # more of them, where whole heads are dropped
    crossed: list = field(default_factory=list)
    carriers: list = field(default_factory=list)
    consumers: list = field(default_factory=list)
    reads: set = field(default_factory=set)         # (node's index, number of the bottom) that consumers read
    adders: list = field(default_factory=list)      # nodes that add it to what has all units
    expanders: list = field(default_factory=list)
    reason: str = ""                     # why there is no producer
    unread: list = field(default_factory=list)      # (node, why) of layers below that read everything

    @property
    def kind(self) -> str:
        """What it drops here: "units", "weights" or "blocks".

        Weights that no product can leave out are dropped as runs of units.
        """
        kind = self.site.kind
        return "units" if kind == "weights" and self.producer is None else kind

    @property
    def producers(self) -> list:
        """All nodes that compute only what is kept."""
        return [] if self.producer is None else [self.producer, *self.others]

    @property
    def varied(self) -> bool:
        """Whether successive products leave out different entries."""
        return self.site.steps is not None

    @property
    def saves(self) -> bool:
        """Whether some product becomes smaller."""
        return self.producer is not None or bool(self.consumers)

    @property
    def kept_share(self) -> float:
        """The expected share of kept entries: exactly 1 - rate, whatever the family and the sizes."""
        return 1 - self.site.family.distribution.rate

    @property
    def kept_square_share(self) -> float:
        """The expected share of a product with the same drop on both sides: E[kept share squared]."""
        family = self.site.family
        return float(sum(share * (1 - family.pattern(choice, 0).rate) ** 2 for choice, share
                         in zip(family.distribution.choices, family.distribution.probabilities, strict=True)))

    def formed(self, draw: Draw) -> Draw:
        """Return a Draw of the site in the form it has here, see `kind`."""
        return draw.as_units(self.site.total) if isinstance(draw, Weights) and self.producer is None else draw

    def lines(self) -> Iterator:
        """Yield one line of text per decision."""
        name, kind, label = self.node.name, self.kind, self.fact.label
        if self.producer is self.node:
            yield f"{name} computes only the {kind} kept by its {label}"
        elif self.producer is not None:
            verb = "multiplies only the weights" if kind == "weights" else f"computes only the {kind}"
            yield from (f"{node.name} {verb} kept by {name}" for node in self.producers)
        elif self.site.kind == "weights":
            yield f"{name} gathers runs of units, and drops no weights: {self.reason}"
        elif kind == "units":
            yield f"{name} gathers: {self.reason}"
        elif self.node not in self.consumers:
            yield f"{name} multiplies {f'what its {label} drops ' if label else ''}by a mask: {self.reason}"
        for node in self.consumers:
            yield (f"{name} reads of its own top only what its {label} keeps" if node is self.node else
                   f"{node.name} reads only the {kind} kept by {name}")
        for node in self.adders:
            yield f"{node.name} adds the units kept by {name} to its other bottoms"
        for node in self.expanders:
            yield f"the units dropped by {name} are put back as zeros before {node.name} ({node.config.type})"
        for node, why in self.unread:
            yield f"{node.name} reads all of {name}: {why}"
        if not self.saves:
            yield f"{name} saves nothing: no product computes or reads its {kind}"


@dataclass
class Epilogue:
    """What a product computes for the layers below it: y = scale * f(x W^T + b).

    Or a normalization, y = scale * f(z * factor + bias), or a sum, y = f(a + b).
    """

    product: Node
    scaling: Node | None = None          # the node whose factor and bias a normalization applies
    activation: Node | None = None       # the node whose function f it applies
    function: str = "none"               # the name of f
    drop: Node | None = None             # the node whose scale it applies, if it has only the kept units

    @property
    def line(self) -> str:
        parts = [node.name for node in (self.scaling, self.activation) if node is not None]
        if self.drop is not None:
            parts.append(f"the scale of {self.drop.name}")
        *others, last = parts
        return f"{self.product.name} applies {', '.join(others) + ' and ' if others else ''}{last}"


@dataclass
class Plan:
    """The drops and epilogues of a net.

    `expand` is {node index: numbers of the bottoms that are made dense first}.
    """

    drops: list = field(default_factory=list)
    epilogues: list = field(default_factory=list)
    expand: dict = field(default_factory=lambda: defaultdict(set))

    @cached_property
    def scalers(self) -> dict[int, int]:
        """{index of a drop's node: index of the node that applies its scale}."""
        return {one.drop.index: one.product.index for one in self.epilogues if one.drop is not None}

    def node_plans(self, nodes: list[Node], fused: bool = True) -> dict[int, NodePlan]:
        """Return the NodePlan of each node; without `fused` there are no epilogues."""
        plans = {node.index: NodePlan(expand=frozenset(self.expand.get(node.index, ()))) for node in nodes}

        def set_of(node, **fields):
            plans[node.index] = replace(plans[node.index], **fields)

        for drop in self.drops:
            if drop.node is drop.producer or drop.node in drop.consumers:
                set_of(drop.node, skips=True)
            for node in drop.adders:
                set_of(node, whole=True)
        for epilogue in self.epilogues if fused else ():
            if epilogue.scaling is not None:
                set_of(epilogue.product, scaling=epilogue.scaling.layer)
                set_of(epilogue.scaling, done=True)
            if epilogue.activation is not None:
                set_of(epilogue.product, activation=epilogue.function)
                set_of(epilogue.activation, done=True)
            if epilogue.drop is not None:
                set_of(epilogue.product, scales=True)
                set_of(epilogue.drop, done=True)
        return plans

    def node_draws(self, draws: dict, masked: bool = False) -> dict:
        """Return {node index: (outputs, inputs, own)}, see NodeDraw; nodes left out drop nothing.

        `draws` is {index of a drop's node: its Draw}.
        """
        given: defaultdict[int, list[Draw]] = defaultdict(lambda: [NOTHING] * 3)
        for drop in self.drops:
            draw = draws[drop.node.index]
            if draw is NOTHING:
                continue
            own = drop.node.index
            taken = isinstance(draw, Weights)
            if not taken:
                given[own][2] = Masked(draw) if masked else draw
            if not masked and own in self.scalers:
                given[self.scalers[own]][0] = draw
            for producer in drop.producers:
                if producer is not drop.node and (taken or not masked):
                    given[producer.index][0] = Masked(draw) if masked else draw
            if not masked and not isinstance(draw, Units | Weights):
                for node in drop.consumers:
                    if node is not drop.node:
                        given[node.index][1] = draw
        return {index: tuple(three) for index, three in given.items()}

    def lines(self) -> Iterator:
        """Yield one line of text per decision, for the log."""
        for drop in self.drops:
            yield from drop.lines()
        for epilogue in self.epilogues:
            yield epilogue.line
