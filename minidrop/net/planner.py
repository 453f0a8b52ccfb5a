"""plan_compaction: decides once per net which layers leave dropped entries out and which put them back.

A pure pass over the graph: it returns a Plan and changes nothing. For each drop it walks (blob, axis):
  upward    from the drop's own top through Passes, while the blob has one reader, to a layer whose Products
            compute the axis as their outputs and can leave them out. Any Pass may be crossed, whatever f(0)
            is: its missing entries are dropped anyway. (Blocks that were not computed pass through it too,
            with arbitrary values, so for blocks f must be finite everywhere. What differs between samples
            crosses none that mixes them, and blocks, which differ between steps, none that mixes steps.)
            A layer whose runs of entries come from several bottoms, as the heads of attention do, is walked
            through all of them if whole runs are dropped.
  downward  units: the drop's top carries the kept set, and a missing entry now *means zero*. Passes that
            keep zeros carry it on, Products that read the axis consume it, a sum adds it to its other
            bottoms; before all others it is expanded.
            blocks: the drop's top stays dense, with zeros; Products below are given the draw and skip them.
            weights: they belong to the producer, nothing goes down.

A layer that drops what its own Products compute or read is drop and producer in one. A layer with Products
serves drops of one kind: the drop below it first, then the drop above it if that is of the same kind.

Epilogues come last: what a product can do in the pass that adds its bias, namely the activation below it and
the scale of a drop of units whose kept set it computes; what a normalization can, the Scale below it, a ReLU
below that and such a scale. Those layers stay in the net and return their bottom. They must work in place,
so that no other reader sees the overwritten blob, neither a layer nor the user in `net.blobs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from minidrop.layers.flow import OWN

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend
    from minidrop.net.graph import Graph
from minidrop.net.plan import Drop, Epilogue, Plan


def plan_compaction(graph: Graph, backend: Backend) -> Plan:
    """Return the Plan for a built Graph; the backend's cost rule decides whether a saving pays."""
    plan = Plan()
    for node in graph.nodes:
        plan.drops += [Drop(node, fact, fact.site) for fact in node.drops if fact.site is not None]
    walker = _Walker(graph, backend, plan)
    for drop in plan.drops:
        walker.up(drop)
    for drop in plan.drops:
        walker.down(drop)
    plan.epilogues = list(_epilogues(graph, plan))
    return plan


MIXES_SAMPLES = "takes its means over all samples, so that groups of samples cannot differ in it"
MIXES_STEPS = "reads other steps too, so that steps cannot differ in it"
TOO_FEW_ROWS = "with so few streams a product for each pattern costs more than it saves"


