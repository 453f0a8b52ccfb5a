"""plan_compaction: decide, once per net, which layers leave dropped units out and which must put them back.

A pure pass over the graph; it rewrites nothing. For each ApproxDropout:
  upward    while the blob has one reader and its writer works elementwise, go on; if the writer that stops the walk can
            compute a subset of its outputs, lend it the drop's site. Any elementwise layer may be crossed, whatever f(0)
            is: its missing entries are dropped anyway. (Blocks that were not computed still pass through it, as
            numbers without a meaning, so for them f must be finite everywhere.)
  downward  units: the drop's top carries the kept set, and a missing entry now *means zero*. Zero-preserving layers carry
            it on, layers that read kept sets consume it, before all others it is expanded.
            blocks: the drop's top stays dense, with zeros; products below, behind zero-preserving layers, are lent the
            site and skip them. Nothing has to be put back.
            weights: they are the producer's own, nothing goes down.

A recurrent layer with hidden_dropout drops units of its own: it is drop and producer in one.
A product serves drops of one kind: the one below it first, and the one above it if it drops the same.

Last, what a product can do in the pass that adds its bias: the activation below it, and the scale of a drop of units whose
kept set it computes. Those layers stay, and return their bottom. Only where they work in place: what they overwrite nobody
sees, neither another layer nor the user in `net.blobs`.
"""

from dataclasses import dataclass, field


@dataclass
class Drop:
    """What the plan does for one ApproxDropout: the nodes that compute, carry and read only what it keeps, and why not."""

    node: object
    producer: object = None              # the node that computes only what is kept
    crossed: list = field(default_factory=list)
    carriers: list = field(default_factory=list)
    consumers: list = field(default_factory=list)
    expanders: list = field(default_factory=list)
    reason: str = ""                     # why there is no producer
    unread: list = field(default_factory=list)      # (node, why) of layers below that read all of it

    @property
    def site(self):
        return self.node.layer.site

    @property
    def saves(self):
        """True where some product becomes smaller."""
        return self.producer is not None or bool(self.consumers)

    @property
    def kept_share(self):
        """The expected share of a side that it drops from: exactly 1 - rate, whatever the family and the sizes."""
        return 1 - self.site.family.distribution.rate

    @property
    def kept_square_share(self):
        """The expected share of a product of which it drops the same units on both sides: E[kept share squared]."""
        family = self.site.family
        return float(sum(share * (1 - family.pattern(choice, 0).rate) ** 2 for choice, share
                         in zip(family.distribution.choices, family.distribution.probabilities, strict=True)))

    @property
    def by_steps(self):
        """True where every step of a sequence has a pattern of its own."""
        return self.site.steps is not None


@dataclass
class Epilogue:
    """What a product does for the layers below it: y = scale * f(x W^T + b), with the f and the scale of these nodes."""

    product: object
    activation: object = None            # the node whose function it applies
    drop: object = None                  # the node whose scale it applies to the units it computes, if those are not all

    @property
    def line(self):
        parts = [self.activation.name] if self.activation is not None else []
        if self.drop is not None:
            parts.append(f"the scale of {self.drop.name}")
        return f"{self.product.name} applies {' and '.join(parts)}"


@dataclass
class Plan:
    """All drops, `expand`: the (node index, bottom number) pairs whose tensor is made dense first, and all epilogues.

    `fused`: whether the products apply their epilogues now, see `fuse`.
    """

    drops: list = field(default_factory=list)
    expand: set = field(default_factory=set)
    epilogues: list = field(default_factory=list)
    fused: bool = False

    def fuse(self, on):
        """Let products do what epilogues say, or every layer its own work: the same results, in one pass or in several."""
        self.fused = bool(on)
        for epilogue in self.epilogues:
            if epilogue.activation is not None:
                layer = epilogue.activation.layer
                epilogue.product.layer.epilogue = layer.as_epilogue if on else "none"
                layer.passes_on = self.fused
            if epilogue.drop is not None:
                epilogue.drop.layer.site.scaled = self.fused

    def lines(self):
        """One line for each decision, for the log."""
        for drop in self.drops:
            name, kind = drop.node.name, drop.site.drops
            if drop.producer is drop.node:
                yield (f"{name} reads of its state only the units kept by its hidden_dropout, step by step" if drop.by_steps
                       else f"{name} computes only the units kept by its hidden_dropout")
            elif drop.producer is not None:
                verb = "multiplies only the weights" if kind == "weights" else f"computes only the {kind}"
                yield f"{drop.producer.name} {verb} kept by {name}"
            elif drop.site.family.drops == "weights":
                yield f"{name} gathers runs of units, and drops no weights: {drop.reason}"
            elif kind == "units":
                yield f"{name} gathers: {drop.reason}"
            else:
                what = "its state " * drop.node.layer.drops_own_units
                yield f"{name} multiplies {what}by a mask: {drop.reason}"
            for node in drop.consumers:
                yield f"{node.name} reads only the {kind} kept by {name}"
            for node in drop.expanders:
                yield f"the units dropped by {name} are put back as zeros before {node.name} ({node.config.type})"
            for node, why in drop.unread:
                yield f"{node.name} reads all of {name}: {why}"
            if not drop.saves:
                yield f"{name} saves nothing: no product computes or reads its {kind}"
        for epilogue in self.epilogues:
            yield epilogue.line


