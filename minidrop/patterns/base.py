"""What a pattern is, how families of patterns are found by name, and the site where one layer drops.

rate -> PatternSettings -> PatternFamily (a distribution) -> PatternSequence -> DropSite, once per iteration.
"""

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from numbers import Real

import numpy as np

from minidrop.errors import ConfigError, ShapeError, nearest
from minidrop.kept import Kept
from minidrop.patterns.sequence import PatternSequence

SCALES = ("RATE", "PATTERN")
SEARCHES = ("EXACT", "SGD")


@dataclass(frozen=True)
class PatternSettings:
    """What a user may say about one drop; the fields of `approx_dropout_param`.

    rate: expected share of dropped units, 0 <= rate < 1; 0 is the identity. A value that float32 holds
    exactly is taken for the decimal a user wrote: 0.3 out of a float32 field means 0.3, not 0.30000001.
    family: a registered name, see `known_families`.
    max_period, step: 0 leaves the choice to the family.
    scale: RATE multiplies what is kept by 1 / (1 - rate) in every iteration, *also in one that drops
    nothing*: only so is the expectation over the distribution right. PATTERN multiplies by 1 / (kept share of
    the drawn pattern), right within each iteration.
    search: how a family with several periods finds their probabilities, see `minidrop.patterns.search`.
    Raises ConfigError.
    """

    rate: float = 0.5
    family: str = "PERIODIC"
    max_period: int = 0
    step: int = 0
    scale: str = "RATE"
    search: str = "EXACT"

    def __post_init__(self):
        object.__setattr__(self, "rate", _checked_rate(self.rate))
        if not isinstance(self.family, str):
            raise ConfigError(f"pattern must be a name such as \"PERIODIC\", got {self.family!r}")
        for name in ("max_period", "step"):
            object.__setattr__(self, name, _checked_period(name, getattr(self, name)))
        for name, known in (("scale", SCALES), ("search", SEARCHES)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"{name} must be {' or '.join(known)}, got {value!r}"
                                  + (nearest(value, known) or f"; {known[0]} is the default"))

    @property
    def exact_rate(self):
        """The rate as the fraction its decimal form spells: 0.9 is 9/10, so (1 - rate) * 10 is exactly 1."""
        return Fraction(repr(self.rate))


def _checked_rate(rate):
    if isinstance(rate, bool) or not isinstance(rate, Real):
        raise ConfigError(f"rate (dropout_ratio) must be a number in [0, 1), got {rate!r}; try 0.5")
    rate = float(rate)
    if not 0 <= rate < 1:
        raise ConfigError(f"rate (dropout_ratio) must lie in [0, 1), got {rate!r}; it is the share of units "
                          "to drop: 0 drops nothing, 0.5 every other one")
    single = np.float32(rate)
    return float(str(single)) if float(single) == rate else rate


def _checked_period(name, value):
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or number == 1 or isinstance(value, bool):
        raise ConfigError(f"{name} must be 0 (the family chooses) or an integer of at least 2, "
                          f"got {value!r}; remove it to have it chosen")
    return number


@dataclass(frozen=True)
class Pattern(ABC):
    """One regular way of dropping, for one iteration.

    rate: share of units it drops; scale: what kept values are multiplied by.
    drops: "units", "weights" or "blocks".
    """

    rate: float
    scale: float
    drops: str = field(default="units", kw_only=True)

    @abstractmethod
    def kept(self, total):
        """Return the Kept of an axis of length `total`; it may be empty where `total` is short."""


@dataclass(frozen=True)
class RegularPattern(Pattern):
    """Keep `width` units of every `step`: unit i lives iff (i - start) mod step < width, 0 <= start < step.

    The run that `start` begins wraps round, so with `start` uniform every unit of an axis of *any* length
    lives with probability exactly width / step. The price: an axis shorter than `step` may keep no unit at
    all in some iterations, so a count of 0 is legal.
    """

    start: int
    step: int
    width: int

    def kept(self, total):
        """Return the Kept of an axis of length `total`; recent ones are shared, index arrays included."""
        return _regular_kept(self.start, self.step, self.width, total)


@lru_cache(maxsize=64)
def _regular_kept(start, step, width, total):
    if width == step:
        return Kept.all(total)
    return Kept(start if start + width <= step else start - step, step, width, total)


