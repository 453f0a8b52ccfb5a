"""DropSite: the place where one layer drops. It draws, and keeps nothing of what it drew."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from minidrop.errors import ConfigError, ShapeError
from minidrop.kept import KeptByGroup
from minidrop.patterns.base import get_family
from minidrop.patterns.draw import Blocks, Steps, Units, Weights
from minidrop.patterns.sequence import PatternSequence, moved

if TYPE_CHECKING:
    from minidrop.patterns.base import PatternSettings
    from minidrop.patterns.draw import Draw


class DropSite:
    """The place where one layer drops: what its patterns depend on, and `draw`.

    layer_name, seed: what the sequence of patterns depends on, besides the settings. total: length of the
    dropped axis, once shapes are known. steps: None if a pattern holds for all steps of the batch; otherwise
    the number of steps of a sequence, of which each `held` have a pattern of their own. heads: the axis is
    that many runs, one after the other, which keep the same of their entries, or with `whole_heads` are kept
    or dropped as they are. entries: the number that a pattern is drawn for; runs: how many units of the axis
    each stands for.
    """

    def __init__(self, layer_name: str, settings: PatternSettings, seed: int, total: int | None = None):
        self.layer_name, self.settings, self.seed = layer_name, settings, seed
        self.total, self.steps, self.entries = total, None, total
        self.heads, self.runs, self.held = 1, 1, 1
        self.family = get_family(settings)
        self.sequence = PatternSequence(self.family, seed, layer_name)

    def shape(self, total: int, steps: Any = None, heads: int = 1, whole_heads: bool = False,
              held: int = 1) -> None:
        """Set the length of the dropped axis and the number of steps, and fit the family to them.

        Raises ConfigError if the axis is too short, or is no whole number of heads, or if whole heads are to
        be dropped of a single one.
        """
        asked = get_family(self.settings)
        if heads > 1 and asked.drops != "units":
            raise ConfigError(f"heads needs a pattern of units, got {asked.name}, which drops {asked.drops}; "
                              f"remove heads, or set pattern to PERIODIC")
        if heads < 1 or total % heads:
            raise ConfigError(f"an axis of {total} units is no whole number of heads, got heads: {heads}")
        if whole_heads and heads == 1:
            raise ConfigError("whole_heads drops some of several heads, got heads: 1; set heads to their "
                              "number, or remove whole_heads")
        entries = heads if whole_heads else total // heads
        asked.check_total(entries)
        self.family = asked.fitted(entries, even=not whole_heads and heads > 1)
        self.sequence = PatternSequence(self.family, self.seed, self.layer_name)
        self.total, self.steps, self.held, self.entries = total, steps, held, entries
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
            first = iteration * self.draws
            patterns = [self.sequence.groups_at(first + i) for i in range(self.draws)]
            kept = tuple(_kept_of(one, self.entries, self.runs, self.heads) for one in patterns)
            return Steps(patterns[0][0], self.total, patterns[0][0].scale, None, kept, self.layer_name,
                         self.steps, self.held)
        if self.family.drops == "units":
            sizes = self.entries, self.runs, self.heads
            if self.sequence.recurs:
                return _recurring(self.family, *self.sequence.drawn_at(iteration), *sizes)
            return _units(self.sequence.groups_at(iteration), *sizes)
        pattern, kind = self.sequence.at(iteration), self.family.drops
        return (Weights(pattern, pattern.scale) if kind == "weights"
                else Blocks(pattern, self.total, pattern.scale))

    @property
    def draws(self) -> int:
        """How many times an iteration draws, for all groups of samples at once: for each run of steps."""
        return 1 if self.steps is None else -(-self.steps // self.held)

    @property
    def kind(self) -> str:
        """What a product must be able to leave out for this site: "units", "weights" or "blocks"."""
        return self.family.drops if self.steps is None else "blocks"

    @property
    def groups(self) -> int:
        """The number of groups of samples that drop other units each."""
        return self.family.groups

    def pays(self, backend: Any, rows: float, calls: int = 1) -> bool:
        """Whether skipping what is dropped makes a product of `rows` rows faster, which `calls` calls do.

        rows: of all calls together. One pattern for all steps always pays. Otherwise the rows that share a
        pattern must be worth a product, or with several calls the gathers of the weights that they read.
        """
        if self.steps is None:
            return True
        if calls == 1:
            return self._pays(backend, rows / expected_patterns(self.family, self.draws * self.groups))
        split = rows / calls / self.groups if self.groups > 1 else 0
        return self._pays(backend, rows / (self.draws * self.groups), calls, split)

    def parts_gradient(self, backend: Any, rows: float) -> bool:
        """Whether the gradient of weights that every step reads is a product for each pattern, not for all.

        rows: of all steps together. The groups of samples have a gradient each anyway. Patterns of a single
        step never have one.
        """
        if self.steps is None or self.held == 1:
            return False
        patterns = expected_patterns(self.family, self.draws) * self.groups
        return self.draws == 1 or self._pays(backend, rows / patterns)

    def _pays(self, backend, rows, calls=1, split=0.0):
        return backend.pays(rows, 1 - self.family.distribution.rate, calls, self.held, split)

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


def _kept_of(patterns, entries, runs, heads):
    """Return what patterns, one for each group of samples, keep."""
    sets = [pattern.kept(entries).spread(runs).repeated(heads) for pattern in patterns]
    return sets[0] if len(sets) == 1 else KeptByGroup(sets)


def _units(patterns, entries, runs, heads):
    return Units(patterns[0], _kept_of(patterns, entries, runs, heads), patterns[0].scale)


@lru_cache(maxsize=128)
def _recurring(family, choice, offset, entries, runs, heads):
    """Return the Units of a choice (its number) and an offset: one object, whose sets keep their arrays."""
    pattern = family.pattern(family.distribution.choices[choice], offset)
    return _units(moved(pattern, family.groups), entries, runs, heads)


def _described(family):
    choices = family.distribution.choices
    return " to ".join(dict.fromkeys(family.describe(choice) for choice in (choices[0], choices[-1])))