def plan_compaction(graph):
    """Return the Plan for a built Graph; lends each producer its site (`layer.out_site`), and block sites to readers.

    Products are lent their epilogues too, and the layers that these stand for are told to pass on.
    """
    plan = Plan()
    for node in graph.nodes:
        if node.layer.site is not None:
            drop = Drop(node)
            plan.drops.append(drop)
            if node.layer.drops_own_units:
                if drop.by_steps and not _state_steps_pay(graph, drop):
                    drop.reason = FEW_STREAMS
                else:
                    drop.producer, node.layer.skips_steps = node, True
                continue
            _walk_up(graph, drop)
            if drop.producer is not None:
                drop.producer.layer.out_site = drop.site
                drop.site.attached = drop.site.family.drops == "weights"
    for drop in plan.drops:
        if drop.site.drops != "weights" and not (drop.node.layer.drops_own_units and drop.by_steps):
            _walk_down(graph, drop, plan)
    plan.epilogues = list(_epilogues(graph, plan))
    plan.fuse(True)
    return plan


def _walk_up(graph, drop):
    ref = drop.node.bottoms[0]
    while True:
        readers = graph.readers[ref]
        writer = graph.writer[ref]
        if len(readers) != 1:
            drop.reason = f"blob {ref.name} has {len(readers)} readers"
            return
        if _counts_in_loss(writer, ref):
            drop.reason = f"blob {ref.name} counts in the loss"
            return
        if writer.layer.computes_subset:
            axes_agree = writer.layer.axis == drop.node.layer.axis
            kind = "blocks" if drop.by_steps else drop.site.family.drops
            if kind not in writer.layer.subset_kinds:
                drop.reason = f"{writer.name} ({writer.config.type}) can leave out no {kind}"
                return
            if drop.by_steps and not _steps_pay(graph, drop):
                drop.reason = FEW_STREAMS
            elif writer.layer.out_site is None and axes_agree:
                drop.producer = writer
            else:
                drop.reason = f"{writer.name} does not compute the dropped axis as its outputs"
            return
        if writer.layer.site is not None and not writer.layer.drops_own_units:
            drop.reason = f"blob {ref.name} comes from another drop, {writer.name}"
            return
        if not writer.layer.elementwise:
            drop.reason = f"blob {ref.name} is written by {writer.name} ({writer.config.type}), which computes all of it"
            return
        if writer.layer.has_poles and drop.site.drops == "blocks":
            drop.reason = f"{writer.name} ({writer.config.type}) is not finite everywhere, so it has to see real values"
            return
        drop.crossed.append(writer)
        ref = writer.bottoms[0]


def _counts_in_loss(writer, ref):
    return any(weight and top == ref for top, weight in zip(writer.tops, writer.config.loss_weight, strict=False))


def _walk_down(graph, drop, plan):
    carrying, kind = {drop.node.tops[0]}, drop.site.drops
    for node in graph.nodes[drop.node.index + 1:]:
        layer = node.layer
        if layer.site is not None and not layer.drops_own_units:        # another drop: it makes dense what it is not to drop
            continue
        for i, ref in enumerate(node.bottoms):
            if ref not in carrying:
                continue
            is_product = bool(layer.gemms(*[graph.shapes[bottom] for bottom in node.bottoms]))
            clash = _clash(graph, drop, layer) if is_product and layer.reads_kept else ""
            if clash:
                drop.unread.append((node, clash))
            # Of several bottoms a layer reads the first: the rest (labels, cont, states) it takes whole.
            if layer.reads_kept and not clash and (i == 0 or not is_product):
                if not is_product:
                    carrying.update(node.tops)
                else:
                    drop.consumers.append(node)
                    if kind == "blocks":
                        layer.in_site = drop.site
            elif layer.elementwise and layer.zero_preserving:
                drop.carriers.append(node)
                carrying.add(node.tops[0])
            elif kind == "units":
                drop.expanders.append(node)
                plan.expand.add((node.index, i))
            elif not clash:
                drop.unread.append((node, "it cannot leave anything out"))


