"""DropSite: the place where one layer drops. It draws, and keeps nothing of what it drew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minidrop.errors import ShapeError
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
    the number of steps of a sequence, each with a pattern of its own.
    """

    def __init__(self, layer_name: str, settings: PatternSettings, seed: int, total: int | None = None):
        self.layer_name, self.settings, self.seed = layer_name, settings, seed
        self.total, self.steps = total, None
        self.family = get_family(settings)
        self.sequence = PatternSequence(self.family, seed, layer_name)

    def shape(self, total: int, steps: Any = None) -> None:
        """Set the length of the dropped axis and the number of steps, and fit the family to them.

        Raises ConfigError if the axis is too short.
        """
        asked = get_family(self.settings)
        asked.check_total(total)
        self.family = asked.fitted(total)
        self.sequence = PatternSequence(self.family, self.seed, self.layer_name)
        self.total, self.steps = total, steps

    @property
    def adapted(self) -> str:
        """What `shape` changed so that no iteration drops the whole axis; "" if nothing."""
        asked, rate = get_family(self.settings).suited(self.total or 0), self.family.settings.rate
        if self.family is asked:
            return ""
        units = f"{self.total} unit{'s' * (self.total != 1)}"
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
                         tuple(map(self._kept, patterns)), self.layer_name)
        if self.family.drops == "units":
            patterns = self.sequence.groups_at(iteration)
            return Units(patterns[0], self._kept(patterns), patterns[0].scale)
        pattern, kind = self.sequence.at(iteration), self.family.drops
        return (Weights(pattern, pattern.scale) if kind == "weights"
                else Blocks(pattern, self.total, pattern.scale))

    def _kept(self, patterns):
        """Return what patterns, one for each group of samples, keep."""
        sets = [pattern.kept(self.total) for pattern in patterns]
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