class _Walker:
    """Walks (blob, axis) for every drop, and records which node serves which drop."""

    def __init__(self, graph, backend, plan):
        self.graph, self.backend, self.plan = graph, backend, plan
        self.served = {}        # {(node index, whether for its state): the drop that it serves}

    def up(self, drop):
        """Find the producer for a drop, or the reason why there is none."""
        if drop.fact.top == OWN:
            state = [product for product in drop.node.products if product.top == OWN]
            if any(product.out_axis is not None for product in state):
                drop.producer, self.served[drop.node.index, True] = drop.node, drop
            return
        found = self._above(drop, drop.node, drop.node.tops[drop.fact.top], drop.fact.axis)
        drop.reason, drop.crossed = found.reason, found.crossed
        if found.reason:
            return
        drop.producer, *drop.others = found.producers
        for node in found.producers:
            self.served[node.index, False] = drop

    def _above(self, drop, node, ref, axis):
        """Walk from the blob `ref` of `node` up to what computes the axis; return the _Found there."""
        found = _Found()
        while True:
            products = node.products_of(ref)
            if any(product.kinds and product.out_axis is not None for product in products):
                found.reason = self._refusal(drop, node, ref, axis, products)
                found.producers = [] if found.reason else [node]
                return found
            if node is not drop.node and any(fact.site is not None for fact in node.drops) and not products:
                return found.without(f"blob {ref.name} comes from another drop, {node.name}")
            facts = [fact for fact in node.passes_to(ref, axis) if fact.spread == 1 and fact.compact]
            single = [fact for fact in facts if fact.runs == 1]
            if len(single) != 1 or len(node.tops) != 1:      # another top may show the missing entries
                return found.without(f"blob {ref.name} is written by {node.name} ({node.config.type}), which "
                                     f"computes all of it")
            [fact] = single
            if not fact.finite and drop.kind == "blocks":
                return found.without(f"{node.name} ({node.config.type}) is not finite everywhere, so it has "
                                     f"to see real values")
            if mixed := _mixes(fact, drop):
                return found.without(f"{node.name} ({node.config.type}) {mixed}"
                                     + "; try groups: 1" * (drop.site.kind == "units"))
            if node is not drop.node:
                found.crossed.append(node)
            others = [other for other in facts if other.runs > 1]
            if others and all(drop.site.runs % other.runs == 0 for other in others):
                return self._through_all(drop, node, [fact, *others], axis, found)
            ref = node.bottoms[fact.bottom]
            if reason := self._seen(ref):
                return found.without(reason)
            node = self.graph.writer[ref]

    def _through_all(self, drop, node, facts, axis, found):
        """Walk on through several bottoms of a layer; if not all can lack the entries, through the first."""
        refs = [node.bottoms[fact.bottom] for fact in facts]
        ways = []
        for ref in refs:
            reason = self._seen(ref)
            ways.append(_Found(reason) if reason else self._above(drop, self.graph.writer[ref], ref, axis))
        nodes = [producer.index for way in ways for producer in way.producers]
        together = not any(way.reason for way in ways) and len(set(nodes)) == len(nodes)
        for way in ways if together else ways[:1]:
            found.reason = way.reason
            found.producers += way.producers
            found.crossed += way.crossed
        return found

    def _seen(self, ref):
        """Return who else would see that entries of a blob are missing; "" if nobody."""
        readers = self.graph.readers[ref]
        if len(readers) != 1:
            return f"blob {ref.name} has {len(readers)} readers"
        return f"blob {ref.name} counts in the loss" if _counts_in_loss(self.graph.writer[ref], ref) else ""

    def _refusal(self, drop, node, ref, axis, products):
        """Return why a layer with Products cannot leave out the dropped part of its top; "" if it can."""
        kind = drop.site.kind
        if not all(product.leaves_out(kind, drop.site.groups) for product in products):
            one = all(product.leaves_out(kind) for product in products)
            return (f"{node.name} ({node.config.type}) can leave out no {kind}"
                    + " that differ between groups of samples; try groups: 1" * one)
        if len({product.top for product in node.products if product.top != OWN}) > 1:
            return (f"{node.name} ({node.config.type}) computes several tops, which would all lack what is "
                    f"dropped from one")
        within = self.served.get((node.index, True))
        if within is not None and within.kind != kind:
            return f"{node.name} serves its own {within.fact.label}, which drops {within.kind}"
        lead = math.prod(self.graph.shapes[ref][:axis])
        if not drop.site.pays(self.backend, lead):
            return TOO_FEW_ROWS
        if (node.index, False) in self.served or any(product.out_axis != axis for product in products):
            return f"{node.name} does not compute the dropped axis as its outputs"
        return ""

    def down(self, drop):
        """Find the nodes below a drop that carry, read or must expand its result."""
        if drop.fact.top == OWN:
            if drop.producer is None:
                self._within(drop)
            return
        if drop.kind == "weights":
            return
        carrying = {drop.node.tops[drop.fact.top]: drop.fact.axis}
        for node in self.graph.nodes[drop.node.index + 1:]:
            if any(fact.site is not None for fact in node.drops) and not node.products:
                continue        # another drop: it expands its bottom itself where needed
            for i, ref in enumerate(node.bottoms):
                if ref in carrying:
                    self._meet(drop, node, i, carrying)

    def _within(self, drop):
        """Plan a drop of what the layer's own Products read of its top."""
        read = [product for product in drop.node.products
                if product.bottom == OWN and product.in_axis is not None]
        if all(drop.site.pays(self.backend, product.rows, product.calls) for product in read):
            drop.consumers.append(drop.node)
        else:
            drop.reason = TOO_FEW_ROWS

    def _meet(self, drop, node, i, carrying):
        kind, axis = drop.kind, carrying[node.bottoms[i]]
        products = [product for product in node.products if product.bottom == i]
        reads = bool(products) and all(_reads(product, axis, drop) for product in products)
        clash = self._clash(drop, node, products[0].top == OWN) if reads else ""
        facts = [fact for fact in node.passes_from(i, axis) if fact.compact and fact.runs == 1
                 and (fact.keeps_zero or fact.top is None)
                 and not (fact.joint and any(carrying.get(ref) != axis for ref in node.bottoms))]
        mixed = next(filter(None, (_mixes(fact, drop) for fact in facts)), "")
        if clash:
            drop.unread.append((node, clash))
        if reads and not clash:
            drop.consumers += [node] * (node not in drop.consumers)
            drop.reads.add((node.index, i))
        elif (not any(product.kinds for product in products) and not mixed and facts
              and len(facts) == len(node.passes_from(i, axis))
              and (kind == "units" or all(fact.spread == 1 for fact in facts))):
            if node not in drop.carriers:
                drop.carriers.append(node)
            carrying.update({node.tops[fact.top]: axis for fact in facts if fact.top is not None})
        elif kind == "units" and node.adds(i, axis):
            drop.adders.append(node)
        elif kind == "units":
            drop.expanders.append(node)
            self.plan.expand[node.index].add(i)
        elif not clash:
            drop.unread.append((node, f"it {mixed}" if mixed else "it cannot leave anything out"))

    def _clash(self, drop, node, state):
        """Return why a layer with Products cannot leave out what a drop above it drops; "" if it can."""
        if not drop.site.pays(self.backend, math.prod(self.graph.shapes[drop.node.tops[0]][:drop.fact.axis])):
            return TOO_FEW_ROWS
        below = self.served.get((node.index, state))
        if below is None or below.kind == drop.kind:
            return ""
        if below.node is node:
            return f"it serves its own {below.fact.label}, which drops {below.kind}"
        return f"it serves the drop below it, which drops {below.kind}"


