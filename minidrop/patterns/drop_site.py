"""DropSite: the place where one layer drops. It draws, and keeps nothing of what it drew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop.errors import ConfigError, ShapeError
from minidrop.kept import KeptByGroup
from minidrop.patterns.base import get_family
from minidrop.patterns.draw import Blocks, Steps, Units, Weights
from minidrop.patterns.sequence import PatternSequence

if TYPE_CHECKING:
    from minidrop.patterns.base import PatternSettings
    from minidrop.patterns.draw import Draw


class DropSite:
    """The place where one layer drops: what its patterns depend on, and `draw`.

    layer_name, seed: what the sequence of patterns depends on, besides the settings. total: length of the
    dropped axis, once shapes are known. steps: None if a pattern holds for all steps of the batch; otherwise
    the number of steps of a sequence, each with a pattern of its own; streams: the number of such sequences.
    heads: the axis is that many runs, one after the other, which keep the same of their entries, or with
    `whole_heads` are kept or dropped as they are. entries: the number that a pattern is drawn for; runs: how
    many units of the axis each stands for.
    """

    def __init__(self, layer_name: str, settings: PatternSettings, seed: int, total: int | None = None):
        self.layer_name, self.settings, self.seed = layer_name, settings, seed
        self.total, self.steps, self.streams, self.entries = total, None, 0, total
        self.heads, self.runs = 1, 1
        self.family = get_family(settings)
        self.sequence = PatternSequence(self.family, seed, layer_name)

    def shape(self, total: int, steps: Any = None, heads: int = 1, whole_heads: bool = False,
              streams: int = 0) -> None:
        """Set the length of the dropped axis and the numbers of steps and streams, and fit the family to
        them.

        Raises ConfigError if the axis is too short, or is no whole number of heads.
        """
        asked = get_family(self.settings)
        if heads > 1 and asked.drops != "units":
            raise ConfigError(f"heads needs a pattern of units, got {asked.name}, which drops {asked.drops}; "
                              f"remove heads, or set pattern to PERIODIC")
        if heads < 1 or total % heads:
            raise ConfigError(f"an axis of {total} units is no whole number of heads, got heads: {heads}")
        entries = heads if whole_heads else total // heads
        asked.check_total(entries)
        self.family = asked.fitted(entries, even=not whole_heads and heads > 1)
        self.sequence = PatternSequence(self.family, self.seed, self.layer_name)
        self.total, self.steps, self.streams, self.entries = total, steps, streams, entries
        self.heads, self.runs = (1, total // heads) if whole_heads else (heads, 1)

    @property
    def adapted(self) -> str:
        """What `shape` changed so that no iteration drops the whole axis; "" if nothing."""
        asked = get_family(self.settings).suited(self.entries or 0, even=self.heads > 1)
        rate = self.family.settings.rate
        if self.family is asked:
            return ""
        what = "unit" if self.runs == 1 else "head"
        units = f"{self.entries} {what}{'s' * (self.entries != 1)}" + " a head" * (self.heads > 1)
        if rate != self.settings.rate:
            return (f"drops at rate {rate:.6g}, not {self.settings.rate:g}: one of its {units} lives in "
                    f"every iteration")
        return (f"keeps {_described(self.family)}, not {_described(asked)}: it has {units}, and no iteration "
                f"drops all")

    def draw(self, iteration: int) -> Draw:
        """Return the Draw of an iteration: a function of the seed and `iteration` alone."""
        if self.total is None:
            raise ShapeError(f"layer {self.layer_name!r}: the length of the dropped axis is not known yet; "
                             f"call DropSite.shape before drawing")
        if self.steps is not None:
            first = iteration * self.steps
            patterns = [self.sequence.groups_at(first + t) for t in range(self.steps)]
            return Steps(patterns[0][0], self.total, patterns[0][0].scale, None,
                         tuple(map(self._kept, patterns)), self.layer_name, self.streams)
        if self.family.drops == "units":
            patterns = self.sequence.groups_at(iteration)
            return Units(patterns[0], self._kept(patterns), patterns[0].scale)
        pattern, kind = self.sequence.at(iteration), self.family.drops
        return (Weights(pattern, pattern.scale) if kind == "weights"
                else Blocks(pattern, self.total, pattern.scale))

    def _kept(self, patterns):
        """Return what patterns, one for each group of samples, keep."""
        sets = [pattern.kept(self.entries).spread(self.runs).repeated(self.heads) for pattern in patterns]
        return sets[0] if len(sets) == 1 else KeptByGroup(sets)

    @property
    def kind(self) -> str:
        """What a product must be able to leave out for this site: "units", "weights" or "blocks"."""
        return self.family.drops if self.steps is None else "blocks"

    @property
    def groups(self) -> int:
        """The number of groups of samples that drop other units each."""
        return self.family.groups

    def pays(self, backend: Any, rows: int, calls: int = 1) -> bool:
        """Whether skipping what is dropped makes a product of `rows` rows, done in `calls` calls, faster.

        One pattern for all steps always pays. If each step has its own, the rows that share a pattern must be
        worth a product.
        """
        if self.steps is None:
            return True
        kept_share = 1 - self.family.distribution.rate
        if calls == 1:
            rows /= expected_patterns(self.family, self.steps * self.groups)
        else:
            rows /= self.groups
        return backend.pays(rows, kept_share, calls)

    def __repr__(self):
        return f"DropSite({self.layer_name!r}, {self.settings}, total={self.total})"


def expected_patterns(family: Any, draws: int) -> float:
    """Return the expected number of different patterns among `draws` draws."""
    if not family.enumerable:
        return draws
    found = 0.0
    for choice, share in zip(family.distribution.choices, family.distribution.probabilities, strict=True):
        offsets = family.offsets(choice)
        found += offsets * (1 - (1 - share / offsets) ** draws)
    return max(1.0, found)


def _described(family):
    choices = family.distribution.choices
    return " to ".join(dict.fromkeys(family.describe(choice) for choice in (choices[0], choices[-1])))
