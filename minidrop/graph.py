"""How the layers of a net hang together: who writes which blob, who reads it, and every mistake in that.

In-place tops are renamed first: a blob `name` written for the k-th time is the BlobRef (name, k), so that "who reads what
this layer wrote" has one answer however often the file reuses a name.
"""

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from minidrop.config import all_param_fields, param_fields
from minidrop.config import minidrop_pb2 as pb
from minidrop.errors import ConfigError, MinidropError, nearest
from minidrop.fillers import check_filler
from minidrop.layers import layer_class


class BlobRef(NamedTuple):
    """One version of a blob: the `version`-th time that a layer wrote `name`."""

    name: str
    version: int


@dataclass
class Node:
    """One layer in its place: its index in the config, its message, and the blob versions it reads and writes."""

    index: int
    config: object
    bottoms: list
    tops: list
    layer: object = None

    @property
    def name(self):
        return self.config.name


@dataclass
class Graph:
    """Nodes in the order of the file, with `writer[ref]` and `readers[ref]` (a list of (node, bottom number))."""

    nodes: list = field(default_factory=list)
    writer: dict = field(default_factory=dict)
    readers: dict = field(default_factory=dict)
    shapes: dict = field(default_factory=dict)

    @property
    def outputs(self):
        """The blob versions that nobody reads, in the order they are written."""
        return [ref for ref in self.writer if not self.readers[ref]]


class Problems:
    """Collects every mistake of a net as "file:line:column: layer 'name' (Type): what", to report them together."""

    def __init__(self, config):
        self.config = config
        self.lines = []

    def add(self, index, what, *place):
        layer = self.config.message.layer[index]
        where = self.config.where(index, *place)
        self.lines.append(f"{where}: layer {layer.name!r} ({layer.type}): {what}")

    def raise_any(self):
        if self.lines:
            raise ConfigError("\n".join(self.lines))


def build_graph(config, context):
    """Return the Graph of a filtered NetConfig, its layers made and their shapes known; nothing is allocated.

    Raises one ConfigError that holds every mistake found, one a line.
    """
    problems = Problems(config)
    if not config.message.layer:
        raise ConfigError(f"{config.where()}: the net has no layers in phase {context.phase}")
    graph = _wire(config, problems)
    _make_layers(graph, context, problems)
    _infer_shapes(graph, problems)
    problems.raise_any()
    return graph


def _wire(config, problems):
    graph, current, names = Graph(), {}, {}
    messages = config.message.layer
    written_later = {}
    for index, message in enumerate(messages):
        for top in message.top:
            written_later.setdefault(top, []).append(index)
    for index, message in enumerate(messages):
        node = Node(index, message, [], [])
        if not message.name:
            problems.add(index, "a layer needs a name", "type")
        elif message.name in names:
            problems.add(index, f"there is a layer of this name already, at {config.where(names[message.name])}", "name")
        names.setdefault(message.name, index)
        for i, bottom in enumerate(message.bottom):
            if bottom in current:
                ref = current[bottom]
                graph.readers[ref].append((node, i))
            else:
                ref = None
                problems.add(index, _missing(bottom, index, current, written_later, messages), ("bottom", i))
            node.bottoms.append(ref)
        for i, top in enumerate(message.top):
            if top in current and top not in message.bottom:
                before = graph.writer[current[top]]
                problems.add(index, f"top {top!r} is written already, by layer {before.name!r} at "
                                    f"{config.where(before.index)}; give it another name, or read it as bottom too to work "
                                    f"in place", ("top", i))
            elif top in list(message.top)[:i]:
                problems.add(index, f"top {top!r} is named twice", ("top", i))
            ref = BlobRef(top, current[top].version + 1 if top in current else 0)
            node.tops.append(ref)
            graph.writer[ref], graph.readers[ref] = node, []
        current.update({ref.name: ref for ref in node.tops})
        graph.nodes.append(node)
    return graph


def _missing(bottom, index, current, written_later, messages):
    later = [i for i in written_later.get(bottom, ()) if i >= index]
    if later and later[0] == index:
        return f"bottom {bottom!r} is written by this layer alone: the layer would feed itself"
    if later:
        return (f"bottom {bottom!r} is written only below, by layer {messages[later[0]].name!r}: "
                f"the layers form a cycle or stand in the wrong order")
    known = ", ".join(repr(name) for name in list(current)[-6:])
    return (f"bottom {bottom!r} is written by no layer{nearest(bottom, current)}"
            + (f" (the blobs written so far end with {known})" if known else ""))


def _make_layers(graph, context, problems):
    for node in graph.nodes:
        message = node.config
        try:
            kind = layer_class(message.type)
        except ConfigError as error:
            problems.lines.append(f"{problems.config.where(node.index, 'type')}: layer {message.name!r}: {error}")
            continue
        own = param_fields(message.type)
        for name in all_param_fields():
            if message.HasField(name) and name not in own:
                reads = f"it reads {' and '.join(own)}" if own else "it has no settings"
                problems.add(node.index, f"{name} belongs to another layer type; {reads}", name)
        counts_fit = True
        for what, allowed, got in (("bottom", kind.bottoms, len(message.bottom)), ("top", kind.tops, len(message.top))):
            least, most = allowed
            if got < least or (most is not None and got > most):
                counts_fit = False
                problems.add(node.index, f"expected {_count_text(least, most, what)}, got {got}")
        if len(message.loss_weight) not in (0, len(message.top)):
            problems.add(node.index, f"expected no loss_weight, or one for each of the {len(message.top)} tops, "
                                     f"got {len(message.loss_weight)}", "loss_weight")
        if len(message.propagate_down) not in (0, len(message.bottom)):
            problems.add(node.index, f"expected no propagate_down, or one for each of the {len(message.bottom)} bottoms, "
                                     f"got {len(message.propagate_down)}", "propagate_down")
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
    for node in graph.nodes:
        if node.layer is None or any(ref not in graph.shapes for ref in node.bottoms):
            continue           # this layer's or an earlier mistake is reported already
        bottoms = [graph.shapes[ref] for ref in node.bottoms]
        try:
            shapes = node.layer.setup(*bottoms)
            graph.shapes.update({ref: tuple(shape) for ref, shape in zip(node.tops, shapes, strict=True)})
        except MinidropError as error:
            inputs = ", ".join(f"{ref.name} {shape}" for ref, shape in zip(node.bottoms, bottoms, strict=True))
            problems.add(node.index, f"{error}" + (f" [bottoms: {inputs}]" if inputs else ""),
                         *param_fields(node.layer.type)[:1])
            continue
        _check_parameters(node, problems)


def _check_parameters(node, problems):
    specs = node.layer.parameter_specs()
    if len(node.config.param) > len(specs):
        names = ", ".join(spec.name for spec in specs) or "none"
        problems.add(node.index, f"{len(node.config.param)} `param` entries, but the layer has {len(specs)} parameters "
                                 f"({names})", ("param", len(specs)))
    for spec in specs:
        try:
            check_filler(spec.filler, spec.shape)
        except MinidropError as error:
            problems.add(node.index, f"{spec.name}_filler: {error}", *param_fields(node.layer.type)[:1],
                         f"{spec.name}_filler")


def parameter_count(graph):
    """Return the number of trained values, parameters shared by name counted once."""
    seen, total = set(), 0
    for node in graph.nodes:
        for i, spec in enumerate(node.layer.parameter_specs()):
            shared = node.config.param[i].name if i < len(node.config.param) else ""
            if not shared or shared not in seen:
                total += math.prod(spec.shape)
            seen.add(shared)
    return total
