"""What a pattern is, and how families of patterns are found by name.

rate -> PatternSettings -> PatternFamily (a distribution) -> PatternSequence -> DropSite, once per iteration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from math import floor, log
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.errors import ConfigError, nearest
from minidrop.kept import Kept
from minidrop.patterns.checks import checked_length, checked_rate
from minidrop.patterns.search import entropy
from minidrop.patterns.sites import Sites
from minidrop.registry import Registry

if TYPE_CHECKING:
    from minidrop.patterns.grid import BlockGrid

SCALES, SEARCHES = ("RATE", "PATTERN"), ("EXACT", "SGD")
GROUPINGS = ("STRATIFIED", "INDEPENDENT")
OWN_SETTINGS = {"max_period": 0, "step": 0, "search": "EXACT", "tile_size": 0, "block_samples": 0,
                "block_units": 0, "groups": 0, "grouping": "STRATIFIED"}
"""The settings that only some families read, see `PatternFamily.uses`, with their defaults."""
BY_GROUPS, DEFAULT_GROUPS, MOST_GROUPS = frozenset({"groups", "grouping"}), 2, 1024
"""Those of families whose patterns can be `Pattern.moved` from group to group; how many groups then."""
MANY = 2 ** 62
"""Number of offsets of a choice whose patterns cannot be enumerated: an offset then seeds a pattern."""
_LARGEST_DENOMINATOR = 2 ** 16


@dataclass(frozen=True)
class PatternSettings:
    """What a user may say about one drop; the fields of `approx_dropout_param`.

    rate: expected share of dropped units, 0 <= rate < 1; 0 is the identity. A float32 value is read as the
    shortest decimal that gives it: 0.3 from a float32 field means 0.3, not 0.30000001.
    family: a registered name, see `known_families`.
    max_period, step, tile_size, block_samples, block_units, groups: 0 leaves the choice to the family.
    groups: into how many runs of samples a batch is cut, each with a pattern of its own. grouping: STRATIFIED
    moves one pattern on by equal parts from group to group; INDEPENDENT draws the place of each on its own.
    scale: RATE multiplies what is kept by 1 / (1 - rate) in every iteration, *even in one that drops
    nothing*: otherwise the expectation over the distribution would be wrong. PATTERN multiplies by
    1 / (kept share of the drawn pattern), which is right within each iteration.
    search: how a family with several periods finds their probabilities, see `minidrop.patterns.search`.
    Raises ConfigError.
    """

    rate: float = 0.5
    family: str = "PERIODIC"
    max_period: int = 0
    step: int = 0
    scale: str = "RATE"
    search: str = "EXACT"
    tile_size: int = 0
    block_samples: int = 0
    block_units: int = 0
    groups: int = 0
    grouping: str = "STRATIFIED"

    def __post_init__(self):
        object.__setattr__(self, "rate", checked_rate(self.rate))
        if not isinstance(self.family, str):
            raise ConfigError(f"pattern must be a name such as \"PERIODIC\", got {self.family!r}")
        for name, least in (("max_period", 2), ("step", 2), ("tile_size", 1), ("block_samples", 1),
                            ("block_units", 1), ("groups", 1)):
            object.__setattr__(self, name, checked_length(name, getattr(self, name), least))
        if self.groups > MOST_GROUPS:
            raise ConfigError(f"groups must be at most {MOST_GROUPS}, got {self.groups}; 2 or 4 serve well")
        for name, known in (("scale", SCALES), ("search", SEARCHES), ("grouping", GROUPINGS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} must be {' or '.join(known)}, got {value!r}"
                                  + (nearest(value, known) or f"; {known[0]} is the default"))

    @property
    def exact_rate(self) -> Any:
        """The rate as the fraction it stands for: 0.9 is 9/10, so (1 - rate) * 10 is exactly 1.

        The simplest fraction that rounds to this float, say 2 / 3; failing that, its decimal form.
        """
        spelt = Fraction(repr(self.rate))
        simple = spelt.limit_denominator(_LARGEST_DENOMINATOR)
        return simple if float(simple) == self.rate else spelt


@dataclass(frozen=True)
class Pattern(ABC):
    """One regular way of dropping, for one iteration.

    rate: share of units it drops; scale: what kept values are multiplied by. drops: "units"; "weights" of one
    product; or "blocks" of activations, each a group of samples by a run of units. A pattern of weights also
    has `tiles` and `weight_mask`, one of blocks `groups` and, if its kernels are to be used, `grid`.
    """

    rate: float
    scale: float
    drops: str = field(default="units", kw_only=True)

    @abstractmethod
    def kept(self, total: int) -> Kept:
        """Return the Kept of an axis of length `total`; it may be empty where `total` is short.

        For blocks: of the first group of samples. For weights: of the units, if no product precedes the drop.
        """

    def tiles(self, outputs: int, inputs: int) -> tuple[tuple[Kept, Kept], ...]:
        """Return pairs of Kept that share no output and no input, each one compact product."""
        raise NotImplementedError

    def weight_mask(self, outputs: int, inputs: int) -> np.ndarray:
        """Return `tiles` as a dense 0/1 array, which the oracle compares with."""
        raise NotImplementedError

    def groups(self, samples: int, total: int) -> Any:
        """Return (first, last, Kept) for samples first .. last - 1, covering all samples in order."""
        raise NotImplementedError

    def grid(self, samples: int, total: int) -> BlockGrid:
        """Return `groups` as the BlockGrid of activations (samples, total)."""
        raise NotImplementedError

    def moved(self, share: Fraction) -> Pattern:
        """Return the pattern of units moved on by a share of its period, 0 <= share < 1: equally likely."""
        raise NotImplementedError


@dataclass(frozen=True)
class RegularPattern(Pattern):
    """Keep `width` units of every `step`: unit i lives iff (i - start) mod step < width, 0 <= start < step.

    The run that begins at `start` wraps around, so with `start` uniform every unit of an axis of *any* length
    lives with probability exactly width / step. The price: an axis shorter than `step` may keep no unit at
    all in some iterations, so a count of 0 is legal; `PatternFamily.fitted` avoids such patterns.
    """

    start: int
    step: int
    width: int

    def kept(self, total: int) -> Kept:
        """Return the Kept of an axis of length `total`; recent ones are shared, index arrays included."""
        return _regular_kept(self.start, self.step, self.width, total)

    def moved(self, share: Fraction) -> RegularPattern:
        return replace(self, start=(self.start + floor(share * self.step)) % self.step)


@lru_cache(maxsize=64)
def _regular_kept(start, step, width, total):
    if width == step:
        return Kept.all(total)
    return Kept(start if start + width <= step else start - step, step, width, total)


@dataclass(frozen=True, eq=False)
class PatternDistribution:
    """The choices of a family, how often each is drawn, and the expected drop rate that follows."""

    choices: tuple
    probabilities: Any      # anything that makes an array
    rate: float

    def __post_init__(self):
        probabilities = np.array(self.probabilities, dtype=np.float64)
        if not (self.choices and probabilities.shape == (len(self.choices),) and (probabilities >= 0).all()
                and abs(probabilities.sum() - 1) < 1e-9):
            raise ValueError(f"{len(self.choices)} choices need as many probabilities, of sum 1; "
                             f"got {probabilities}")
        probabilities.flags.writeable = False
        object.__setattr__(self, "probabilities", probabilities)


class PatternFamily(ABC):
    """All patterns of one name for given settings. A subclass says what the choices are and what each draws.

    Drawing takes two steps: a choice from the distribution (say the period), then one of its
    `offsets(choice)` equally likely offsets. So patterns can be enumerated, unless a choice has MANY offsets.
    """

    name: str = ""
    drops: str = "units"
    uses: frozenset[str] = frozenset()      # which of OWN_SETTINGS this family reads
    scales: tuple[str, ...] = SCALES

    def __init__(self, settings: PatternSettings):
        self.settings = settings
        if settings.scale not in self.scales:
            raise ConfigError(f"pattern {self.name} has no scale {settings.scale}, only "
                              f"{' and '.join(self.scales)}; remove scale, or set pattern to another")
        for name, untouched in OWN_SETTINGS.items():
            value = getattr(settings, name)
            if name not in self.uses and value != untouched:
                able = [other for other in known_families() if name in _families.get(other).uses]
                raise ConfigError(f"pattern {self.name} has no {name}, got {name}: {value}; remove it"
                                  + (f", or set pattern to {' or '.join(able)}" if able else ""))
        self.distribution = self.build_distribution()

    @abstractmethod
    def build_distribution(self) -> PatternDistribution:
        """Return the PatternDistribution of `self.settings`. Raises ConfigError if they cannot be met."""

    @abstractmethod
    def offsets(self, choice: Any) -> int:
        """Return how many equally likely offsets a choice has."""

    @abstractmethod
    def pattern(self, choice: Any, offset: int) -> Pattern:
        """Return the Pattern of a choice and an offset in 0 .. offsets(choice) - 1."""

    @abstractmethod
    def describe(self, choice: Any) -> str:
        """Return a few words for tables, e.g. "1 of 3"."""

    @property
    def groups(self) -> int:
        """The number of runs of samples that a batch is cut into, each with a pattern of its own."""
        return self.settings.groups or (DEFAULT_GROUPS if self.uses >= BY_GROUPS else 1)

    @property
    def enumerable(self) -> bool:
        """True if all patterns can be listed, choice by choice and offset by offset."""
        return all(self.offsets(choice) < MANY for choice in self.distribution.choices)

    def submodels(self, total: int) -> Any:
        """Return the number of different kept sets of an axis of length `total`.

        Counted by listing them; None for a family that is not enumerable and does not override this.
        """
        if not self.enumerable:
            return None
        drawn = zip(self.distribution.choices, self.distribution.probabilities, strict=True)
        return len({self.pattern(choice, offset).kept(total) for choice, probability in drawn
                    if probability > 0 for offset in range(self.offsets(choice))})

    def pattern_entropy(self, total: int) -> Any:
        """Return the entropy, in nats, of the draw on an axis of length `total`: H(choices) + E[log offsets].

        Patterns that coincide on a short axis count separately. None as for `submodels`.
        """
        if not self.enumerable:
            return None
        probabilities, choices = self.distribution.probabilities, self.distribution.choices
        return entropy(probabilities) + float(
            probabilities @ [log(self.offsets(choice)) for choice in choices])

    def suited(self, total: int, even: bool = False) -> PatternFamily:
        """Return the family with its choices made for an axis of `total`, or several in a row (`even`)."""
        return self

    def fitted(self, total: int, even: bool = False) -> PatternFamily:
        """Return the family for an axis of length `total`: none of its patterns drops the whole axis.

        That is the `suited` one, or one of the same name with the settings that `fit` returns. Its rate is at
        most 1 - 1 / total, which keeps one unit.
        """
        settings = self.suited(total, even).settings
        if total and settings.rate > (total - 1) / total:
            settings = replace(settings, rate=(total - 1) / total)
        return get_family(self.fit(settings, total) if settings.rate else settings)

    def fit(self, settings: PatternSettings, total: int) -> PatternSettings:
        """Return settings of the same rate under which every pattern keeps some of `total` units.

        settings.rate is above 0 and at most 1 - 1 / total. A family whose patterns may be longer than the
        axis shortens them here.
        """
        return settings

    def check_total(self, total: int) -> None:  # noqa: B027  (most families fit any axis)
        """Raise ConfigError if the settings make no sense on an axis of length `total`."""

    def check_weights(self, outputs: int, inputs: int) -> None:  # noqa: B027
        """Raise ConfigError if the settings make no sense for dropping weights (outputs, inputs)."""

    def sites(self, units: int, inputs: int | None = None) -> Any:
        """Return the Sites of an axis of `units`, or of weights (units, inputs), for `minidrop patterns`.

        Single units (for blocks, those of the first group of samples) or single weights. A family that drops
        coarser pieces overrides this and `live`: fewer sites are faster to examine.
        """
        if self.drops == "weights":
            return Sites("weights", self.drops, units, inputs or units)
        return Sites("units", self.drops, units)

    def live(self, pattern: Any, sites: Any) -> Any:
        """Return a bool array (sites.count,): which `sites` live under a pattern of this family."""
        if self.drops == "weights":
            return np.asarray(pattern.weight_mask(sites.units, sites.inputs)).astype(bool, copy=False).ravel()
        return pattern.kept(sites.units).mask(bool)

    def draw(self, choice: Any, rng: Any) -> Any:
        """Return the Pattern of a choice at an offset drawn from `rng`."""
        return self.pattern(choice, int(rng.integers(self.offsets(choice))))

    def scale_of(self, kept_share: Any) -> float:
        """Return the scale of a pattern that keeps `kept_share`, as the settings ask.

        RATE uses the rate that the distribution reaches, which SGD search makes slightly different from the
        one asked for.
        """
        return 1 / kept_share if self.settings.scale == "PATTERN" else 1 / (1 - self.distribution.rate)

    def regular(self, start: int, step: int, width: int) -> Pattern:
        """Return a RegularPattern, scaled as the settings ask."""
        return RegularPattern((step - width) / step, self.scale_of(width / step), start, step, width,
                              drops=self.drops)


_families: Registry[type[PatternFamily]] = Registry("pattern", "name")


def register_pattern(name: str) -> Callable:
    """Return a class decorator that registers a PatternFamily as `name`, for configs and the command line."""
    return _families.register(name)


def known_families() -> list[str]:
    """Return the registered names, sorted."""
    return _families.names()


def find_family(name: str) -> type:
    """Return the PatternFamily class registered under a name, in any case. ConfigError if it is unknown."""
    return _families.get(name, any_case=True)


@lru_cache(maxsize=128)
def get_family(settings: PatternSettings) -> PatternFamily:
    """Return the PatternFamily of PatternSettings, built once and then shared: families are immutable.

    Names in settings are case-sensitive. Raises ConfigError for an unknown family or settings it cannot meet.
    """
    return _families.get(settings.family)(settings)