@dataclass
class _Found:
    """What a walk upward found: who computes the axis, what it crossed; or why nobody can leave it out."""

    reason: str = ""
    producers: list = field(default_factory=list)
    crossed: list = field(default_factory=list)

    def without(self, reason):
        self.reason = reason
        return self


def _reads(product, axis, drop):
    """Return whether a product can leave out entries of an axis of its bottom; blocks: single inputs only."""
    return (product.in_axis == axis and product.leaves_out(drop.kind, drop.site.groups)
            and (drop.kind == "units" or product.in_spread == 1))


def _mixes(fact, drop):
    """Return why a Pass needs all of what a drop leaves out of some samples or steps alone; "" if it does
    not."""
    blocks = drop.site.kind == "blocks"
    if fact.mixes_samples and (blocks or drop.site.groups > 1):
        return MIXES_SAMPLES
    return MIXES_STEPS if fact.mixes_steps and blocks else ""


def _counts_in_loss(writer, ref):
    return any(weight and top == ref for top, weight in zip(writer.tops, writer.config.loss_weight,
                                                            strict=False))


def _epilogues(graph, plan):
    """Yield the Epilogue of every product, normalization and sum that has one."""
    drops = [drop for drop in plan.drops
             if drop.producer is not None and drop.kind == "units" and drop.fact.leaves_scale
             and drop.node.is_own_word]
    scaled = {drop.producer.index: drop.node for drop in drops}
    for node in graph.nodes:
        if any(fact.epilogue for fact in node.passes) and node.is_own_word:
            yield from _scaled(graph, node, drops)
            continue
        if any(fact.epilogue for fact in node.sums) and node.is_own_word:
            below = _rectifier(_in_place_reader(graph, node))
            if below is not None:
                yield Epilogue(node, activation=below, function="relu")
            continue
        if not (len(node.products) == 1 and node.products[0].epilogue and node.is_own_word):
            continue
        found, below = Epilogue(node), _in_place_reader(graph, node)
        if below is not None and below.activation and below.is_own_word:
            found.activation, found.function, below = below, below.activation, _in_place_reader(graph, below)
        # The other functions take their gradients from f(x); y / scale would add a rounding.
        keeps_bits = found.function in ("none", "relu")
        if below is not None and below is scaled.get(node.index) and keeps_bits:
            found.drop = below
        if found.activation is not None or found.drop is not None:
            yield found


def _scaled(graph, node, drops):
    """Yield the Epilogue of a normalization: a Scale below it, a ReLU below that, and the scale of a drop.

    No Scale that passes no gradient down: it would stop that of its own parameters.
    """
    below = _in_place_reader(graph, node)
    if (below is None or not any(fact.scales_channels for fact in below.passes) or not below.is_own_word
            or not all(below.config.propagate_down)):
        return
    after = _rectifier(_in_place_reader(graph, below))
    last = _in_place_reader(graph, below if after is None else after)
    drop = last if any(last is one.node for one in drops) else None
    yield Epilogue(node, scaling=below, activation=after, function="none" if after is None else "relu",
                   drop=drop)


def _rectifier(node):
    """Return a node if it is a ReLU, else None."""
    return node if node is not None and node.activation == "relu" and node.is_own_word else None


def _in_place_reader(graph, node):
    """Return the node that overwrites the one top of `node`, if no other layer reads it, else None."""
    ref = node.tops[0]
    if len(graph.readers[ref]) != 1 or _counts_in_loss(node, ref):
        return None
    reader = graph.readers[ref][0][0]
    return reader if [top.name for top in reader.tops] == [ref.name] and len(reader.bottoms) == 1 else None