FEW_STREAMS = "with so few streams a product for each pattern of a step costs more than it saves"
_ROWS_THAT_PAY = 400       # of a product, where half is kept: 135 lost a third of the speed (docs/benchmarks.md, "NR STEP")
_STREAMS_THAT_PAY = 32     # where half is kept: 20 gained nothing, 100 a seventh ("RH STEP")


def _steps_pay(graph, drop):
    """True where a product for each different pattern, of all steps that have it, is faster than one that drops nothing.

    A product saves in proportion to its rows and to what is dropped; what it costs, gathering the kept weights and adding up
    their gradients, grows with what is kept.
    """
    steps, streams, _ = graph.shapes[drop.node.tops[0]]
    rows = steps * streams / _expected_patterns(drop.site.family, steps)
    return rows * (1 - drop.kept_share) >= _ROWS_THAT_PAY * drop.kept_share


def _state_steps_pay(graph, drop):
    """True where it is faster that the gates of each step read less of the state than that they read zeros.

    The product of a step, (streams x kept) (kept x gates), saves in proportion to the streams; what it costs, gathering the
    kept rows of Wh^T, does not. And Wh has to be transposed once for all steps.
    """
    steps, streams, _ = graph.shapes[drop.node.tops[0]]
    return steps >= 4 and streams * (1 - drop.kept_share) >= _STREAMS_THAT_PAY * drop.kept_share


def _expected_patterns(family, draws):
    """The expected number of different patterns among some draws."""
    if not family.enumerable:
        return draws
    found = 0.0
    for choice, share in zip(family.distribution.choices, family.distribution.probabilities, strict=True):
        offsets = family.offsets(choice)
        found += offsets * (1 - (1 - share / offsets) ** draws)
    return max(1.0, found)


def _clash(graph, drop, layer):
    """Say why a product cannot leave out what a drop above it drops; "" where it can."""
    kind = drop.site.drops
    if drop.by_steps and not _steps_pay(graph, drop):
        return FEW_STREAMS
    if layer.out_site is not None and layer.out_site.drops != kind:
        return f"it serves the drop below it, which drops {layer.out_site.drops}"
    if layer.drops_own_units and layer.site is not None and layer.site.steps is None and kind != "units":
        return "it serves its own hidden_dropout, which drops units"
    return ""


def _epilogues(graph, plan):
    """Yield the Epilogue of every product that has one."""
    scaled = {drop.producer.index: drop.node for drop in plan.drops
              if drop.producer is not None and drop.site.drops == "units" and _promises(drop.node.layer, "leaves_scale")}
    for node in graph.nodes:
        if not _promises(node.layer, "applies_epilogue"):
            continue
        found, below = Epilogue(node), _in_place_reader(graph, node)
        if below is not None and _promises(below.layer, "as_epilogue"):
            found.activation, below = below, _in_place_reader(graph, below)
        # The gradients of the others are computed from f(x), which y / scale gives back rounded once more.
        keeps_bits = found.activation is None or found.activation.layer.as_epilogue == "relu"
        if below is not None and below is scaled.get(node.index) and keeps_bits:
            found.drop = below
        if found.activation is not None or found.drop is not None:
            yield found


def _promises(layer, what):
    """True where the layer's own class, not one that it inherits from, says so."""
    return what in vars(type(layer)) and bool(getattr(layer, what))


def _in_place_reader(graph, node):
    """Return the node that overwrites the one top of `node`, if nobody else reads it; None otherwise."""
    ref = node.tops[0]
    if len(graph.readers[ref]) != 1 or _counts_in_loss(node, ref):
        return None
    reader = graph.readers[ref][0][0]
    return reader if [top.name for top in reader.tops] == [ref.name] and len(reader.bottoms) == 1 else None


def gemm_shares(graph, plan):
    """Yield (node, products, output drop, input drop) for every layer with products: what `minidrop check` counts.

    `products` are (rows, inputs, outputs) of one forward pass; the drops are None where that side stays whole. A drop of
    weights counts as one of outputs: it leaves its share of the product.
    """
    producers = {drop.producer.index: drop for drop in plan.drops
                 if drop.producer is not None and not (drop.producer is drop.node and drop.by_steps)}
    consumers = {node.index: drop for drop in plan.drops for node in drop.consumers}
    for node in graph.nodes:
        products = node.layer.gemms(*[graph.shapes[ref] for ref in node.bottoms])
        if products:
            yield node, products, producers.get(node.index), consumers.get(node.index)


def state_gemm_shares(graph, plan):
    """Yield (node, products, drop) for every recurrent layer: the products of the state, and what drops of it, or None."""
    drops = {drop.node.index: drop for drop in plan.drops if drop.producer is drop.node}
    for node in graph.nodes:
        products = node.layer.state_gemms()
        if products:
            yield node, products, drops.get(node.index)
