"""Drawing: a net as boxes and arrows, from its description; with what the net knows where it can be built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from minidrop.backend import get_backend
from minidrop.config import TEST, TRAIN, decimal, filter_state, layer_types, param_fields
from minidrop.config.check import is_repeated
from minidrop.config.state import is_in, net_state
from minidrop.errors import MinidropError
from minidrop.layers import Context, Layer, layer_class
from minidrop.layers.flow import Drops, Pass, Product
from minidrop.net import Net
from minidrop.net.costs import costs, drop_savings
from minidrop.net.graph import Node, build_graph
from minidrop.net.problems import Problems

if TYPE_CHECKING:
    from minidrop.config.load import NetConfig

PHASES = {"TRAIN": (TRAIN,), "TEST": (TEST,), "ALL": (TRAIN, TEST)}
# Where neither their class nor their flow facts say it, or not before shapes are known.
_CLASSES = {
    "product": ("Convolution", "Deconvolution", "DropConnect", "Embed", "GRU", "InnerProduct", "LSTM", "RNN"),
    "activation": ("AbsVal", "BNLL", "Clip", "ELU", "Exp", "Log", "PReLU", "Power", "ReLU", "Sigmoid",
                   "Softmax", "Swish", "TanH", "Threshold"),
    "norm": ("BatchNorm", "Bias", "LRN", "MVN", "Scale"),
    "pool": ("Im2col", "Pooling", "Reduction", "SPP"),
    "drop": ("ApproxDropout", "Dropout", "GaussianDropout"),
    "result": ("Accuracy", "ArgMax", "HDF5Output", "Perplexity", "Silence")}
CLASS_OF = {kind: name for name, kinds in _CLASSES.items() for kind in kinds}
_TRAINED = ("Convolution", "Deconvolution", "InnerProduct")     # whose multipliers --display_lrm shows
_MOST_TEXT = 60


@dataclass
class Row:
    """One layer in a card: name, type, class (of its colour), and what is said of it, a line each."""

    name: str
    kind: str
    group: str
    lines: list[str] = field(default_factory=list)


@dataclass
class Card:
    """A box: a layer, and behind it those that work in place on what it computes. `rows` is empty: a blob."""

    rows: list[Row]
    title: str = ""


@dataclass
class Drawing:
    """The cards of a net in file order, and arrows (source, target, label) between them."""

    name: str
    cards: list[Card] = field(default_factory=list)
    arrows: list[tuple[int, int, str]] = field(default_factory=list)


def drawing_of(config: NetConfig, phase: str = "ALL", level: int = 0, stages: tuple[str, ...] = (),
               multipliers: bool = False) -> tuple[Drawing, str]:
    """Return the Drawing of a NetConfig in phase TRAIN, TEST or ALL, and why shapes are missing, or "".

    `multipliers` shows lr_mult. Shapes and costs need a net that can be built, but no data is needed to draw.
    """
    message = config.message
    states = [net_state(value, level, stages) for value in PHASES[phase]]
    shown = {i: found for i, layer in enumerate(message.layer)
             if (found := frozenset(state.phase for state in states if is_in(layer, state)))}
    known, nodes, reason = _known(config, states)
    wires = _Wires(message.name)
    for i, phases in shown.items():
        layer = message.layer[i]
        kind = layer.type or "(no type)"
        group = _group(kind, nodes.get(i))
        lines = [line for line in (settings_of(layer), *known.get(i, ())) if line]
        if multipliers and kind in _TRAINED:
            rates = [f"{decimal(one.lr_mult):g}" for one in layer.param] or ["1"]
            lines.append(f"lr_mult {', '.join(rates)}")
        wires.add(layer, phases, Row(_cut(layer.name), kind, group, [_cut(line) for line in lines]))
    return wires.drawing, reason


def _group(kind, node):
    """Return the class of a layer: by its type's name, or by what its class and its flow facts say."""
    layer = getattr(node, "layer", None)        # not there where it could not be made
    if layer is None:
        layer = layer_class(kind) if kind in layer_types else Layer
    flow = node.flow if node is not None else ()
    rules = ((layer.is_data, "data"), (layer.is_loss or kind.endswith("Loss"), "result"),
             (any(isinstance(fact, Product) for fact in flow), "product"),
             (any(isinstance(fact, Drops) for fact in flow), "drop"),
             (any(isinstance(fact, Pass) and fact.activation for fact in flow), "activation"))
    return CLASS_OF.get(kind) or next((group for holds, group in rules if holds), "other")


