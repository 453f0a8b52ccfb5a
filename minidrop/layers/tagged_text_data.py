"""TaggedTextData."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from minidrop.config import LayerParameter, decimal
from minidrop.data import Encoded, TaggedSentences, TaggedVocabulary, find_source, read_tagged
from minidrop.data.made_tags import MADE
from minidrop.data.tag_schemes import SCHEMES
from minidrop.data.vocabulary import check_uncounted
from minidrop.errors import ConfigError, DataError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer

log = logging.getLogger(__name__)

STEPS = 32                 # of the shapes of a net that tags sentences which are not known yet
TOPS = ("words", "tags", "cont", "characters", "character_cont", "character_mask")


@register_layer("TaggedTextData")
class TaggedTextData(DataLayer):
    """Batches of tagged sentences: words, tags, and optionally cont and the characters of the words.

    The tops, in this order: words, tags, cont (T, N); characters, character_cont, character_mask (L, T * N).
    See TaggedSentences for what they hold. T and L differ from batch to batch: those of a net's shapes are
    the largest. A pass has each sentence once; phase TEST reads in the order of the file. `vocabulary` maps
    words, characters and tags to numbers.
    """

    tops = (2, len(TOPS))
    record_axes = 2        # a record is one token: record_of takes places in (steps, streams)
    varies = True
    transforms = False
    vocabulary: Any
    encoded: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        return TOPS[:len(self.config.top)]

    def setup(self) -> list[tuple[int, ...]]:
        settings = self.settings
        rate = self._checked_rate()
        given = self.context.handed.get(self.name)
        if given is not None:       # a Tagger's vocabulary: sentences come later, through `read_from`
            self.vocabulary = given
            self.read_from(TaggedSentences(Encoded.of_sentences(given, []), settings.batch_size))
            return self._shapes(settings.steps or STEPS, settings.most_characters)
        self.vocabulary = self.read_vocabulary(self.config, self.context.config_path)
        text = _read(settings, settings.source, self.context.config_path)
        self.encoded = Encoded.of_text(self.vocabulary, text, settings.most_characters)
        streams, longest = settings.batch_size, int(self.encoded.lengths.max())
        steps = settings.steps if self.training else 0
        if 0 < steps < longest:
            cut = int(np.count_nonzero(self.encoded.lengths > steps))
            log.info("layer %r: %d of %d sentences are longer than %d tokens; of these so many are read",
                     self.name, cut, len(self.encoded), steps)
        self.batches = TaggedSentences(self.encoded, streams, settings.shuffle and self.training,
                                       self.context.seed, self.name, rate if self.training else 0.0, steps,
                                       text)
        return self._shapes(min(steps or longest, longest), self.encoded.spelled.shape[1])

    def _shapes(self, steps, letters):
        tokens, streams = steps * self.settings.batch_size, self.settings.batch_size
        return [(steps, streams)] * min(3, len(self.names)) + [(letters, tokens)] * (len(self.names) - 3)

    @classmethod
    def read_vocabulary(cls, config: LayerParameter, path: str | None) -> Any:
        settings = config.tagged_text_data_param
        source, scheme = settings.vocabulary or settings.source, SCHEMES[settings.scheme]
        if not source.endswith(".vocabulary"):
            return TaggedVocabulary.of(_read(settings, source, path), scheme, settings.digits_to_zero,
                                       settings.lower_case, settings.minimum_count)
        found = find_source(source, path, "text", "vocabulary")
        check_uncounted(found, settings.minimum_count)
        vocabulary = TaggedVocabulary.load(found)
        for name, own, wanted in (("scheme", scheme, vocabulary.tags.scheme),
                                  ("digits_to_zero", settings.digits_to_zero, vocabulary.digits_to_zero),
                                  ("lower_case", settings.lower_case, vocabulary.lower_case)):
            if own != wanted:
                raise DataError(f"{found}: was made with {name}: {str(wanted)}, but the layer has "
                                f"{str(own)}; change the layer, or name another vocabulary")
        return vocabulary

    def read_from(self, batches: TaggedSentences) -> None:
        """Read these batches, numbered by the same vocabulary, from number 0 on."""
        self.batches = batches
        self.seek(0)

    def vocabulary_at(self, top: int) -> Any:
        return {"words": self.vocabulary.words, "tags": self.vocabulary.tags,
                "characters": self.vocabulary.characters}.get(self.names[top])

    def place_settings(self) -> dict[str, int | float]:
        settings = self.settings
        sentences = len(self.encoded) if self.encoded is not None else 0
        return {"batch_size": settings.batch_size, "shuffle": settings.shuffle, "sentences": sentences}

    def settings_for(self, other: DataLayer) -> str:
        if not isinstance(other, TaggedTextData):
            return super().settings_for(other)
        own, wanted, name = self.settings, other.settings, "tagged_text_data_param"
        same = [f"{field}: {getattr(wanted, field)}".lower()
                for field in ("word_column", "digits_to_zero", "lower_case", "minimum_count")
                if getattr(own, field) != getattr(wanted, field)]
        if own.scheme != wanted.scheme:
            same.append(f"scheme: {SCHEMES[wanted.scheme]}")
        source = wanted.vocabulary or wanted.source
        if (own.vocabulary or own.source) != source or not same:
            same.insert(0, f'vocabulary: "{source}"')
        return f"{' '.join(same)} in its {name}"

    def _checked_rate(self):
        """Return unknown_rate. Raises ConfigError for settings that are none."""
        settings = self.settings
        if not settings.source:
            raise ConfigError(f"tagged_text_data_param needs a source, a file with a token a line, or "
                              f"{' or '.join(map(repr, MADE))}")
        if not settings.batch_size:
            raise ConfigError("tagged_text_data_param needs batch_size, at least 1")
        if not settings.most_characters:
            raise ConfigError("tagged_text_data_param: most_characters must be at least 1, got 0")
        if settings.word_column == settings.tag_column:
            raise ConfigError(f"tagged_text_data_param: word_column and tag_column are both "
                              f"{settings.tag_column}; a token and its tag have a column each")
        rate = decimal(settings.unknown_rate)
        if not 0 <= rate <= 1:
            raise ConfigError(f"tagged_text_data_param: unknown_rate must lie in [0, 1], got {rate:g}")
        if rate and settings.minimum_count > 1:
            raise ConfigError(f"tagged_text_data_param: minimum_count: {settings.minimum_count} reads each "
                              f"word that occurs once as <unk>, so unknown_rate: {rate:g} changes nothing; "
                              f"remove one of them")
        return rate


def _read(settings, source, path):
    """Return the TaggedText of a source."""
    found = source if source in MADE else find_source(source, path, "text")
    return read_tagged(found, settings.word_column, settings.tag_column)
