"""Tagging: a trained net with a TaggedTextData layer gives each token of new sentences its tag."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from minidrop.apps.text_nets import vocabulary_of
from minidrop.apps.trained import check_sentences, load_all_weights
from minidrop.autograd import no_grad
from minidrop.config import NetConfig, filter_state, load_net
from minidrop.config import minidrop_pb2 as pb
from minidrop.data import Encoded, TaggedSentences
from minidrop.data.limits import how_to_raise, raised
from minidrop.errors import ConfigError, DataError, in_short
from minidrop.layers.crf import CRF
from minidrop.net import Net

LONGEST = 1024              # tokens of a sentence; each takes the net's memory for all its streams
WINDOW = 16                 # batches that are read together, and sorted by length
KIND = "TaggedTextData"


class Tagger:
    """A net that tags sentences: one with a TaggedTextData and a CRF layer with two tops.

    `source`: a NetConfig or the path of a network file; the net of phase TEST is used. weights: paths of
    snapshots, which together must hold every parameter; skip_mismatched, ema: as for `Net.load_weights`.
    device, dtype, level, stages, precision: as for `Net`. Of the files that the TaggedTextData layer names
    only the text of the vocabulary is read.

    `net` is the net, `vocabulary` its TaggedVocabulary, `word_column` the column of a token in its text.
    Raises ConfigError if the net is not such a one, SnapshotError if the weights do not fit, DataError if the
    text of the vocabulary is missing.
    """

    def __init__(self, source: Any, weights: Any = (), device: str = "auto", dtype: str = "float32",
                 level: int = 0, stages: Any = (), precision: str = "float32",
                 skip_mismatched: bool = False, ema: bool = False):
        source = source if isinstance(source, NetConfig) else load_net(source)
        config = filter_state(source, pb.TEST, level, stages)
        index = _text_layer(config)
        text = config.message.layer[index]
        settings = text.tagged_text_data_param
        self._text, self._path = text.name, _path(config)
        self.word_column = settings.word_column
        self.vocabulary = vocabulary_of(config, index)
        self.net = Net(config, "TEST", device, dtype, 0, level, stages, precision=precision,
                       handed={text.name: self.vocabulary})
        self._most, self._streams = settings.most_characters, settings.batch_size
        scores = self.net.layers[self._path[0]]
        tags = len(self.net.data_layers[text.name].vocabulary.tags)
        if isinstance(scores, CRF) and scores.kinds != tags:
            raise ConfigError(f"{config.where()}: layer {scores.name!r} tells {scores.kinds} tags apart, but "
                              f"the vocabulary has {tags}; set num_output: {tags} in the layer of its scores")
        load_all_weights(self.net, weights, {text.name: self.vocabulary.fingerprint}, skip_mismatched, ema)

    def tag(self, sentences: Iterable[list[str]], window: int = 0) -> Iterator[list[str]]:
        """Yield the tags of each sentence, a list of tokens: in IOB2, or as they are in the scheme NONE.

        So many sentences are read before their tags are yielded, 16 batches unless given. What a sentence is
        tagged with does not depend on the others. Raises DataError for a sentence that is too long, or is no
        list of tokens.
        """
        check_sentences(sentences)
        sentences = iter(sentences)
        window = window or WINDOW * self._streams
        while own := list(islice(sentences, window)):
            yield from self._tagged(own)

    def _tagged(self, sentences):
        for words in sentences:
            if isinstance(words, str) or not isinstance(words, Sequence) or not all(
                    isinstance(word, str) for word in words):
                raise DataError(f"expected a sentence as a list of tokens, as sentence.split() gives them, "
                                f"got {in_short(words)}")
            if len(words) > raised(LONGEST):
                raise DataError(f"expected a sentence of at most {LONGEST} tokens, got one of {len(words)} "
                                f"that begins with {' '.join(words[:5])[:60]!r}; cut it, or, "
                                f"{how_to_raise()}")
        order = np.argsort([len(words) for words in sentences], kind="stable")
        encoded = Encoded.of_sentences(self.vocabulary, [sentences[i] for i in order], self._most)
        batches, found = TaggedSentences(encoded, self._streams), []
        with self.net.guard(wait=True), no_grad():
            self.net.layers[self._text].read_from(batches)
            for n in range(batches.batches_per_pass):
                self.net.reset_states()
                self.net.forward()
                path = self.net.blobs[self._path[1]].numpy().astype(np.int64)
                found += [path[:encoded.lengths[i], stream].tolist()
                          for stream, i in enumerate(batches.chosen(n))]
        tags: list[list[str]] = [[]] * len(sentences)
        for place, own in zip(order.tolist(), found, strict=True):
            tags[place] = self.vocabulary.tags.as_written(own)
        return tags

    def close(self) -> None:
        """Free the net's memory."""
        self.net.close()


def _text_layer(config):
    """Return the index of the one TaggedTextData layer; raises ConfigError."""
    found = [i for i, layer in enumerate(config.message.layer) if layer.type == KIND]
    if not found:
        raise ConfigError(f"{config.where()}: the net has no {KIND} layer in phase TEST; tagging needs its "
                          f"vocabulary")
    if len(found) > 1:
        raise ConfigError(f"{config.where(found[1])}: the net has {len(found)} {KIND} layers in phase TEST; "
                          f"choose one with --stage or --level")
    return found[0]


def _path(config):
    """Return (name of the CRF layer, name of its second top); raises ConfigError."""
    found = [layer for layer in config.message.layer if layer.type == "CRF" and len(layer.top) == 2]
    if len(found) != 1:
        raise ConfigError(f"{config.where()}: expected one CRF layer with two tops in phase TEST, of which "
                          f"the second gives the tags, got {len(found)}")
    return found[0].name, found[0].top[1]
