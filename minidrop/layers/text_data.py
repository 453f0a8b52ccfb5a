"""TextData."""

from typing import Any

from minidrop.config import LayerParameter, decimal
from minidrop.data import (
    RandomStreams,
    Sentences,
    TextStreams,
    Vocabulary,
    find_source,
    read_text,
    read_vocabulary,
)
from minidrop.data.text import STDLIB
from minidrop.data.vocabulary import SPECIAL
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer

TOPS = ("data", "label", "cont")


@register_layer("TextData")
class TextData(DataLayer):
    """Batches of a text: token indices, the index that follows each, and optionally cont.

    All tops are (steps, batch_size): streams in order (see TextStreams), with `shuffle` from random places
    (see RandomStreams; phase TEST reads in order), or with `sentences` one sentence per stream (see
    Sentences). cont is 0 where a sequence begins, else 1. `vocabulary` maps tokens to indices.
    """

    tops = (2, 3)
    transforms = False
    token_tops = (0, 1)
    record_axes = 2        # a record is one token: record_of takes places in (steps, streams)

    @property
    def names(self) -> tuple[str, ...]:
        return TOPS[:len(self.config.top)]

    def setup(self) -> list[tuple[int, ...]]:
        settings = self.settings
        level = settings.Level.Name(settings.level)
        begin, end = decimal(settings.begin), decimal(settings.end)
        self._check(level, begin, end)
        source, vocabulary = (_found(name, self.context.config_path)
                              for name in (settings.source, settings.vocabulary))
        self.text = read_text(source, level, vocabulary, settings.vocabulary_size)
        self.vocabulary = self.text.vocabulary
        shape = streams, steps = settings.batch_size, settings.steps
        if settings.sentences:
            self.batches = Sentences(self.text.indices, self.vocabulary.eos, *shape, settings.shuffle,
                                     self.context.seed, self.name, begin, end, source)
        elif settings.shuffle and self.context.phase == "TRAIN":
            self.batches = RandomStreams(self.text.indices, *shape, self.context.seed, self.name, begin, end,
                                         source)
        else:
            self.batches = TextStreams(self.text.indices, *shape, begin, end, source)
        return [(steps, streams)] * len(self.config.top)

    @classmethod
    def read_vocabulary(cls, config: LayerParameter, path: str | None) -> Vocabulary:
        settings = config.text_data_param
        source = _found(settings.vocabulary or settings.source, path)
        return read_vocabulary(source, settings.Level.Name(settings.level), settings.vocabulary_size)

    def place_settings(self) -> dict[str, int | float]:
        settings = self.settings
        return {"batch_size": settings.batch_size, "steps": settings.steps, "begin": decimal(settings.begin),
                "end": decimal(settings.end), "sentences": settings.sentences,
                "shuffle": settings.shuffle, "tokens": len(self.text.indices)}

    def settings_for(self, other: DataLayer) -> str:
        if not isinstance(other, TextData):
            return super().settings_for(other)
        own, wanted = self.settings, other.settings
        name, remedy = wanted.vocabulary or wanted.source, []
        if own.level != wanted.level:
            remedy.append(f"level: {wanted.Level.Name(wanted.level)}")
        if own.vocabulary_size != wanted.vocabulary_size:
            remedy.append(f"vocabulary_size: {wanted.vocabulary_size}")
        if (own.vocabulary or own.source) != name or not remedy:
            remedy.insert(0, f'vocabulary: "{name}"')
        return f"{' '.join(remedy)} in its text_data_param"

    def settings_for_size(self, tokens: Any) -> str:
        level = self.vocabulary.level
        if (self.settings.vocabulary.endswith(".vocabulary") or level == "PIECE"
                or tokens <= len(SPECIAL[level])):
            return ""           # vocabulary_size cannot have that value there
        return f"vocabulary_size: {tokens} in text_data_param"

    def _check(self, level, begin, end):
        settings = self.settings
        if not settings.source:
            raise ConfigError(f"text_data_param needs a source, a text file or {STDLIB!r}")
        missing = [name for name in ("batch_size", "steps") if not getattr(settings, name)]
        if missing:
            raise ConfigError(f"text_data_param needs {' and '.join(missing)}, at least 1")
        if not 0 <= begin < end <= 1:
            raise ConfigError(f"begin and end must be shares of the text, 0 <= begin < end <= 1, got "
                              f"{begin:g} and {end:g}")
        if settings.sentences and level != "WORD":
            tokens = "characters" if level == "CHARACTER" else "pieces of words"
            raise ConfigError(f"sentences needs level: WORD; {tokens} have no <eos>")
        if level == "PIECE":
            if not settings.vocabulary:
                raise ConfigError("level: PIECE needs a vocabulary, the .json file of a tokenizer of the "
                                  "tokenizers package")
            if settings.vocabulary_size:
                raise ConfigError(f"vocabulary_size is for vocabularies made of a text; a tokenizer has its "
                                  f"own: leave it out (got {settings.vocabulary_size})")
            return
        special = SPECIAL[level]
        if 0 < settings.vocabulary_size <= len(special):
            raise ConfigError(f"vocabulary_size must be more than {len(special)} ({', '.join(special)}) or "
                              f"0, which takes all tokens, got {settings.vocabulary_size}")


def _found(source, config_path):
    """Return the path of a text, None for "", and STDLIB, the text that comes with Python, as it is."""
    return find_source(source, config_path, "text") if source not in ("", STDLIB) else source or None
