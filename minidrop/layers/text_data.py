"""TextData."""

from minidrop.config import decimal
from minidrop.data import Sentences, TextStreams, find_source, read_text
from minidrop.data.text import STDLIB
from minidrop.data.vocabulary import SPECIAL
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer

TOPS = ("data", "label", "cont")


@register_layer("TextData")
class TextData(DataLayer):
    """Batches of a text: token indices, the index that follows each, and (third top) cont, all (steps,
    batch_size).

    Streams (see TextStreams), or with `sentences` one sentence in every stream (see Sentences). cont is 0
    where a sequence begins and 1 where it goes on. `vocabulary` says which token has which index.
    """

    tops = (2, 3)
    record_axes = 2        # a record is one token: record_of wants places in (steps, streams)

    @property
    def names(self):
        return TOPS[:len(self.config.top)]

    def setup(self):
        settings = self.settings
        level = settings.Level.Name(settings.level)
        begin, end = decimal(settings.begin), decimal(settings.end)
        self._check(level, begin, end)
        source, vocabulary = (self._find(name) for name in (settings.source, settings.vocabulary))
        self.text = read_text(source, level, vocabulary, settings.vocabulary_size)
        shape = streams, steps = settings.batch_size, settings.steps
        if settings.sentences:
            self.batches = Sentences(self.text.indices, self.vocabulary.eos, *shape, settings.shuffle,
                                     self.context.seed, self.name, begin, end, source)
        else:
            self.batches = TextStreams(self.text.indices, *shape, begin, end, source)
        return [(steps, streams)] * len(self.config.top)

    @property
    def vocabulary(self):
        """The Vocabulary: which token has which index."""
        return self.text.vocabulary

    def _find(self, source):
        if not source or source == STDLIB:
            return source or None
        return find_source(source, self.context.config_path, "text")

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
            raise ConfigError("sentences needs level: WORD; characters have no <eos>")
        if settings.shuffle and not settings.sentences:
            raise ConfigError("shuffle is for sentences; streams go on from batch to batch: leave it out, or "
                              "add sentences: true")
        special = SPECIAL[level]
        if 0 < settings.vocabulary_size <= len(special):
            raise ConfigError(f"vocabulary_size must be more than {len(special)} ({', '.join(special)}) or "
                              f"0, which takes all tokens, got {settings.vocabulary_size}")
