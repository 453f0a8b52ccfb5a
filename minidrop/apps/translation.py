"""Translating sentences with a trained net."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from minidrop.apps.beam import Best, beam_search
from minidrop.apps.text_nets import TRIED, check_alike
from minidrop.apps.trained import check_sentences, load_all_weights
from minidrop.apps.translation_nets import check_most, parts_of, reading_net, whole_net, writing_net
from minidrop.autograd import no_grad
from minidrop.config import NetConfig, load_net
from minidrop.config.numbers import real_number, whole_number
from minidrop.errors import ConfigError, DataError, NonFiniteError, kind_of, nearest
from minidrop.layers.data_layer import data_layer_class
from minidrop.net import Net

log = logging.getLogger(__name__)

MOST_BEAMS = 1000


class Translator:
    """A translation model: a net with a ParallelTextData and an AttentionDecoder layer, which writes
    sentences.

    `source`: a NetConfig or the path of a network file; the net of phase TEST is used. weights: paths of
    snapshots, which together must hold every parameter; skip_mismatched, ema: as for `Net.load_weights`.
    device, dtype, level, stages, precision: as for `Net`.

    beams: how many unfinished translations of a sentence go on; 1 takes the likeliest word each time.
    penalty: a translation counts log p / ((5 + length) / 6) ** penalty. batch_size: sentences that are
    translated together. most: most words of a translation; 0: as many as in training. replaces: write in
    place of <unk> the word of the source that is looked at most.

    `vocabularies` holds both languages. Raises ConfigError if the net is not such a model, SnapshotError if
    the weights do not fit, DataError if the texts of the vocabularies are missing.
    """

    def __init__(self, source: Any, weights: Any = (), beams: int = 1, penalty: float = 1.0,
                 batch_size: int = 32, most: int = 0, replaces: bool = True, device: str = "auto",
                 dtype: str = "float32", level: int = 0, stages: Any = (), precision: str = "float32",
                 skip_mismatched: bool = False, ema: bool = False):
        whole_number("beams", beams, 1, most=MOST_BEAMS)
        whole_number("batch_size", batch_size, 1)
        whole_number("most", most, 0)
        real_number("penalty", penalty, "a number from 0 on", lambda x: math.isfinite(x) and x >= 0)
        config = source if isinstance(source, NetConfig) else load_net(source)
        parts = self._parts = parts_of(config, level, stages)
        layer = parts.config.message.layer[parts.text]
        settings = layer.parallel_text_data_param
        try:
            self.vocabularies = data_layer_class(layer.type).read_vocabulary(layer, parts.config.path)
        except DataError as error:
            raise DataError(f"{parts.config.where(parts.text)}: layer {layer.name!r}: {error}") from error
        self.beams, self.penalty, self.batch_size, self.replaces = beams, penalty, batch_size, replaces
        self.places, self.most = settings.source_steps, (most + 1 if most else settings.target_steps)
        if not self.places or self.most < 2:
            raise ConfigError(f"{parts.config.where(parts.text)}: parallel_text_data_param needs "
                              f"source_steps and target_steps, at least 2")
        check_most(parts, self.most)

        def built(description, share=None):
            return Net(description, "TEST", device, dtype, 0, level, stages, share, precision)

        whole = built(whole_net(parts, batch_size, self.places, self.most))
        load_all_weights(whole, weights, {layer.name: self.vocabularies.fingerprint}, skip_mismatched, ema)
        self.reader = built(reading_net(parts, batch_size, self.places), whole)
        shapes = {blob: self._shape(self.reader, blob) for blob in parts.handed}
        for blob, shape in shapes.items():
            if len(shape) < 2 or shape[1] != batch_size:
                raise ConfigError(f"{parts.config.where()}: what reads the target also reads {blob!r}, of "
                                  f"shape {shape}; expected (places, streams, ...)")
        self.writer = built(writing_net(parts, batch_size * beams, shapes, self.most), whole)
        scores = self._shape(self.writer, parts.scores)
        words = len(self.vocabularies.target)
        if len(scores) != 3 or parts.axis % 3 != 2 or scores[2] < words:
            raise ConfigError(f"{parts.config.where()}: expected scores (steps, streams, words) for the "
                              f"{words} words of the target, got {parts.scores!r} of shape {scores}; "
                              f"correct num_output")
        self._check_goes_on(lambda steps: built(writing_net(parts, 1, shapes, self.most, steps), whole))

    def translate(self, sentences: Iterable[str]) -> Iterator[str]:
        """Yield the translation of each sentence, of words with blanks in between, in the same order.

        As many as batch_size are read before the first comes. An empty sentence stays empty; of one longer
        than source_steps only so many words are read, with a warning. Raises DataError for what is no text,
        or is one text in place of several, NonFiniteError.
        """
        check_sentences(sentences)
        sentences, number = iter(sentences), 0
        while batch := list(islice(sentences, self.batch_size)):
            for i, sentence in enumerate(batch):
                if not isinstance(sentence, str):
                    raise DataError(f"sentence {number + i + 1}: expected a text, words with blanks in "
                                    f"between, got {kind_of(sentence)}")
            words = [sentence.split() for sentence in batch]
            for i, own in enumerate(words):
                if len(own) > self.places:
                    log.warning("sentence %d has %d words; only the first %d are read", number + i + 1,
                                len(own), self.places)
            number += len(batch)
            yield from self._batch([own[:self.places] for own in words])

    def best(self, sentences: list[list[str]]) -> list[Best]:
        """Return what `beam_search` finds for each list of words, none of them empty; at most batch_size."""
        vocabulary, scores = self.vocabularies.target, self._shape(self.writer, self._parts.scores)[2]
        never = (vocabulary.pad, vocabulary.begin, *range(len(vocabulary), scores))
        with self.writer.guard(wait=True), no_grad():
            self._read(sentences)
            return beam_search(self._step, self.batch_size, self.beams, vocabulary.begin, vocabulary.end,
                               self.most, self.penalty, never, wanted=len(sentences))

    def close(self) -> None:
        """Release the memory of both nets."""
        self.reader.close()
        self.writer.close()

    # -- one batch -------------------------------------------------------------------------------------------
    def _batch(self, sentences):
        """Return the translations of at most batch_size lists of words."""
        present = [words for words in sentences if words]
        best = iter(self.best(present) if present else ())
        return [self._text(words, next(best)) if words else "" for words in sentences]

    def _text(self, source, best):
        """Return a translation as text."""
        vocabulary, words = self.vocabularies.target, []
        for word, place in zip(best.words, best.places, strict=True):
            if word == vocabulary.end:
                break
            unknown = word == vocabulary.unk and self.replaces and place < len(source)
            words.append(source[place] if unknown else vocabulary[word])
        return " ".join(words)

    def _read(self, sentences):
        """Let the reading net read sentences, and hand what it made of them to the writing net."""
        vocabulary = self.vocabularies.source
        rows = [vocabulary.indices(words) for words in sentences]
        rows += [rows[0][:1]] * (self.batch_size - len(rows))         # the streams of a net are all there
        lengths = np.array([len(row) for row in rows])
        source = np.full((lengths.max(), len(rows)), vocabulary.pad, np.int64)
        for i, row in enumerate(rows):
            source[:len(row), i] = row
        mask = (np.arange(len(source))[:, None] < lengths).astype(np.int64)
        cont = mask.copy()
        cont[0] = 0
        arrays = {"source": source, "mask": mask, "source_cont": cont}
        given = {blob: arrays[what] for blob, what in self._parts.sources.items()}
        self.reader.forward(**given)
        self._finite(self.reader, *(blob for blob in self._parts.handed if blob not in given))
        handed = {blob: self.reader.blobs[blob].numpy() for blob in self._parts.handed}
        self.writer.set_inputs(**{blob: np.repeat(array, self.beams, axis=1) for blob,
                                  array in handed.items()})
        self.writer.reset_states()
        self._first = True

    def _step(self, words, origins):
        """Read one word in each beam, after what beam number `origins` read; see `beam_search`."""
        net, parts = self.writer, self._parts
        if not self._first:
            order = net.backend.asarray(origins, np.int64)
            # Streams are the last axis but one of all states; the number of steps is that of all streams.
            net.set_states({key: state if state.ndim < 2 else state.take(order, state.ndim - 2)
                            for key, state in net.states.items()})
        arrays = {"target": words[None], "target_cont": np.full((1, len(words)), int(not self._first))}
        self._first = False
        net.forward(**{blob: arrays[what] for blob, what in parts.targets.items()})
        self._finite(net, parts.scores)
        scores = net.blobs[parts.scores].numpy()[0].astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return scores, net.blobs[parts.weights].numpy()[0].argmax(axis=1)

    def _check_goes_on(self, writer_of):
        """Raise ConfigError where words that are read one by one have other scores than those read at once.

        writer_of(steps) returns a writing net of one stream.
        """
        count = min(TRIED, self.most, self._parts.steps or TRIED)
        words = [*range(len(self.vocabularies.target))][-count:]
        found = []
        for steps in (len(words), 1):
            net = writer_of(steps)
            with net.guard(wait=True), no_grad():
                net.set_inputs(**{blob: np.ones(self._shape(net, blob)) for blob in self._parts.handed})
                net.reset_states()
                for first in range(0, len(words), steps):
                    arrays = {"target": np.array(words[first:first + steps])[:, None],
                              "target_cont": np.arange(first, first + steps)[:, None] > 0}
                    net.forward(**{blob: arrays[what] for blob, what in self._parts.targets.items()})
                found.append(net.blobs[self._parts.scores].numpy()[-1])
            net.close()
        check_alike(*found, self.writer, "words")

    def _finite(self, net, *blobs):
        for blob in blobs:
            if not np.isfinite(net.blobs[blob].numpy()).all():
                layer, name = net.first_nonfinite() or ("", blob)
                raise NonFiniteError(f"blob {name!r} of layer {layer!r} holds a NaN or infinity; was the "
                                     f"training healthy?")

    @staticmethod
    def _shape(net, blob):
        refs = [ref for ref in net.graph.shapes if ref.name == blob]
        return tuple(net.graph.shapes[max(refs, key=lambda ref: ref.version)])


class Bleu:
    """BLEU as sacrebleu computes it. tokenize: how it takes sentences apart, one of TOKENIZERS; "none" at
    blanks.

    Raises ConfigError for another one, or where sacrebleu is not installed.
    """

    TOKENIZERS = ("none", "13a", "intl", "char", "zh")      # the others fetch files

    def __init__(self, tokenize: str = "none"):
        if tokenize not in self.TOKENIZERS:
            raise ConfigError(f"BLEU knows no tokenizer {tokenize!r}{nearest(tokenize, self.TOKENIZERS)} "
                              f"(known: {', '.join(self.TOKENIZERS)})")
        try:
            from sacrebleu.metrics import BLEU
        except ImportError:
            raise ConfigError('BLEU needs the package sacrebleu; pip install "minidrop[bleu]"') from None
        self._metric = BLEU(tokenize=tokenize, force=True)

    def of(self, translations: list[str], references: list[str]) -> Any:
        """Return the score of translations, an object with `score` whose text is the line to report.

        Raises DataError unless there is a reference for each translation, and at least one.
        """
        if len(translations) != len(references) or not references:
            raise DataError(f"BLEU: expected a reference for each of the {len(translations)} translations, "
                            f"got {len(references)}; name the file that belongs to the sentences")
        return self._metric.corpus_score(translations, [references])