@dataclass(frozen=True, eq=False)
class PatternDistribution:
    """The choices of a family, how often each is drawn, and the expected drop rate that follows."""

    choices: tuple
    probabilities: np.ndarray
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

    Drawing takes two steps: a choice by the distribution (say the period), then one of its `offsets(choice)`
    equally likely offsets. A family needs no other random number, so everything it can do can be enumerated.
    """

    name = ""
    drops = "units"
    uses = frozenset()      # which of max_period, step and search this family reads

    def __init__(self, settings):
        self.settings = settings
        for name, untouched in (("max_period", 0), ("step", 0), ("search", "EXACT")):
            value = getattr(settings, name)
            if name not in self.uses and value != untouched:
                able = [other for other in known_families() if name in _families[other].uses]
                raise ConfigError(f"pattern {self.name} has no {name}, got {name}: {value}; remove it"
                                  + (f", or set pattern to {' or '.join(able)}" if able else ""))
        self.distribution = self.build_distribution()

    @abstractmethod
    def build_distribution(self):
        """Return the PatternDistribution of `self.settings`. Raises ConfigError where they cannot be met."""

    @abstractmethod
    def offsets(self, choice):
        """Return how many equally likely offsets a choice has."""

    @abstractmethod
    def pattern(self, choice, offset):
        """Return the Pattern of a choice and an offset in 0 .. offsets(choice) - 1."""

    @abstractmethod
    def describe(self, choice):
        """Return a few words for tables, e.g. "1 of 3"."""

    def draw(self, choice, rng):
        """Return the Pattern of a choice at an offset drawn from `rng`."""
        return self.pattern(choice, int(rng.integers(self.offsets(choice))))

    def regular(self, start, step, width):
        """Return a RegularPattern, scaled as the settings ask.

        RATE takes the rate that the distribution reaches: under SGD search not quite the one asked for.
        """
        if self.settings.scale == "PATTERN":
            scale = step / width
        else:
            scale = 1 / (1 - self.distribution.rate)
        return RegularPattern((step - width) / step, scale, start, step, width, drops=self.drops)


_families = {}


def register_pattern(name):
    """Return a class decorator: makes a PatternFamily known by `name` in configs and on the command line."""
    def register(family):
        if name in _families:
            raise ValueError(f"pattern {name!r} is registered twice: by {_families[name]} and {family}")
        family.name = name
        _families[name] = family
        return family
    return register


def known_families():
    """Return the registered names, sorted."""
    return sorted(_families)


@lru_cache(maxsize=128)
def get_family(settings):
    """Return the PatternFamily for some PatternSettings (searched once, then shared: families do not change).

    Raises ConfigError: unknown family, or settings that it cannot meet.
    """
    if settings.family not in _families:
        raise ConfigError(f"unknown pattern {settings.family!r}{nearest(settings.family, _families)} "
                          f"(known patterns: {', '.join(known_families())})")
    return _families[settings.family](settings)


class DropSite:
    """The place where one layer drops: holds the iteration's pattern for all who compute, read or check.

    layer_name, seed: what the sequence of patterns depends on, beside the settings.
    total: length of the dropped axis; the layer sets it once shapes are known.
    active: False in phase TEST: nothing is dropped, scale is 1.
    masked: True where dense code multiplies by `mask()` instead (the oracle): then `kept` is None.

    Before the first `draw` a site is the identity.
    """

    def __init__(self, layer_name, settings, seed, total=None):
        self.layer_name = layer_name
        self.settings = settings
        self.seed = seed
        self.total = total
        self.active = True
        self.masked = False
        self.family = get_family(settings)
        self.sequence = PatternSequence(self.family, seed, layer_name)
        self.pattern = None

    def draw(self, counter):
        """Set and return the pattern of iteration `counter`, whatever was drawn before."""
        self.pattern = self.sequence.at(counter)
        return self.pattern

    def _drawn_kept(self):
        """The Kept of the drawn pattern, or None where it drops nothing of this axis."""
        if self.pattern is None or not self.active:
            return None
        if self.total is None:
            raise ShapeError(f"layer {self.layer_name!r}: the length of the dropped axis is not known yet; "
                             "shape the layer (set DropSite.total) before asking what is kept")
        kept = self.pattern.kept(self.total)
        return None if kept.is_all else kept

    @property
    def kept(self):
        """What compact code computes: a Kept, or None for all (nothing dropped, phase TEST, or `masked`)."""
        return None if self.masked else self._drawn_kept()

    @property
    def scale(self):
        """What surviving values are multiplied by; with scale RATE it holds even where `kept` is None."""
        return self.pattern.scale if self.active and self.pattern is not None else 1.0

    def mask(self, dtype=np.float64):
        """Return the array of length `total`, scale included, that dense code would multiply by."""
        kept = self._drawn_kept()
        if kept is None:
            return np.full(self.total, self.scale, dtype)
        mask = kept.mask(dtype)
        mask *= self.scale
        return mask

    def __repr__(self):
        return f"DropSite({self.layer_name!r}, {self.settings}, total={self.total}, pattern={self.pattern})"
