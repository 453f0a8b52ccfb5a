"""Descriptions of nets in use: what they read of files is given to them, and what judges them is gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from minidrop.config import LayerParameter, NetConfig, NetParameter, filter_state
from minidrop.config import minidrop_pb2 as pb
from minidrop.errors import ConfigError, nearest
from minidrop.layers import DataLayer, Layer, known_layers, layer_class

METRICS = ("Accuracy", "F1", "Perplexity")
_HEADS = {"SoftmaxWithLoss": "Softmax", "SigmoidCrossEntropyLoss": "Sigmoid"}   # what a loss computes first
_USES = {"TextData": "`minidrop predict` (log-probabilities of lines) or `minidrop generate`, in Python "
                     "md.TextModel",
         "TaggedTextData": "`minidrop tag`, in Python md.Tagger",
         "ParallelTextData": "`minidrop translate`, in Python md.Translator"}
_BATCH = 64             # records, where the description names no number


def class_of(layer: LayerParameter) -> type[Layer] | None:
    """Return the class of a layer, None for an unknown type."""
    return layer_class(layer.type) if layer.type in known_layers() else None


def input_layer(name: str, tops: Sequence[str], shape: Iterable[int]) -> LayerParameter:
    """Return an Input layer with these tops, all of one shape."""
    layer = pb.LayerParameter(name=name, type="Input", top=tops)
    layer.input_param.shape.add(dim=shape)
    return layer


def described(config: NetConfig, layers: Iterable[tuple[LayerParameter, Any]]) -> NetConfig:
    """Return a NetConfig with only these (layer, origin), part of the net in any phase; the rest is as in
    `config`."""
    layers = list(layers)
    message = NetParameter()
    message.CopyFrom(config.message)
    message.ClearField("layer")
    message.layer.extend(layer for layer, _ in layers)
    for layer in message.layer:
        layer.ClearField("include")
        layer.ClearField("exclude")
    return NetConfig(message, config.path, config.source, [origin for _, origin in layers], is_part=True)


def apart_from_labels(layers: Sequence[LayerParameter], labels: set[str],
                      without: Iterable[int] = ()) -> tuple[list[int], list[int]]:
    """Return the numbers of the layers that read nothing of the blobs `labels`, and of those that do.

    What such a layer computes is of the labels, too, and joins the set. Layers `without` are in neither list.
    """
    rest, judges = [], []
    for i, layer in enumerate(layers):
        if i in without:
            continue
        if labels & set(layer.bottom):
            labels |= set(layer.top)
            judges.append(i)
        else:
            rest.append(i)
    return rest, judges


@dataclass
class Given:
    """A blob that is given to a deployed net: the data layer that read it, and whether that transforms it."""

    layer: LayerParameter
    transformed: bool = False


@dataclass
class Deployment:
    """What a net computes without labels: the description of those layers, `inputs` and `outputs`.

    batch_size: the number of records that the description reads at a time, or 64.
    """

    config: NetConfig                       # with the data layers; see `with_shapes`
    inputs: dict[str, Given]
    outputs: list[str]
    batch_size: int
    _layers: list[tuple[LayerParameter, Any]] = field(default_factory=list)

    def with_shapes(self, shapes: dict[str, tuple[int, ...]]) -> NetConfig:
        """Return the description with an Input layer of shape (records, ...) for each of the inputs."""
        origin = self.config.origins[0] if self.config.origins else None
        given = [(input_layer(f"input {name}" if name in self._names else name, [name], shapes[name]), origin)
                 for name in self.inputs]
        return described(self.config, [*given, *self._layers])

    @property
    def _names(self):
        return {layer.name for layer, _ in self._layers}


def deployment(source: NetConfig, outputs: Sequence[str] = (), level: int = 0,
               stages: Sequence[str] = (), texts: bool = False) -> Deployment:
    """Return the Deployment of a description: in phase TEST, or where that reads no data, in phase TRAIN.

    A loss or metric judges those of its bottoms that weights have a part in; these are the outputs, and so is
    what no layer reads. A SoftmaxWithLoss becomes a Softmax, a SigmoidCrossEntropyLoss a Sigmoid, whose top
    is called BLOB_prob. outputs: other blobs instead. Layers that these do not need are left out, with them
    those that read labels. texts: whether data layers may read texts. Raises ConfigError for texts
    otherwise, as they have applications of their own, and for outputs that are none.
    """
    config = filter_state(source, pb.TEST, level, stages)
    if not any(feeds(layer) for layer in config.message.layer):
        config = filter_state(source, pb.TRAIN, level, stages)
    layers = [(layer, config.origins[i]) for i, layer in enumerate(config.message.layer)]
    for i, (layer, _) in enumerate(layers):
        kind = class_of(layer)
        if not texts and kind is not None and issubclass(kind, DataLayer) and (
                kind.token_tops or layer.type in _USES):
            raise ConfigError(f"{config.where(i)}: layer {layer.name!r} ({layer.type}) reads texts, no "
                              f"records of numbers; use {_USES.get(layer.type, _USES['TextData'])}")
    judged = _judged(layers)
    layers = _with_heads(layers, judged)
    if outputs:
        known = {top for layer, _ in layers for top in layer.top}
        for name in outputs:
            if name not in known:
                raise ConfigError(f"{config.where()}: there is no blob {name!r} to predict"
                                  f"{nearest(name, known)} (blobs: {', '.join(sorted(known))})")
        found = list(dict.fromkeys(outputs))
    else:
        found = _unread(layers, {name for names in judged.values() for name in names})
    if not found:
        raise ConfigError(f"{config.where()}: the net has no layer with weights whose result could be a "
                          f"prediction; name a blob as the output")
    needed = _needed(layers, found)
    given = {top: Given(layer, k == 0 and layer.HasField("transform_param") and _transforms(layer))
             for layer, _ in layers if feeds(layer) for k, top in enumerate(layer.top)
             if any(top in other.bottom for other, _ in needed) or top in found}
    if not given:
        raise ConfigError(f"{config.where()}: the net reads no data that could be given to it")
    return Deployment(config, given, found, _batch_size(given.values()),
                      [pair for pair in needed if not feeds(pair[0])])


def feeds(layer: LayerParameter) -> bool:
    """Whether a layer gives the net records: a data layer, or Input."""
    kind = class_of(layer)
    return layer.type == "Input" or kind is not None and issubclass(kind, DataLayer)


def _transforms(layer):
    """Whether what a layer feeds is transformed as its transform_param says."""
    return layer.type == "Input" or getattr(class_of(layer), "transforms", False)


def _judges(layer):
    kind = class_of(layer)
    return layer.type in METRICS or kind is not None and kind.is_loss


def _has_weights(layer):
    kind = class_of(layer)
    return kind is not None and kind.parameter_specs is not Layer.parameter_specs


def _judged(layers):
    """Return {number of a judge: names of its bottoms that weights have a part in, all without such}."""
    learnt, found = set(), {}
    for i, (layer, _) in enumerate(layers):
        if _judges(layer):
            found[i] = [name for name in layer.bottom if name in learnt] or list(layer.bottom[:1])
        elif _has_weights(layer) or learnt & set(layer.bottom):
            learnt.update(layer.top)
        else:
            learnt.difference_update(layer.top)
    return found


def _with_heads(layers, judged):
    """Return the layers without judges, and behind them the heads of losses whose result nobody computes."""
    rest = [pair for i, pair in enumerate(layers) if i not in judged]
    heads = {}
    for i in judged:
        layer, origin = layers[i]
        kind, blob = _HEADS.get(layer.type), layer.bottom[0]
        if kind and (kind, blob) not in heads and not any(
                other.type == kind and blob in other.bottom for other, _ in rest):
            head = pb.LayerParameter(name=layer.name, type=kind, bottom=[blob], top=[f"{blob}_prob"])
            if kind == "Softmax":
                head.softmax_param.axis = layer.softmax_param.axis
            heads[kind, blob] = head, origin
    return [*rest, *heads.values()]


def _unread(layers, judged):
    """Return the blobs that no layer reads, of those that weights have a part in or that were judged."""
    read = {name for layer, _ in layers for name in layer.bottom
            if name not in layer.top}           # what is written in place is not used up
    learnt, found = set(), []
    for layer, _ in layers:
        if _has_weights(layer) or learnt & set(layer.bottom):
            learnt.update(layer.top)
        found += [top for top in layer.top if top not in read]
    return [name for name in dict.fromkeys(found) if name in learnt or name in judged]


def _needed(layers, outputs):
    """Return the layers that the outputs are computed from, in their order."""
    wanted, found = set(outputs), []
    for layer, origin in reversed(layers):
        if wanted & set(layer.top):
            wanted.update(layer.bottom)
            found.append((layer, origin))
    return found[::-1]


def _batch_size(given):
    for one in given:
        if one.layer.type == "Input":
            shapes = one.layer.input_param.shape
            if shapes and shapes[0].dim and shapes[0].dim[0]:
                return shapes[0].dim[0]
        for descriptor, settings in one.layer.ListFields():
            if descriptor.name.endswith("data_param") and getattr(settings, "batch_size", 0):
                return settings.batch_size
    return _BATCH
