"""ParallelTextData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop.config import LayerParameter
from minidrop.data import ParallelBatches, VocabularyPair, find_source, read_lines, read_sentence_vocabulary
from minidrop.data.parallel import TOPS
from minidrop.data.sentences import is_made
from minidrop.errors import ConfigError
from minidrop.layers.base import register_layer
from minidrop.layers.data_layer import DataLayer

if TYPE_CHECKING:
    from minidrop.data.sentences import SentenceVocabulary

SIDES = ("source", "target")


@register_layer("ParallelTextData")
class ParallelTextData(DataLayer):
    """Batches of pairs of sentences: source and its mask, target, label, and optionally both conts.

    Those of the source are (places, batch_size), those of the target (steps, batch_size); see
    ParallelBatches. A batch is as long as its longest sentences, and the shapes that the net is built for are
    the largest. `vocabulary` holds those of both languages.
    """

    batches: ParallelBatches
    tops = (4, 6)
    record_axes = 2        # record_of takes places in (steps, streams)
    varies = True
    transforms = False

    @property
    def names(self) -> tuple[str, ...]:
        return TOPS[:len(self.config.top)]

    def setup(self) -> list[tuple[int, ...]]:
        settings = self.settings
        missing = [name for name in ("source", "target", "batch_size", "source_steps", "target_steps")
                   if not getattr(settings, name)]
        if missing:
            raise ConfigError(f"parallel_text_data_param needs {', '.join(missing)}")
        if settings.target_steps < 2:
            raise ConfigError("parallel_text_data_param: target_steps must be at least 2: a word, and the "
                              "end of the sentence")
        least = {side: getattr(settings, f"{side}_min_count") for side in SIDES}
        for side in (side for side in SIDES if not least[side]):
            raise ConfigError(f"parallel_text_data_param: {side}_min_count must be at least 1, got 0")
        path = self.context.config_path
        source, target = (read_lines(_found(getattr(settings, side), path, side)) for side in SIDES)
        self.vocabulary = self.read_vocabulary(self.config, path)
        most = settings.source_steps, settings.target_steps
        self.batches = ParallelBatches(source, target, self.vocabulary, settings.batch_size, most,
                                       settings.too_long == settings.LEAVE_OUT,
                                       settings.shuffle and self.training, settings.pool, self.context.seed,
                                       self.name)
        sides = (0, 0, 1, 1, 0, 1)[:len(self.config.top)]
        return [(most[side], settings.batch_size) for side in sides]

    @classmethod
    def read_vocabulary(cls, config: LayerParameter, path: str | None) -> VocabularyPair:
        settings = config.parallel_text_data_param
        found = []
        for side in SIDES:
            name = getattr(settings, f"{side}_vocabulary")
            field = f"{side}_vocabulary" if name else side
            source = _found(name or getattr(settings, side), path, field)
            found.append(read_sentence_vocabulary(source, getattr(settings, f"{side}_min_count")))
        return VocabularyPair(*found)

    def vocabulary_at(self, top: int) -> SentenceVocabulary | None:
        name = TOPS[top]
        return {"source": self.vocabulary.source, "target": self.vocabulary.target,
                "label": self.vocabulary.target}.get(name)

    def place_settings(self) -> dict[str, int | float]:
        settings = self.settings
        own = {name: getattr(settings, name) for name in ("batch_size", "source_steps", "target_steps",
                                                          "too_long", "shuffle", "pool")}
        return {**own, "pairs": len(self.batches)}

    def settings_for(self, other: Any) -> str:
        if not isinstance(other, ParallelTextData):
            return super().settings_for(other)
        wanted, remedy = other.settings, []
        for side in SIDES:
            name = getattr(wanted, f"{side}_vocabulary") or getattr(wanted, side)
            remedy.append(f'{side}_vocabulary: "{name}"')
            least = getattr(wanted, f"{side}_min_count")
            if least != getattr(self.settings, f"{side}_min_count"):
                remedy.append(f"{side}_min_count: {least}")
        return f"{' '.join(remedy)} in its parallel_text_data_param"


def _found(name, config_path, field):
    """Return where the text or vocabulary of a field is; made sentences are nowhere."""
    return name if is_made(name) else find_source(name, config_path, "text", field)
