"""The graph of a net: which layer writes and which read each blob, and every mistake in that.

In-place tops are renamed first: the k-th version of a blob `name` is BlobRef (name, k), so that "who reads
what this layer wrote" has one answer however often the file reuses a name.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count, islice
from typing import TYPE_CHECKING, NamedTuple

from minidrop.config import all_param_fields, decimal, layer_types, param_fields, unknown_type
from minidrop.config import minidrop_pb2 as pb
from minidrop.errors import ConfigError, MinidropError, nearest
from minidrop.fillers import check_filler
from minidrop.layers import layer_class
from minidrop.layers.flow import OWN, Adds, Drops, Pass, Product
from minidrop.net.checks import CHECKS, can_share, check_sizes, shapes_of_tops
from minidrop.net.problems import Problems
from minidrop.patterns.drop_site import DropSite

if TYPE_CHECKING:
    from minidrop.config import LayerParameter, NetConfig
    from minidrop.layers.base import Context, Layer, ParameterSpec

log = logging.getLogger(__name__)


class BlobRef(NamedTuple):
    """One version of a blob: `version` counts from 0 how often `name` was written before."""

    name: str
    version: int


@dataclass
class Node:
    """One layer of a graph: its index in the config, its message, the blob versions it reads and writes."""

    index: int
    config: LayerParameter
    bottoms: list
    tops: list
    layer: Layer = field(init=False, repr=False, compare=False)     # not there if it could not be made
    flow: list = field(default_factory=list)         # the flow facts of its layer, see layers.flow
    is_sound: bool = False                           # its layer is made and the shapes of its tops are known

    @property
    def name(self) -> str:
        return self.config.name

    @cached_property
    def products(self) -> list:
        """The layer's Products."""
        return [fact for fact in self.flow if isinstance(fact, Product)]

    @cached_property
    def drops(self) -> list:
        """The layer's Drops."""
        return [fact for fact in self.flow if isinstance(fact, Drops)]

    @cached_property
    def passes(self) -> list[Pass]:
        """The layer's Passes."""
        return [fact for fact in self.flow if isinstance(fact, Pass)]

    @cached_property
    def sums(self) -> list[Adds]:
        """The layer's Adds."""
        return [fact for fact in self.flow if isinstance(fact, Adds)]

    def products_of(self, ref: BlobRef) -> list:
        """Return the Products whose result is the blob `ref`."""
        return [fact for fact in self.products if fact.top != OWN and self.tops[fact.top] == ref]

    def passes_to(self, ref: BlobRef, axis: int) -> list[Pass]:
        """Return the Passes to an axis of the blob `ref`, one of the tops."""
        return [fact for fact in self.passes if fact.top is not None and self.tops[fact.top] == ref
                and fact.covers(axis)]

    def passes_from(self, bottom: int, axis: int) -> list[Pass]:
        """Return the Passes from an axis of bottom number `bottom`."""
        return [fact for fact in self.passes if fact.bottom == bottom and fact.covers(axis)]

    def adds(self, bottom: int, axis: int) -> bool:
        """Return whether the layer adds a bottom, which may lack units of an axis, to its others."""
        return any(fact.bottom == bottom and fact.axis in (None, axis) for fact in self.sums)

    @property
    def activation(self) -> str:
        """The name of the activation that the layer computes, "" if it is none."""
        return self.passes[0].activation if len(self.passes) == 1 else ""

    @cached_property
    def is_own_word(self) -> bool:
        """Whether `flow` describes this very `forward`: a subclass may override forward alone."""
        kinds = type(self.layer).__mro__
        return ([("flow" in vars(kind)) for kind in kinds].index(True)
                <= [("forward" in vars(kind)) for kind in kinds].index(True))


@dataclass
class ParameterNode:
    """One array: its spec, the (node, name) pairs that use it, its multipliers (None: not given)."""

    spec: ParameterSpec
    shared_name: str = ""
    users: list = field(default_factory=list)
    lr_mult: float | None = None
    decay_mult: float | None = None


@dataclass
class Graph:
    """The nodes in file order, with the blobs and parameters that connect them.

    `writer[ref]` is a node, `readers[ref]` a list of (node, bottom number), `shapes[ref]` a logical shape.
    `parameters` are each once, also if shared. `twins` had no name of their own, and were given one.
    """

    nodes: list = field(default_factory=list)
    writer: dict = field(default_factory=dict)
    readers: dict = field(default_factory=dict)
    shapes: dict = field(default_factory=dict)
    parameters: list = field(default_factory=list)
    twins: list = field(default_factory=list)       # (node, name as written or "", where it was first)

    @property
    def parameter_count(self) -> int:
        """The number of trained values."""
        return sum(math.prod(one.spec.shape) for one in self.parameters if one.spec.trained)

    @property
    def outputs(self) -> list[BlobRef]:
        """The blob versions that no layer reads, in the order they are written."""
        return [ref for ref in self.writer if not self.readers[ref]]


