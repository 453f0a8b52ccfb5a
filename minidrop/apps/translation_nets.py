"""Descriptions of translation nets, taken apart: a net that reads sentences, one that writes word by word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minidrop.apps.text_nets import JUDGES, go_on
from minidrop.config import LayerParameter, NetConfig, filter_state
from minidrop.config import minidrop_pb2 as pb
from minidrop.errors import ConfigError
from minidrop.net.deploy import apart_from_labels, described, input_layer

TEXT = "ParallelTextData"
DECODER = "AttentionDecoder"
RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Parts:
    """A translation net in phase TEST and what its parts are.

    text: the number of the ParallelTextData layer. sources, targets: {blob: which of its tops it is} of those
    that a sentence to translate has, and its translation. reads, writes: the numbers of the layers that
    compute something from the sentence alone, and of the others. handed: the blobs that the writing layers
    read of the others. scores, axis: the blob of scores, and its axis of classes. weights: the blob of the
    decoder's attention. steps: how many a batch of translations has at most.
    """

    config: NetConfig
    text: int
    sources: dict
    targets: dict
    reads: list
    writes: list
    handed: list
    scores: str
    axis: int
    weights: str
    steps: int


def parts_of(source: NetConfig, level: int = 0, stages: Any = ()) -> Parts:
    """Return the Parts of a description; raises ConfigError where it is none of a translation net."""
    config = filter_state(source, pb.TEST, level, stages)
    if not any(layer.type == TEXT for layer in config.message.layer):
        config = filter_state(source, pb.TRAIN, level, stages)
    layers = config.message.layer
    found = [i for i, layer in enumerate(layers) if layer.type == TEXT]
    if len(found) != 1:
        raise ConfigError(f"{_where(config, found)}: the net has {len(found) or 'no'} {TEXT} "
                          f"layer{'s' * (len(found) > 1)} in phase TEST or TRAIN; translating needs one, "
                          f"for its vocabularies")
    text = found[0]
    if len(layers[text].top) < 4:
        raise ConfigError(f"{config.where(text, 'top')}: {TEXT} needs the tops source, mask, target and "
                          f"label")
    decoders = [i for i, layer in enumerate(layers) if layer.type == DECODER]
    if len(decoders) != 1:
        raise ConfigError(f"{_where(config, decoders)}: translating needs one {DECODER} layer, got "
                          f"{len(decoders)}")
    tops = dict(zip(layers[text].top, ("source", "mask", "target", "label", "source_cont", "target_cont"),
                    strict=False))
    sources = {blob: what for blob, what in tops.items() if what in ("source", "mask", "source_cont")}
    targets = {blob: what for blob, what in tops.items() if what in ("target", "target_cont")}
    label = next(blob for blob, what in tops.items() if what == "label")
    reads, writes, judges, target = _sides(layers, text, targets, label)
    if decoders[0] not in writes:
        raise ConfigError(f"{config.where(decoders[0])}: layer {layers[decoders[0]].name!r} does not read "
                          f"the target, top {next(iter(targets))!r} of layer {layers[text].name!r}")
    judge = next((layer for name in JUDGES for layer in judges if layer.type == name), None)
    if judge is None:
        raise ConfigError(f"{config.where(text)}: no {', '.join(JUDGES[:-1])} or {JUDGES[-1]} layer reads "
                          f"the label {label!r}, so it is unknown which blob holds the scores; add one")
    for i in writes:
        if layers[i].recurrent_param.bidirectional:
            raise ConfigError(f"{config.where(i)}: layer {layers[i].name!r} is bidirectional: it reads what "
                              f"is still to be written; such a net cannot translate")
        if layers[i].type == "Attention":
            _check_attention(config, i, target)
    axis = judge.accuracy_param.axis if judge.type == "Accuracy" else judge.softmax_param.axis
    written = {top for i in writes for top in layers[i].top}
    handed = [blob for i in writes for blob in layers[i].bottom if blob not in written
              and blob not in targets]
    decoder = layers[decoders[0]]
    weights = decoder.top[1] if len(decoder.top) > 1 else f"{decoder.name}.weights"
    return Parts(config, text, sources, targets, reads, writes, list(dict.fromkeys(handed)), judge.bottom[0],
                 axis, weights, layers[text].parallel_text_data_param.target_steps)


def check_most(parts: Parts, most: int) -> None:
    """Raise ConfigError where a layer tells apart fewer steps than the `most` that are to be written."""
    for i in parts.writes:
        layer = parts.config.message.layer[i]
        settings = layer.position_param
        steps = settings.max_steps or parts.steps
        if layer.type == "Position" and settings.kind == settings.LEARNED and 0 < steps < most:
            raise ConfigError(f"{parts.config.where(i)}: layer {layer.name!r} has learned {steps} positions, "
                              f"so that a translation has at most {steps - 1} words; got {most - 1} as the "
                              f"most")


def _check_attention(config, index, target):
    """Raise ConfigError for a layer that would read other steps in training than word by word."""
    layer = config.message.layer[index]
    own = target & set(layer.bottom[1:3])
    if own and not layer.attention_param.causal:
        raise ConfigError(f"{config.where(index)}: layer {layer.name!r} is not causal: it reads what is "
                          f"still to be written; train the net with causal: true in its attention_param")
    if not own and layer.attention_param.causal:
        raise ConfigError(f"{config.where(index)}: layer {layer.name!r} is causal, but its keys are no "
                          f"steps of the translation: which of them a word reads would depend on the words "
                          f"behind it; train the net without causal")


def _where(config, found):
    """Return where the second of the layers `found` is, that of the net if there is none."""
    return config.where(found[1]) if len(found) > 1 else config.where()


def _sides(layers, text, targets, label):
    """Return (layers that read sentences, layers that write, layers that read labels, what is computed of the
    target): numbers, layers, blobs."""
    labels, target, reads, writes = {label}, set(targets), [], []
    rest, judging = apart_from_labels(layers, labels, without=[text])
    for i in rest:
        if target & set(layers[i].bottom):
            target |= set(layers[i].top)
            writes.append(i)
        else:
            reads.append(i)
    return reads, writes, [layers[i] for i in judging if layers[i].bottom[0] not in labels], target


def whole_net(parts: Parts, streams: int, places: int, most: int) -> NetConfig:
    """Return the description of all layers with weights: of what reads and of what writes `most` steps."""
    inputs = [_input(blob, (places, streams)) for blob in parts.sources]
    inputs += [_input(blob, (1, streams)) for blob in parts.targets]
    return _described(parts, inputs, sorted([*parts.reads, *parts.writes]), most)


def reading_net(parts: Parts, streams: int, places: int) -> NetConfig:
    """Return the description of the net that reads `streams` sentences of at most `places` words."""
    return _described(parts, [_input(blob, (places, streams)) for blob in parts.sources], parts.reads, 0)


def writing_net(parts: Parts, streams: int, shapes: dict[str, tuple[int, ...]], most: int,
                steps: int = 1) -> NetConfig:
    """Return the description of the net that writes one word of `streams` translations, of `most` steps.

    shapes: of the blobs that the reading net hands on. steps: how many words it reads at once.
    """
    inputs = [_input(blob, (steps, streams)) for blob in parts.targets]
    inputs += [_input(blob, (shape[0], streams, *shape[2:])) for blob, shape in shapes.items()]
    config = _described(parts, inputs, parts.writes, most)
    for layer in config.message.layer:
        if layer.type == DECODER:
            layer.decoder_param.continues = True
            if len(layer.top) == 1:
                layer.top.append(parts.weights)
    return config


def _input(blob, shape):
    return input_layer(f"input {blob}", [blob], shape)


def _described(parts, inputs, numbers, most):
    """Return the description of these layers, of which those that write go on from word to word."""
    config, layers = parts.config, []
    for i in numbers:
        layer = LayerParameter()
        layer.CopyFrom(config.message.layer[i])
        if i in parts.writes and (layer.type != "Attention" or layer.attention_param.causal):
            go_on(layer, parts.steps, most)
        layers.append((layer, config.origins[i]))
    return described(config, [*((layer, config.origins[parts.text]) for layer in inputs), *layers])