class _Wires:
    """Joins the layers of a net to cards and arrows, whether or not every blob has a writer."""

    def __init__(self, name):
        self.drawing = Drawing(_cut(name))
        self.writers = {}           # {blob: cards}
        self.read = set()           # the blobs whose last version somebody reads
        self.tops, self.phases = [], []         # of each card

    def add(self, layer, phases, row):
        cards, bottoms, tops = self.drawing.cards, list(layer.bottom), list(layer.top)
        in_place = bottoms == tops and len(tops) == 1
        writers = self.writers.get(tops[0], []) if in_place else []
        if len(writers) == 1 and tops[0] not in self.read and self.tops[writers[0]] == {tops[0]}:
            cards[writers[0]].rows.append(row)
            return
        sources = [(source, blob) for blob in dict.fromkeys(bottoms)
                   for source in self._sources(blob, phases)]
        number = self._new(Card([row]), tops, phases)
        self.drawing.arrows += [(source, number, self._label(source, blob)) for source, blob in sources]
        self.read.update(bottoms)
        for top in tops:
            # In one phase only one layer writes a blob that it does not read; drawn together, several may.
            self.writers[top] = [number] if top in bottoms else [*self.writers.get(top, []), number]
            self.read.discard(top)

    def _new(self, card, tops, phases):
        self.drawing.cards.append(card)
        self.tops.append(set(tops))
        self.phases.append(phases)
        return len(self.drawing.cards) - 1

    def _sources(self, blob, phases):
        """Return the cards that write a blob in some of the phases; if none does, a new one of its name."""
        found = [card for card in self.writers.get(blob, ()) if self.phases[card] & phases]
        if not found:
            found = [self._new(Card([], _cut(blob)), [blob], phases)]
            self.writers.setdefault(blob, []).extend(found)
        return found

    def _label(self, source, blob):
        """Return the blob's name where it is not that of the only layer it can be of."""
        rows = self.drawing.cards[source].rows
        return "" if not rows or rows[0].name == blob else _cut(blob)


def _cut(text):
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT - 3] + "..."


# -- what the description says ---
def settings_of(layer: Any) -> str:
    """Return the main settings of a LayerParameter in words, e.g. "20 outputs, 5x5, stride 2", or ""."""
    return ", ".join(_settings(layer))


def _settings(layer) -> Iterator[str]:
    kind = layer.type
    if kind in ("Convolution", "Deconvolution", "Im2col"):
        settings = layer.convolution_param
        if settings.num_output:
            yield f"{settings.num_output} outputs"
        yield from _window(settings)
        yield from (f"{name} {getattr(settings, name)}" for name in ("group",) if settings.HasField(name))
    elif kind == "Pooling":
        settings = layer.pooling_param
        yield settings.PoolMethod.Name(settings.pool)
        yield from ["global"] if settings.global_pooling else _window(settings)
    elif kind in ("InnerProduct", "DropConnect", "Embed", "LSTM", "RNN", "GRU"):
        settings = {"Embed": layer.embed_param}.get(kind, layer.recurrent_param if kind.isupper()
                                                    else layer.inner_product_param)
        yield f"{settings.num_output} outputs"
        if kind.isupper() and settings.HasField("hidden_dropout"):
            yield f"hidden_dropout {decimal(settings.hidden_dropout.dropout_ratio):g}"
    elif kind == "AttentionDecoder":
        settings = layer.decoder_param
        yield f"{settings.num_output} outputs"
        yield settings.Score.Name(settings.score)
        if settings.HasField("hidden_dropout"):
            yield f"hidden_dropout {decimal(settings.hidden_dropout.dropout_ratio):g}"
    elif kind == "LRN":
        yield f"over {layer.lrn_param.local_size}"
    elif kind == "Eltwise":
        yield layer.eltwise_param.EltwiseOp.Name(layer.eltwise_param.operation)
    elif kind in ("Dropout", "GaussianDropout", "ApproxDropout"):
        settings = layer.approx_dropout_param if kind == "ApproxDropout" else layer.dropout_param
        if kind == "ApproxDropout":
            yield settings.pattern
        yield f"ratio {decimal(settings.dropout_ratio):g}"
    else:
        yield from _stated(layer)


def _stated(layer):
    """Yield what the file says of a type that has no words of its own here; no paths of data."""
    is_data = layer.type in layer_types and layer_class(layer.type).is_data
    for name in param_fields(layer.type):
        for own, value in getattr(layer, name).ListFields():
            if own.message_type is None and own.name != "engine" and not (is_data and isinstance(value, str)):
                values = value if is_repeated(own) else [value]
                yield f"{own.name} {','.join(_value(own, one) for one in values)}"
    if layer.param_str:
        yield layer.param_str