def build_graph(config: NetConfig, context: Context, problems: Problems | None = None) -> Graph:
    """Return the Graph of a filtered NetConfig, with layers made and shapes inferred; allocates nothing.

    Raises one ConfigError with every mistake found, one per line. With `problems` they are added there
    instead, and the Graph may hold nodes that are not sound.
    """
    found = Problems(config) if problems is None else problems
    if not config.message.layer:
        found.lines.append(f"{config.where()}: the net has no layers in phase {context.phase}")
    graph = _wire(config, found)
    _make_layers(graph, context, found)
    _infer_shapes(graph, found)
    for check in CHECKS:
        check(graph, found)
    if problems is None:
        found.raise_any()
    return graph


def _wire(config, problems):
    graph, current, names = Graph(), {}, {}
    messages = config.message.layer
    taken, free = {message.name for message in messages}, {}
    first_written = {}
    for index, message in enumerate(messages):
        for top in message.top:
            first_written.setdefault(top, index)
    for index, message in enumerate(messages):
        node = Node(index, message, [], [])
        name = message.name
        if not name or name in names:
            graph.twins.append((node, name, config.where(names[name]) if name else ""))
            plain = name or message.type or "layer"
            if plain not in free:
                free[plain] = _free_names(plain, taken)
            message.name = next(free[plain])
        names.setdefault(message.name, index)
        for i, bottom in enumerate(message.bottom):
            if bottom in current:
                ref = current[bottom]
                graph.readers[ref].append((node, i))
            else:
                ref = None
                problems.add(index, partial(_missing, bottom, index, current, len(current),
                                            first_written.get(bottom), messages), ("bottom", i))
            node.bottoms.append(ref)
        read, written = set(message.bottom), set()
        for i, top in enumerate(message.top):
            if top in current and top not in read:
                before = graph.writer[current[top]]
                problems.add(index, f"top {top!r} is written already, by layer {before.name!r} at "
                                    f"{config.where(before.index)}; give it another name, or read it as "
                                    f"bottom too to work in place", ("top", i))
            elif top in written:
                problems.add(index, f"top {top!r} is named twice", ("top", i))
            written.add(top)
            ref = BlobRef(top, current[top].version + 1 if top in current else 0)
            node.tops.append(ref)
            graph.writer[ref], graph.readers[ref] = node, []
        current.update({ref.name: ref for ref in node.tops})
        graph.nodes.append(node)
    return graph


def _free_names(name, taken):
    """Return an iterator over NAME, NAME_2, NAME_3, ... that no layer has."""
    return (new for i in count(1) if (new := f"{name}_{i}" if i > 1 else name) not in taken)


def _missing(bottom, index, blobs, count, writer, messages):
    """Return why layer `index` cannot read `bottom`; the first `count` of `blobs` are written above it."""
    if writer == index:
        return f"bottom {bottom!r} is written by this layer alone: the layer would feed itself"
    if writer is not None:
        return (f"bottom {bottom!r} is written only below, by layer {messages[writer].name!r}: "
                f"the layers form a cycle or stand in the wrong order")
    above = list(islice(blobs, count))
    known = ", ".join(map(repr, above[-6:]))
    return (f"bottom {bottom!r} is written by no layer{nearest(bottom, above)}"
            + (f" (the blobs written so far end with {known})" if known else ""))


def _make_layers(graph, context, problems):
    for node in graph.nodes:
        message = node.config
        if message.type not in layer_types:
            problems.add(node.index, partial(unknown_type, message.type), "type", with_type=False)
            continue
        kind, own = layer_class(message.type), param_fields(message.type)
        for name in all_param_fields():
            if not message.HasField(name) or name in own:
                continue
            if name == "transform_param" and (message.type == "Input" or getattr(kind, "transforms", False)):
                continue        # Input: what `Net.predict` does to the records that it is given
            if name == "transform_param" and kind.is_data:      # Caffe's own examples give it to any of them
                log.warning("%s: layer %r: %s has no effect, %s transforms nothing",
                            problems.config.where(node.index, name), message.name, name, message.type)
            else:
                reads = f"it reads {' and '.join(own)}" if own else "it has no settings"
                problems.add(node.index, f"{name} belongs to another layer type; {reads}", name)
        counts_fit = True
        for what, allowed, got in (("bottom", kind.bottoms, len(message.bottom)),
                                   ("top", kind.tops, len(message.top))):
            least, most = allowed
            if got < least or (most is not None and got > most):
                counts_fit = False
                problems.add(node.index, f"expected {_count_text(least, most, what)}, got {got}")
        if len(message.loss_weight) not in (0, len(message.top)):
            problems.add(node.index, f"expected no loss_weight, or one for each of the {len(message.top)} "
                                     f"tops, got {len(message.loss_weight)}", "loss_weight")
        if len(message.propagate_down) not in (0, len(message.bottom)):
            problems.add(node.index, f"expected no propagate_down, or one for each of the "
                                     f"{len(message.bottom)} bottoms, got {len(message.propagate_down)}",
                         "propagate_down")
        if counts_fit:
            try:
                phase = pb.Phase.Name(message.phase) if message.HasField("phase") else context.phase
                node.layer = kind(message, replace(context, phase=phase))
            except MinidropError as error:
                problems.add(node.index, str(error), *own[:1])


