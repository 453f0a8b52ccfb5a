"""Descriptions of language models, rewritten so that the net reads what it wrote."""

from typing import Any

import numpy as np

from minidrop.config import LayerParameter, NetConfig, filter_state, param_fields
from minidrop.config import minidrop_pb2 as pb
from minidrop.data import Vocabulary
from minidrop.errors import ConfigError, DataError
from minidrop.layers import DataLayer
from minidrop.layers.data_layer import data_layer_class
from minidrop.net import Net
from minidrop.net.deploy import apart_from_labels, class_of, described, feeds, input_layer

# The first of these that the net has says which blob holds the scores, and on which axis.
JUDGES = ("SoftmaxWithLoss", "Perplexity", "Accuracy")
TRIED = 4                   # tokens that show whether they may be read one by one
ROUNDING = {"float32": 0.01, "tf32": 0.05, "float16": 0.05, "bfloat16": 0.2}     # of the largest score
LIMITED = ("Attention", "Position", "Rotary")       # they tell apart as many steps as in training


def with_text(config: NetConfig, level: int, stages: Any) -> NetConfig:
    """Return the NetConfig of the phase that has a TextData layer, TEST before TRAIN.

    Its layers lose their include and exclude rules: they are part of the net in any phase. Raises
    ConfigError.
    """
    for phase in (pb.TEST, pb.TRAIN):
        filtered = filter_state(config, phase, level, stages)
        if any(map(_reads_text, filtered.message.layer)):
            for layer in filtered.message.layer:
                layer.ClearField("include")
                layer.ClearField("exclude")
            return filtered
    raise ConfigError(f"{config.where()}: the net has no TextData layer in phase TEST or TRAIN; generating "
                      f"text needs its vocabulary")


def text_kind(source: NetConfig, level: int, stages: Any) -> str:
    """Return the type of the layer that reads text in phase TEST, or where that reads no data, in TRAIN; ""
    where none does."""
    for phase in (pb.TEST, pb.TRAIN):
        layers = filter_state(source, phase, level, stages).message.layer
        if feeding := [layer for layer in layers if feeds(layer)]:
            return next((layer.type for layer in feeding if _reads_text(layer)), "")
    return ""


def _reads_text(layer):
    kind = class_of(layer)
    return kind is not None and issubclass(kind, DataLayer) and bool(kind.token_tops)


def text_layer(config: NetConfig) -> int:
    """Return the index of the one TextData layer; raises ConfigError."""
    found = [i for i, layer in enumerate(config.message.layer) if _reads_text(layer)]
    if len(found) > 1:
        raise ConfigError(f"{config.where(found[1])}: the net has {len(found)} TextData layers in one phase; "
                          f"choose one with --stage or --level")
    if len(config.message.layer[found[0]].top) < 2:
        raise ConfigError(f"{config.where(found[0], 'top')}: a TextData layer has the tops data, label and "
                          f"cont")
    return found[0]


def vocabulary_of(config: NetConfig, index: int) -> Vocabulary:
    """Return the vocabulary of the TextData layer `index`; raises DataError."""
    layer = config.message.layer[index]
    try:
        return data_layer_class(layer.type).read_vocabulary(layer, config.path)
    except DataError as error:
        where = config.where(index, *param_fields(layer.type)[:1])
        raise type(error)(f"{where}: layer {layer.name!r}: {error}") from error


def context_of(source: NetConfig, config: NetConfig, index: int, level: int = 0, stages: Any = ()) -> int:
    """Return how many steps a net tells apart: as many as a batch has in training; 0 if there is no limit.

    source: the description of all phases; config: that of which TextData layer `index` reads the text. If
    only tests read text, they are the steps of a learned Position, else those of a batch. Raises ConfigError.
    """
    layers = config.message.layer
    if not any(layer.type in LIMITED for layer in layers):
        return 0
    for i, layer in enumerate(layers):
        if layer.type == "Attention" and not layer.attention_param.causal:
            raise ConfigError(f"{config.where(i)}: layer {layer.name!r} is not causal: it reads what is "
                              f"still to be written; train the net with causal: true in its attention_param")
    longest = min((layer.position_param.max_steps for layer in layers
                   if layer.type == "Position" and layer.position_param.max_steps), default=0)
    trained = [layer.text_data_param.steps for layer in filter_state(source, pb.TRAIN, level, stages)
               .message.layer if _reads_text(layer)]
    steps = trained[0] if trained else longest or layers[index].text_data_param.steps
    if not steps:
        raise ConfigError(f"{config.where(index)}: layer {layers[index].name!r} does not say how many steps "
                          f"the net is trained on; set steps in its text_data_param")
    return min(steps, longest or steps)


def for_steps(config: NetConfig, index: int, steps: int, context: int = 0,
              streams: int = 1) -> tuple[NetConfig, str, int]:
    """Return (NetConfig of a language model in use, name of the blob of scores, its axis of classes).

    An Input layer of `steps` steps of `streams` streams replaces the TextData layer `index`, and what reads
    its labels is removed. With a `context` the net goes on from batch to batch for so many steps.
    """
    layers = config.message.layer
    text = layers[index]
    fed, labels = input_layer(text.name, [text.top[0], *text.top[2:]], (steps, streams)), {text.top[1]}
    kept, judging = apart_from_labels(layers, labels)
    judges = [layers[i] for name in JUDGES for i in judging if layers[i].type == name
              and layers[i].bottom[0] not in labels]
    if not judges:
        raise ConfigError(f"{config.where(index)}: no {', '.join(JUDGES[:-1])} or {JUDGES[-1]} layer reads "
                          f"the label {text.top[1]!r}, so it is unknown which blob holds the scores; add one")
    judge = judges[0]
    axis = judge.accuracy_param.axis if judge.type == "Accuracy" else judge.softmax_param.axis
    made = described(config, ((fed if i == index else layers[i], config.origins[i]) for i in kept))
    for layer in made.message.layer if context else ():
        go_on(layer, context, context)
    return made, judge.bottom[0], axis


def check_alike(together: np.ndarray, alone: np.ndarray, net: Net, what: str, remedy: str = "") -> None:
    """Raise ConfigError where the scores behind some words differ, read at once and one by one by `net`.

    It is seen of the scores alone which layer, say a convolution over steps, forgets those before. Scores
    that are not finite are told when they are used.
    """
    if not (np.isfinite(together).all() and np.isfinite(alone).all()):
        return
    if np.abs(together - alone).max() > ROUNDING[net.backend.precision] * np.abs(together).max():
        raise ConfigError(f"{net.config.where()}: {what} that are read one by one have other scores than "
                          f"those read at once: a layer looks at neighbouring steps, as a convolution over "
                          f"them does, and does not remember them from batch to batch; "
                          f"{remedy or 'such a net cannot write'}")


def go_on(layer: LayerParameter, context: int, most: int) -> None:
    """Let a layer remember the batches before, up to `most` steps; those of training have `context`."""
    if layer.type == "Attention":
        layer.attention_param.cache = most
    elif layer.type == "Rotary":
        layer.rotary_param.continues = True
    elif layer.type == "Position":
        settings = layer.position_param
        settings.continues = True
        if settings.kind == settings.LEARNED and not settings.max_steps:
            settings.max_steps = context