def _value(own, value):
    if own.enum_type is not None:
        return own.enum_type.values_by_number[value].name
    if isinstance(value, float):
        return f"{decimal(value):g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _window(settings):
    """Yield kernel, stride, pad and dilation, those that are not the usual ones."""
    names = {field.name for field in settings.DESCRIPTOR.fields}
    for name, word, usual in (("kernel_size", "", None), ("stride", "stride ", 1), ("pad", "pad ", 0),
                              ("dilation", "dilation ", 1)):
        if name not in names:
            continue
        given = getattr(settings, name)
        given = list(given) if hasattr(given, "append") else [given] * settings.HasField(name)
        parts = [f"{name.split('_')[0]}_{axis}" for axis in "hw"]
        if not given and all(part in names for part in parts) and any(map(settings.HasField, parts)):
            given = [getattr(settings, part) if settings.HasField(part) else usual or 0 for part in parts]
        if given and given != [usual]:
            yield word + "x".join(map(str, given if len(given) > 1 or word else given * 2))


# -- what a built net knows ---
def _known(config, states):
    """Return ({index of a layer: lines}, {index: its Node}, why some is missing).

    The lines tell shapes, operations, what drops save.
    """
    lines: dict[int, list[str]] = {}
    nodes: dict[int, Node] = {}
    reason = ""
    for state in states:
        indices = [i for i, layer in enumerate(config.message.layer) if is_in(layer, state)]
        name = "TRAIN" if state.phase == TRAIN else "TEST"
        try:
            net = Net(config, name, "cpu", "float32", 0, state.level, tuple(state.stage), fills=False)
        except MinidropError as error:
            reason = reason or str(error).split("\n")[0]
            graph = _partial(config, state, name)
            found = _shapes(graph)
        else:
            graph, found = net.graph, list(_all_of(net))
            net.close()
        nodes.update((indices[node.index], node) for node in graph.nodes)
        for node, text in found:
            before = lines.setdefault(indices[node], [])
            before += [f"{f'{name}: ' * bool(before)}{line}" for line in text if line not in before]
    return lines, nodes, reason


def _partial(config, state, name):
    """Return the Graph of a net that cannot be built, as far as its shapes are known."""
    filtered = filter_state(config, state.phase, state.level, tuple(state.stage), [])
    context = Context(name, 0, "float32", get_backend("cpu"), config.path)
    graph = build_graph(filtered, context, Problems(filtered))
    for node in graph.nodes:
        if hasattr(node, "layer"):
            node.layer.close()
    return graph


def _shapes(graph):
    for node in graph.nodes:
        tops = [ref for ref in node.tops if ref in graph.shapes]
        in_place = [ref.name for ref in node.tops] == [ref.name for ref in node.bottoms if ref is not None]
        yield node.index, [f"{f'{ref.name} ' * (len(node.tops) > 1)}"
                           f"{'x'.join(map(str, graph.shapes[ref])) or 'scalar'}"
                           for ref in tops if not in_place]


def _all_of(net):
    """Yield (node's index, lines) of a net that was built."""
    shapes = dict(_shapes(net.graph))
    rows = costs(net)
    dense = sum(row.dense for row in rows)
    saved: dict[int, list] = {}
    for drop, amount in drop_savings(net) if net.phase == "TRAIN" else ():
        saved.setdefault(drop.node.index, []).extend(_drop_lines(drop, amount, dense))
    for row in rows:
        text = list(shapes[row.node.index])
        if row.dense and row.expected != row.dense:
            text.append(f"{row.expected / row.dense:.1%} of {row.dense / 1e6:.3g} MFLOP")
        yield row.node.index, [*text, *saved.get(row.node.index, ())]


def _drop_lines(drop, amount, dense):
    yield f"keeps {drop.kept_share:.1%} of the {drop.kind}"
    sides = dict.fromkeys(node.name for node in (*drop.producers, *drop.consumers))
    pays = sides and amount and dense
    yield f"saves {amount / dense:.1%} in {', '.join(sides)}" if pays else "saves nothing"


_INVALID = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def plain(text: str) -> str:
    """Return a text on one line, without characters that XML forbids."""
    return _INVALID.sub("?", text.replace("\n", " ").replace("\r", " ").replace("\t", " "))