def _count_text(least, most, what):
    count = str(least) if least == most else f"at least {least}" if most is None else f"{least} to {most}"
    return f"{count} {what}{'s' * ((most or least) != 1)}"


def _infer_shapes(graph, problems):
    shared = {}                # {name: ParameterNode}
    for node in graph.nodes:
        if not hasattr(node, "layer") or any(ref not in graph.shapes for ref in node.bottoms):
            continue           # a mistake of this or an earlier layer is reported already
        bottoms = [graph.shapes[ref] for ref in node.bottoms]
        try:
            shapes = node.layer.setup(*bottoms)
            if node.layer.is_data and node.layer.context.ranks > 1:
                shapes = node.layer.take_part(shapes)
            found = shapes_of_tops(node, shapes)
            check_sizes(node, found)
            graph.shapes.update(found)
            node.flow = list(node.layer.flow(bottoms))
            _check_drawn(node)
        except MinidropError as error:
            inputs = ", ".join(f"{ref.name} {shape}"
                               for ref, shape in zip(node.bottoms, bottoms, strict=True))
            problems.add(node.index, f"{error}" + (f" [bottoms: {inputs}]" if inputs else ""),
                         *param_fields(node.layer.type)[:1])
            continue
        node.is_sound = True
        _add_parameters(graph, node, shared, problems)


def _check_drawn(node):
    """Raise ConfigError if a layer holds a DropSite that the net would never draw."""
    drawn = [fact.site for fact in node.drops]
    for name, site in vars(node.layer).items():
        if isinstance(site, DropSite) and not any(site is one for one in drawn):
            raise ConfigError(f"the DropSite {name} is never drawn, so it would drop nothing: flow must "
                              f"return a Drops of it")


def _add_parameters(graph, node, named, problems):
    """Add the node's parameters to the graph; those shared by name are merged, with their multipliers."""
    specs, settings = node.layer.parameter_specs(), list(node.config.param)
    if len(settings) > len(specs):
        names = ", ".join(spec.name for spec in specs) or "none"
        problems.add(node.index, f"{len(settings)} `param` entries, but the layer has {len(specs)} "
                                 f"parameter{'s' * (len(specs) != 1)} ({names})", ("param", len(specs)))
    for i, spec in enumerate(specs):
        try:
            check_filler(spec.filler, spec.shape)
        except MinidropError as error:
            setting = spec.setting or f"{spec.name}_filler"
            problems.add(node.index, f"{setting}: {error}", *param_fields(node.layer.type)[:1], setting)
        own = settings[i] if i < len(settings) else pb.ParamSpec()
        shared = named.get(own.name) if own.name else None
        if shared is None:
            shared = named[own.name] = ParameterNode(spec, own.name)
            graph.parameters.append(shared)
        elif not can_share(shared.spec.shape, spec.shape, own.share_mode == own.PERMISSIVE):
            problems.add(node.index, f"the shared parameter {own.name!r} has shape "
                                     f"{tuple(shared.spec.shape)}, but is needed as {tuple(spec.shape)}",
                         ("param", i))
        shared.users.append((node, spec.name))
        if not spec.trained:        # as Caffe reads old files, which give 1 or nothing
            shared.lr_mult = shared.decay_mult = 0.0
            continue
        for field_name in ("lr_mult", "decay_mult"):
            if not own.HasField(field_name):
                continue
            value, before = decimal(getattr(own, field_name)), getattr(shared, field_name)
            if before not in (None, value):
                problems.add(node.index, f"the shared parameter {own.name!r} has {field_name} {before:g} "
                                         f"already; give one value", ("param", i), field_name)
            setattr(shared, field_name, value)


def loss_weights(node: Node) -> Iterator:
    """Yield (blob, weight) for every top of a node that counts in the loss."""
    weights = list(node.config.loss_weight) or [float(node.layer.is_loss and i == 0)
                                                for i in range(len(node.tops))]
    for ref, weight in zip(node.tops, weights, strict=True):
        if weight:
            yield ref, decimal(weight)
