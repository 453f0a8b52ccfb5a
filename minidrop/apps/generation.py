"""Generating text with a language model: one stream, the prompt in pieces, then one token at a time."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from minidrop.apps.text_nets import (
    TRIED,
    check_alike,
    context_of,
    for_steps,
    text_layer,
    vocabulary_of,
    with_text,
)
from minidrop.apps.trained import load_all_weights
from minidrop.autograd import no_grad
from minidrop.config import NetConfig, load_net
from minidrop.config.numbers import real_number, whole_number
from minidrop.errors import ConfigError, NonFiniteError, kind_of
from minidrop.net import Net
from minidrop.rng import generator

MOST_OF_CHARACTER = 8       # pieces that a character may go across
MOST_STEPS = 256            # that one pass reads: what it computes for each is in memory at once
FEWEST_STEPS = 8            # that get a net of their own: it takes about as long to build as they one by one


class TextModel:
    """A language model that generates text: a net with a TextData layer, run on what it wrote.

    `source`: a NetConfig or the path of a network file. The net of phase TEST is used, or that of TRAIN if
    only that one reads text. An Input layer replaces TextData, and layers that read the labels (losses,
    metrics) are removed. The scores are what a SoftmaxWithLoss, else a Perplexity or Accuracy layer reads.
    weights: paths of snapshots, which together must hold every parameter; without them the output is noise.
    skip_mismatched, ema: as for `Net.load_weights`. device, dtype, level, stages, precision: as for `Net`.

    A recurrent net remembers all that it read. A net that attends or knows positions tells apart as many
    steps as in training, its `context`. When that is full it forgets: it reads the last half of it again,
    from position 0 on, and goes on; so the time that a text takes is proportional to its length. It keeps the
    keys and values of earlier steps; with `cache` False it reads the whole window anew for every token, which
    gives the same text more slowly. What is known beforehand, a prompt or that last half, is read at once: up
    to 256 tokens in a pass, and of a prompt longer than the context only what it would not forget again. That
    equals reading it token by token but for rounding.

    `net` is the net, `vocabulary` maps tokens to indices, `sentences` says whether every <eos> begins a new
    sequence, as in the batches that such a model is trained on. `described` is the description with the
    TextData layer, number `text` of its layers. Raises ConfigError if the net is not such a
    model, SnapshotError if the weights do not fit, DataError if the text of the vocabulary is missing.
    """

    def __init__(self, source: Any, weights: Any = (), device: str = "auto", dtype: str = "float32",
                 level: int = 0, stages: Any = (), precision: str = "float32",
                 cache: bool = True, skip_mismatched: bool = False, ema: bool = False):
        source = source if isinstance(source, NetConfig) else load_net(source)
        config = with_text(source, level, stages)
        index = text_layer(config)
        layer = config.message.layer[index]
        self.sentences = layer.text_data_param.sentences
        self.vocabulary = vocabulary_of(config, index)
        self.context = context_of(source, config, index, level, stages)
        self.described, self.text = config, index
        self.cache = cache or not self.context
        self._steps = 1 if self.cache else self.context
        self._described = partial(for_steps, config, index, context=self.context if self.cache else 0)
        own, self._scores, self._axis = self._described(self._steps)
        self._data, self._cont = layer.top[0], layer.top[2] if len(layer.top) > 2 else None
        self.net = Net(own, "TEST", device, dtype, 0, level, stages, precision=precision)
        self._longer: tuple[int, Net] | None = None     # (steps, the net that read several tokens last)
        self._check()
        load_all_weights(self.net, weights, {layer.name: self.vocabulary.fingerprint}, skip_mismatched, ema)
        if self.cache:
            self._check_goes_on()

    def unknown(self, prompt: str) -> list:
        """Return the distinct tokens of a prompt missing from the vocabulary: the model reads <unk>."""
        return self.vocabulary.unknown(prompt)

    def generate(self, prompt: str = "", length: int = 200, temperature: float = 1.0, seed: int = 0) -> str:
        """Return the `length` tokens that follow a prompt, as text.

        Words come with a blank before them, so that prompt + generate(prompt) reads correctly; the first one
        has no blank if the prompt is empty or ends with white space.

        The model reads the prompt; then each token is drawn from softmax(scores / temperature), in float64,
        and fed back. temperature 0 takes the most likely one. Without a prompt the model begins with <eos>,
        at levels CHARACTER and PIECE with a line end; if `sentences`, it begins with <eos> in any case. The
        result depends on the arguments alone. Raises ConfigError for a temperature or length below 0,
        NonFiniteError.
        """
        return "".join(self.stream(prompt, length, temperature, seed))

    def stream(self, prompt: str = "", length: int = 200, temperature: float = 1.0,
               seed: int = 0) -> Iterator:
        """Yield the text that `generate` returns token by token, as soon as each is drawn.

        A piece of a word that ends within a character yields "": the next one yields the character.
        """
        if self.vocabulary.level == "PIECE":
            yield from self._joined(prompt, self.tokens(prompt, length, temperature, seed))
            return
        blank = bool(prompt) and not prompt[-1].isspace()
        for token in self.tokens(prompt, length, temperature, seed):
            text = self.vocabulary.decode([token])
            if self.vocabulary.level == "WORD":
                ends = token == self.vocabulary.eos
                text, blank = f"{' ' * (blank and not ends)}{text}", not ends
            yield text

    def tokens(self, prompt: str = "", length: int = 200, temperature: float = 1.0,
               seed: int = 0) -> Iterator:
        """Yield the indices of the tokens that follow a prompt; see `generate`. Raises ConfigError."""
        if not isinstance(prompt, str):
            raise ConfigError(f"prompt: expected a text, got {kind_of(prompt)}")
        real_number("temperature", temperature, "a number from 0 on", lambda x: math.isfinite(x) and x >= 0)
        whole_number("length", length, 0)
        rng = generator(seed, "generate")
        # Each generator has a memory of its own: several may take turns, also in threads.
        scores, memory = self._read(self._beginning(prompt))
        for i in range(length):
            token = _choose(scores, temperature, rng)
            yield token
            if i + 1 < length:
                scores, memory = self._read([token], memory)

    def close(self) -> None:
        """Release the memory of the nets."""
        self._forget_longer()
        self.net.close()

    def _beginning(self, prompt):
        """Return the indices that the model reads before it generates."""
        vocabulary = self.vocabulary
        tokens = vocabulary.encode(prompt).tolist()
        if vocabulary.level == "WORD":
            return [vocabulary.eos, *tokens] if self.sentences or not tokens else tokens
        if vocabulary.level == "PIECE":     # a tokenizer may make nothing of a line end
            return tokens or vocabulary.encode("\n").tolist() or [0]
        return tokens or [vocabulary.index("\n")]

    def _joined(self, prompt, tokens):
        """Yield the text of pieces of words, one by one; what a piece reads as depends on those before it."""
        decode = self.vocabulary.decode
        before, new = self._beginning(prompt)[-MOST_OF_CHARACTER:], []
        for token in tokens:
            new.append(token)
            text, begun = decode(before + new), decode(before)
            if text.endswith("\N{REPLACEMENT CHARACTER}") and len(new) < MOST_OF_CHARACTER:
                yield ""
                continue
            yield text[len(begun):]
            before, new = new, []
        if new:
            yield decode(before + new)[len(decode(before)):]

    def _read(self, tokens, memory=None):
        """Read tokens, at least one; returns the scores of the next one, float64, and the memory after them.

        memory: what was read before them, (tokens of the context, states of the net); None at the beginning.
        """
        window, states = memory or ((), None)
        unread = []                 # what the states lack
        for token in tokens:
            if self.context and self.sentences and token == self.vocabulary.eos:
                window, states, unread = (), None, []
            if self.context and len(window) == self.context:
                window = window[len(window) - self.context // 2:]
                states, unread = None, list(window)
            window = (*window, token) if self.context else ()
            unread.append(token)
        if not self.cache:
            return self._pass(window, None)[0], (window, None)
        most = MOST_STEPS if len(unread) >= FEWEST_STEPS else 1
        for first in range(0, len(unread), most):
            scores, states = self._pass(unread[first:first + most], states)
        return scores, (window, states)

    def _pass(self, tokens, states):
        """Run the net on tokens; returns the scores of the one after them, float64, and the states.

        states: those before the tokens; None at the beginning.
        """
        with self.net.guard(wait=True), no_grad():
            steps = len(tokens) if self.cache else self._steps
            net = self._net_of(steps)
            data = np.zeros((steps, 1), np.int64)       # no step sees the padding behind it
            data[:len(tokens), 0] = tokens
            inputs = {self._data: data}
            if self._cont:
                cont = np.ones((steps, 1))
                if self.sentences:
                    cont[data == self.vocabulary.eos] = 0
                if states is None:
                    cont[0] = 0
                inputs[self._cont] = cont
            if states is None:
                net.reset_states()
            else:
                net.set_states(states)
            net.forward(**inputs)
            scores = np.moveaxis(net.blobs[self._scores].numpy(), self._axis, -1).reshape(steps, -1)
            scores = scores[len(tokens) - 1, :len(self.vocabulary)].astype(np.float64)
            if not np.isfinite(scores).all():
                name = " (blob {1!r} of layer {0!r})".format(*net.first_nonfinite())
                raise NonFiniteError(f"the scores hold a NaN or infinity{name}; was the training healthy?")
            return scores, net.states

    def _net_of(self, steps):
        """Return a net of so many steps with the same parameters; beside `net` the last one is kept."""
        if steps == self._steps:
            return self.net
        if not self._longer or self._longer[0] != steps:
            own, net = self._described(steps)[0], self.net
            self._longer = steps, Net(own, "TEST", net.backend, net.dtype, 0, net.level, net.stages, net)
        return self._longer[1]

    def _check_goes_on(self):
        """Raise ConfigError where tokens that are read one by one have other scores than those read at once.
        """
        count = min(TRIED, self.context or TRIED)
        tokens = [token for token in range(len(self.vocabulary)) if token != self.vocabulary.eos][-count:]
        if len(tokens) < 2:
            return
        try:
            together, _ = self._pass(tokens, None)
            states = None
            for token in tokens:
                alone, states = self._pass([token], states)
        except NonFiniteError:          # is told when text is generated
            return
        finally:
            self._forget_longer()
        anew = "md.TextModel(..., cache=False) reads the whole context anew for every token"
        check_alike(together, alone, self.net, "tokens", anew if self.context else "")

    def _forget_longer(self):
        if self._longer:
            self._longer[1].close()
        self._longer = None

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
        if count * self._steps != math.prod(shape) or count < len(self.vocabulary):
            raise ConfigError(f"{config.where()}: expected scores for the {len(self.vocabulary)} tokens of "
                              f"the vocabulary along axis {self._axis} of {self._scores!r}, got shape "
                              f"{shape}; correct num_output, or vocabulary_size of the TextData layer")


def _choose(scores, temperature, rng):
    """Return an index drawn from softmax(scores / temperature)."""
    if not temperature:
        return int(scores.argmax())
    with np.errstate(over="ignore"):        # a huge difference becomes -inf
        odds = np.exp((scores - scores.max()) / temperature)
    sums = np.cumsum(odds)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
