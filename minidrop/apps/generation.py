"""Generating text with a language model: one stream, one token at a time, with state carried in between."""

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidrop.autograd import no_grad
from minidrop.config import NetConfig, NetParameter, filter_state, load_net, param_fields
from minidrop.config import minidrop_pb2 as pb
from minidrop.errors import ConfigError, DataError, NonFiniteError, SnapshotError
from minidrop.layers import DataLayer, known_layers, layer_class
from minidrop.net import Net
from minidrop.rng import generator
from minidrop.solver import load_weights

# The first of these that the net has says which blob holds the scores, and on which axis.
JUDGES = ("SoftmaxWithLoss", "Perplexity", "Accuracy")


class TextModel:
    """A language model that generates text: a net with a TextData layer, run on one token at a time.

    `source`: a NetConfig or the path of a network file. The net of phase TEST is used, or that of TRAIN if
    only that one reads text. An Input layer replaces TextData, and layers that read the labels (losses,
    metrics) are removed. The scores are what a SoftmaxWithLoss, else a Perplexity or Accuracy layer reads.
    weights: paths of snapshots, which together must hold every parameter; without them the output is noise.
    device, dtype, level, stages, precision: as for `Net`.

    `net` is the net, `vocabulary` maps tokens to indices, `sentences` says whether every <eos> begins a new
    sequence, as in the batches that such a model is trained on. Raises ConfigError if the net is not such a
    model, SnapshotError if the weights do not fit, DataError if the text of the vocabulary is missing.
    """

    def __init__(self, source: Any, weights: Any = (), device: str = "auto", dtype: str = "float32",
                 level: int = 0, stages: Any = (), precision: str = "float32"):
        config = source if isinstance(source, NetConfig) else load_net(source)
        config = _with_text(config, level, stages)
        index = _text_layer(config)
        layer = config.message.layer[index]
        self.sentences = layer.text_data_param.sentences
        self._text, self.vocabulary = layer.name, _vocabulary(config, index)
        config, self._scores, self._axis = _for_one_step(config, index)
        self._data, self._cont = layer.top[0], layer.top[2] if len(layer.top) > 2 else None
        self.net = Net(config, "TEST", device, dtype, 0, level, stages, precision=precision)
        self._check()
        self._load([weights] if isinstance(weights, str | os.PathLike) else weights)

    def unknown(self, prompt: str) -> list:
        """Return the distinct tokens of a prompt missing from the vocabulary: the model reads <unk>."""
        tokens = prompt if self.vocabulary.level == "CHARACTER" else prompt.split()
        return [token for token in dict.fromkeys(tokens) if token not in self.vocabulary]

    def generate(self, prompt: str = "", length: int = 200, temperature: float = 1.0, seed: int = 0) -> str:
        """Return the `length` tokens that follow a prompt, as text.

        Words come with a blank before them, so that prompt + generate(prompt) reads correctly; the first one
        has no blank if the prompt is empty or ends with white space.

        The model reads the prompt; then each token is drawn from softmax(scores / temperature), in float64,
        and fed back. temperature 0 takes the most likely one. Without a prompt the model begins with <eos>,
        at level CHARACTER with a line end; if `sentences`, it begins with <eos> in any case. The result
        depends on the arguments alone. Raises ConfigError for a temperature or length below 0,
        NonFiniteError.
        """
        return "".join(self.stream(prompt, length, temperature, seed))

    def stream(self, prompt: str = "", length: int = 200, temperature: float = 1.0,
               seed: int = 0) -> Iterator:
        """Yield the text that `generate` returns token by token, as soon as each is drawn."""
        blank = bool(prompt) and not prompt[-1].isspace()
        for token in self.tokens(prompt, length, temperature, seed):
            text = self.vocabulary.decode([token])
            if self.vocabulary.level == "WORD":
                ends = token == self.vocabulary.eos
                text, blank = f"{' ' * (blank and not ends)}{text}", not ends
            yield text

    def tokens(self, prompt: str = "", length: int = 200, temperature: float = 1.0,
               seed: int = 0) -> Iterator:
        """Yield the indices of the tokens that follow a prompt; see `generate`."""
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ConfigError(f"temperature must be a number from 0 on, got {temperature:g}")
        if length < 0:
            raise ConfigError(f"length must be at least 0, got {length}")
        rng = generator(seed, "generate")
        # Each generator has states of its own: several may take turns, also in threads.
        states = None
        for token in self._beginning(prompt):
            scores, states = self._read(token, states)
        for i in range(length):
            token = _choose(scores, temperature, rng)
            yield token
            if i + 1 < length:
                scores, states = self._read(token, states)

    def close(self) -> None:
        """Release the net's memory."""
        self.net.close()

    def _beginning(self, prompt):
        """Return the indices that the model reads before it generates."""
        vocabulary = self.vocabulary
        tokens = vocabulary.encode(prompt).tolist()
        if vocabulary.level == "WORD":
            return [vocabulary.eos, *tokens] if self.sentences or not tokens else tokens
        return tokens or [vocabulary.index("\n")]

    def _read(self, token, states):
        """Run the net on one token; returns the scores of the next one, float64, and the states after it.

        states: those before it; None at the beginning.
        """
        inputs = {self._data: np.full((1, 1), token)}
        if self._cont:
            begins = states is None or (self.sentences and token == self.vocabulary.eos)
            inputs[self._cont] = np.full((1, 1), 0 if begins else 1)
        with self.net.guard(wait=True), no_grad():
            if states is None:
                self.net.reset_states()
            else:
                self.net.set_states(states)
            self.net.forward(**inputs)
            scores = self.net.blobs[self._scores].numpy().astype(np.float64).reshape(-1)
            scores = scores[:len(self.vocabulary)]
            if not np.isfinite(scores).all():
                name = " (blob {1!r} of layer {0!r})".format(*self.net.first_nonfinite())
                raise NonFiniteError(f"the scores hold a NaN or infinity{name}; was the training healthy?")
            return scores, self.net.states

    def _check(self):
        config, net = self.net.config, self.net
        others = [name for name in net.inputs if name not in (self._data, self._cont)]
        if others:
            raise ConfigError(f"{config.where()}: the net has the input {others[0]!r}, which text alone "
                              f"cannot give; remove it (and expose_hidden, if that is what it is for)")
        for node in net.graph.nodes:
            if node.config.recurrent_param.bidirectional:
                raise ConfigError(f"{config.where(node.index)}: layer {node.name!r} is bidirectional: it "
                                  f"reads what is still to be written; such a net cannot generate")
        ref = max((ref for ref in net.graph.shapes if ref.name == self._scores), key=lambda ref: ref.version)
        shape = net.graph.shapes[ref]
        count = shape[self._axis] if -len(shape) <= self._axis < len(shape) else 0
        if count != math.prod(shape) or count < len(self.vocabulary):
            raise ConfigError(f"{config.where()}: expected scores for the {len(self.vocabulary)} tokens of "
                              f"the vocabulary along axis {self._axis} of {self._scores!r}, got shape "
                              f"{shape}; correct num_output, or vocabulary_size of the TextData layer")

    def _load(self, weights):
        missing = dict.fromkeys(self.net.parameters())
        for path in weights:
            for name in load_weights(self.net, path, {self._text: self.vocabulary.fingerprint})[0]:
                missing.pop(name, None)
        if weights and missing:
            raise SnapshotError(f"{', '.join(map(str, weights))}: no weights for {', '.join(missing)}; was "
                                f"it written by another net?")


