"""plan_compaction: decide, once per net, which layers leave dropped units out and which must put them back.

A pure pass over the graph; it rewrites nothing. For each ApproxDropout:
  upward    while the blob has one reader and its writer works elementwise, go on; if the writer that stops the walk can
            compute a subset of its outputs, lend it the drop's site. Any elementwise layer may be crossed, whatever f(0)
            is: its missing entries are dropped anyway.
  downward  the drop's top carries the kept set, and a missing entry now *means zero*. Zero-preserving layers carry it on,
            layers that read kept sets consume it, before all others it is expanded.
"""

from dataclasses import dataclass, field


@dataclass
class Drop:
    """What the plan does for one ApproxDropout: the nodes that compute, carry and read only its kept units, and why not."""

    node: object
    producer: object = None              # the node that computes only the kept units
    crossed: list = field(default_factory=list)
    carriers: list = field(default_factory=list)
    consumers: list = field(default_factory=list)
    expanders: list = field(default_factory=list)
    reason: str = ""                     # why there is no producer

    @property
    def saves(self):
        """True where some product becomes smaller."""
        return self.producer is not None or bool(self.consumers)


@dataclass
class Plan:
    """All drops, and `expand`: the (node index, bottom number) pairs whose tensor is made dense first."""

    drops: list = field(default_factory=list)
    expand: set = field(default_factory=set)

    def lines(self):
        """One line for each decision, for the log."""
        for drop in self.drops:
            name = drop.node.name
            if drop.producer is not None:
                yield f"{drop.producer.name} computes only the units kept by {name}"
            else:
                yield f"{name} gathers: {drop.reason}"
            for node in drop.consumers:
                yield f"{node.name} reads only the units kept by {name}"
            for node in drop.expanders:
                yield f"the units dropped by {name} are put back as zeros before {node.name} ({node.config.type})"
            if not drop.saves:
                yield f"{name} saves nothing: no product computes or reads its units"


def plan_compaction(graph):
    """Return the Plan for a built Graph, and lend each producer its site (`layer.out_site`)."""
    plan = Plan()
    carrying = {}           # BlobRef below a drop -> the Drop whose kept set it carries
    for node in graph.nodes:
        site = getattr(node.layer, "site", None)
        if site is not None:
            drop = Drop(node)
            plan.drops.append(drop)
            _walk_up(graph, drop)
            if drop.producer is not None:
                drop.producer.layer.out_site = site
            carrying[node.tops[0]] = drop
            continue
        for i, ref in enumerate(node.bottoms):
            drop = carrying.get(ref)
            if drop is None:
                continue
            layer = node.layer
            if layer.reads_kept:
                if layer.gemms(*[graph.shapes[bottom] for bottom in node.bottoms]):
                    drop.consumers.append(node)
                else:
                    carrying.update({top: drop for top in node.tops})
            elif layer.elementwise and layer.zero_preserving:
                drop.carriers.append(node)
                carrying[node.tops[0]] = drop
            else:
                drop.expanders.append(node)
                plan.expand.add((node.index, i))
    return plan


def _walk_up(graph, drop):
    ref = drop.node.bottoms[0]
    while True:
        readers = graph.readers[ref]
        writer = graph.writer[ref]
        if len(readers) != 1:
            drop.reason = f"blob {ref.name} has {len(readers)} readers"
            return
        if any(weight and top == ref for top, weight in zip(writer.tops, writer.config.loss_weight, strict=False)):
            drop.reason = f"blob {ref.name} counts in the loss"
            return
        if writer.layer.computes_subset:
            axes_agree = writer.layer.axis == drop.node.layer.axis
            if writer.layer.out_site is None and axes_agree:
                drop.producer = writer
            else:
                drop.reason = f"{writer.name} does not compute the dropped axis as its outputs"
            return
        if not writer.layer.elementwise:
            drop.reason = f"blob {ref.name} is written by {writer.name} ({writer.config.type}), which computes all of it"
            return
        drop.crossed.append(writer)
        ref = writer.bottoms[0]


def gemm_shares(graph, plan):
    """Yield (node, products, output drop, input drop) for every layer with products: what `minidrop check` counts.

    `products` are (rows, inputs, outputs) of one forward pass; the drops are None where that side stays whole.
    """
    producers = {drop.producer.index: drop for drop in plan.drops if drop.producer is not None}
    consumers = {node.index: drop for drop in plan.drops for node in drop.consumers}
    for node in graph.nodes:
        products = node.layer.gemms(*[graph.shapes[ref] for ref in node.bottoms])
        if products:
            yield node, products, producers.get(node.index), consumers.get(node.index)