def _choose(scores, temperature, rng):
    """Return an index drawn from softmax(scores / temperature)."""
    if not temperature:
        return int(scores.argmax())
    with np.errstate(over="ignore"):        # a huge difference becomes -inf
        odds = np.exp((scores - scores.max()) / temperature)
    sums = np.cumsum(odds)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


def _with_text(config, level, stages):
    """Return the NetConfig of the phase that has a TextData layer, TEST before TRAIN.

    Its layers lose their include and exclude rules: they are part of the net in any phase.
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


def _reads_text(layer):
    kind = layer_class(layer.type) if layer.type in known_layers() else None
    return kind is not None and issubclass(kind, DataLayer) and bool(kind.token_tops)


def _text_layer(config):
    found = [i for i, layer in enumerate(config.message.layer) if _reads_text(layer)]
    if len(found) > 1:
        raise ConfigError(f"{config.where(found[1])}: the net has {len(found)} TextData layers in one phase; "
                          f"choose one with --stage or --level")
    if len(config.message.layer[found[0]].top) < 2:
        raise ConfigError(f"{config.where(found[0], 'top')}: a TextData layer has the tops data, label and "
                          f"cont")
    return found[0]


def _vocabulary(config, index):
    layer = config.message.layer[index]
    try:
        return layer_class(layer.type).read_vocabulary(layer, config.path)
    except DataError as error:
        where = config.where(index, *param_fields(layer.type)[:1])
        raise type(error)(f"{where}: layer {layer.name!r}: {error}") from error


def _for_one_step(config, index):
    """Return (NetConfig for generation, name of the blob of scores, its axis of classes).

    An Input layer replaces TextData, and what reads its labels is removed.
    """
    layers = config.message.layer
    text = layers[index]
    fed = pb.LayerParameter(name=text.name, type="Input", top=[text.top[0], *text.top[2:]])
    fed.input_param.shape.add(dim=[1, 1])
    labels, kept, judges = {text.top[1]}, [], []
    for i, layer in enumerate(layers):
        if labels & set(layer.bottom):
            labels.update(layer.top)
            judges.append(layer)
        else:
            kept.append((fed if i == index else layer, config.origins[i]))
    judges = [layer for name in JUDGES for layer in judges if layer.type == name
              and layer.bottom[0] not in labels]
    if not judges:
        raise ConfigError(f"{config.where(index)}: no {', '.join(JUDGES[:-1])} or {JUDGES[-1]} layer reads "
                          f"the label {text.top[1]!r}, so it is unknown which blob holds the scores; add one")
    judge = judges[0]
    axis = judge.accuracy_param.axis if judge.type == "Accuracy" else judge.softmax_param.axis
    message = NetParameter()
    message.CopyFrom(config.message)
    message.ClearField("layer")
    message.layer.extend(layer for layer, _ in kept)
    return (NetConfig(message, config.path, config.source, [origin for _, origin in kept]),
            judge.bottom[0], axis)
