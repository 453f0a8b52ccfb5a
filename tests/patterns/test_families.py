"""What every registered family must do; a new one is tested here without a line more."""

from dataclasses import replace
from functools import lru_cache
from math import log

import numpy as np
import pytest
from cases import in_turn

from minidrop.errors import ConfigError
from minidrop.patterns import (
    PatternDistribution,
    PatternFamily,
    PatternSequence,
    PatternSettings,
    get_family,
    known_families,
    register_pattern,
)
from minidrop.patterns.base import BY_GROUPS, OWN_SETTINGS

RATES = [0, 0.05, 0.3, 1 / 3, 0.5, 0.7, 0.9, 0.95]
DRAWS = 1000


@lru_cache
def law_of(settings):
    """Return ([patterns], their probabilities) of a family: all of them, or a sample where they cannot be
    listed."""
    family = get_family(settings)
    if not family.enumerable:
        sequence = PatternSequence(family, 7, "law")
        return [sequence.at(i) for i in range(DRAWS)], np.full(DRAWS, 1 / DRAWS)
    distribution = family.distribution
    counts = [family.offsets(choice) for choice in distribution.choices]
    patterns = [family.pattern(choice, offset)
                for choice, count in zip(distribution.choices, counts, strict=True)
                for offset in range(count)]
    return patterns, np.repeat(distribution.probabilities / counts, counts)


def law(family):
    """Yield patterns of a family with their probabilities, see `law_of`."""
    yield from zip(*law_of(family.settings), strict=True)


def margin(family, rate):
    """How far an expectation over `law` may be off: nothing, or five standard deviations of a share of DRAWS
    draws."""
    return 1e-12 if family.enumerable else 5 * (rate * (1 - rate) / DRAWS) ** 0.5 + 1e-12


def settings_of(name, rate, **more):
    return PatternSettings(rate, name, **more)


def scales(name):
    return get_family(settings_of(name, 0.5)).scales


NAMES_AND_SCALES = [(name, scale) for name in known_families() for scale in scales(name)]
SAMPLED = [name for name in known_families() if not get_family(settings_of(name, 0.5)).enumerable]


def at_rates(*cases):
    """Return cases, a family's name first, at all RATES. Drawing patterns takes long: of the families whose
    patterns are drawn some rates always run, and the others with --full."""
    return [pytest.param(*case, rate,
                         marks=pytest.mark.full if case[0] in SAMPLED and rate not in (0, 0.5, 0.95) else ())
            for case in cases for rate in RATES]


def test_the_families_are_known():
    assert {"BLOCK", "PERIODIC", "ROW", "SLICE", "TILE", "UNIT"} <= set(known_families())
    assert known_families() == sorted(known_families())


def test_what_they_drop_and_which_can_be_listed():
    families = {name: get_family(settings_of(name, 0.5)) for name in known_families()}
    assert {name: family.drops for name, family in families.items() if family.drops != "units"} == {
        "BLOCK": "blocks", "TILE": "weights"}
    assert {"PERIODIC", "ROW", "TILE"} <= {name for name, family in families.items() if family.enumerable}
    assert not any(families[name].enumerable for name in ("BLOCK", "SLICE", "UNIT"))
    assert families["UNIT"].offsets("units") == 2 ** 62


@pytest.mark.parametrize("name, rate", at_rates(*([name] for name in known_families())))
def test_every_unit_is_kept_with_the_expected_probability_on_an_axis_of_any_length(name, rate):
    family = get_family(settings_of(name, rate))
    patterns, probabilities = law_of(family.settings)
    for total in (0, 1, 3, 10, 37):
        masks = np.array([pattern.kept(total).mask(float) for pattern in patterns])
        assert probabilities @ masks == pytest.approx(np.full(total, 1 - rate),
                                                      abs=margin(family, rate)), total


@pytest.mark.parametrize("name, rate", at_rates(*([name] for name in known_families())))
def test_every_site_is_too(name, rate):
    family = get_family(settings_of(name, rate))
    sites = family.sites(37, 50)
    kept = sum(probability * family.live(pattern, sites) for pattern, probability in law(family))
    assert sites.total == (37 * 50 if sites.what == "tiles" else 37)
    assert sites.sizes is None or sites.sizes.sum() == sites.total
    assert kept == pytest.approx(np.full(sites.count, 1 - rate), abs=margin(family, rate))


@pytest.mark.parametrize("name, scale, rate", at_rates(*NAMES_AND_SCALES))
def test_the_scale_keeps_the_expectation_over_the_law(name, scale, rate):
    family = get_family(settings_of(name, rate, scale=scale))
    mean = sum(q * pattern.scale * pattern.kept(23).mask(float) for pattern, q in law(family))
    assert mean == pytest.approx(np.ones(23), abs=margin(family, rate) / (1 - rate))


@pytest.mark.parametrize("name", [name for name, scale in NAMES_AND_SCALES if scale == "PATTERN"])
def test_scale_pattern_keeps_it_within_every_choice(name):
    family = get_family(settings_of(name, 0.35, scale="PATTERN"))
    for choice in family.distribution.choices:
        offsets = range(family.offsets(choice)) if family.enumerable else range(DRAWS)
        patterns = [family.pattern(choice, offset) for offset in offsets]
        mean = sum(pattern.scale * pattern.kept(23).mask(float) for pattern in patterns) / len(patterns)
        assert mean == pytest.approx(np.ones(23), abs=margin(family, 0.35) / 0.65)


@pytest.mark.parametrize("name", known_families())
def test_scale_rate_is_one_number_also_where_nothing_is_dropped(name):
    family = get_family(settings_of(name, 0.3))
    assert {pattern.scale for pattern, _ in law(family)} == {1 / (1 - 0.3)}


@in_turn("name, scale", NAMES_AND_SCALES)
def test_rate_zero_is_the_identity(name, scale):
    family = get_family(settings_of(name, 0, scale=scale))
    assert family.enumerable and family.submodels(7) == 1 and family.pattern_entropy(7) == 0
    (pattern, probability), = law(family)
    assert probability == 1 and pattern.rate == 0 and pattern.scale == 1 and pattern.kept(7).is_all
    assert family.live(pattern, family.sites(7)).all()


@in_turn("rate", RATES)
@in_turn("name", known_families())
def test_the_distribution_says_its_rate(name, rate):
    family = get_family(settings_of(name, rate))
    assert family.distribution.rate == rate
    assert sum(q * pattern.rate for pattern, q in law(family)) == pytest.approx(rate, abs=1e-12)
    with pytest.raises(ValueError, match="read-only"):
        family.distribution.probabilities[0] = 0.5


@pytest.mark.parametrize("name", known_families())
def test_patterns_are_values(name):
    family = get_family(settings_of(name, 0.5))
    choice = family.distribution.choices[-1]
    assert family.pattern(choice, 1) == family.pattern(choice, 1) != family.pattern(choice, 2)
    assert len({family.pattern(choice, 1), family.pattern(choice, 1)}) == 1
    assert family.pattern(choice, 1).kept(40) == family.pattern(choice, 1).kept(40)
    assert family.pattern(choice, 1).drops == family.drops
    with pytest.raises(AttributeError):
        family.pattern(choice, 1).rate = 0.1


@pytest.mark.parametrize("name", known_families())
def test_draw_reaches_every_offset_equally_often(name):
    family = get_family(settings_of(name, 0.5))
    choice = family.distribution.choices[-1]
    rng = np.random.default_rng(0)
    drawn = [family.draw(choice, rng) for _ in range(2000)]
    if not family.enumerable:
        assert len(set(drawn)) == 2000
        return
    counts = [drawn.count(family.pattern(choice, offset)) for offset in range(family.offsets(choice))]
    expected = 2000 / family.offsets(choice)
    assert sum(counts) == 2000
    # five standard deviations of a binomial
    assert max(abs(count - expected) for count in counts) < 5 * expected ** 0.5


@pytest.mark.parametrize("name, rate", [
    pytest.param(name, rate, marks=pytest.mark.full if name in SAMPLED and rate != 0.5 else ())
    for name in known_families() for rate in (0.3, 0.5, 2 / 3, 0.9)])
def test_submodels_against_those_that_turn_up(name, rate):
    family = get_family(settings_of(name, rate))
    for total in (1, 2, 5, 7):
        seen = {pattern.kept(total).mask().tobytes() for pattern, probability in law(family)
                if probability > 0}
        # by chance the least likely ones may stay out of a sample
        if family.enumerable or rate <= 0.5:
            assert len(seen) == family.submodels(total)
        assert len(seen) <= family.submodels(total)


@pytest.mark.parametrize("name", known_families())
def test_pattern_entropy_is_at_most_that_of_equally_likely_submodels(name):
    for rate in (0.3, 0.5, 0.9):
        family = get_family(settings_of(name, rate))
        assert 0 < family.pattern_entropy(4096) <= log(family.submodels(4096)) + 1e-9


def test_a_family_that_cannot_be_listed_and_does_not_count_says_none():
    class Silent(PatternFamily):
        name = "SILENT"

        def build_distribution(self):
            return PatternDistribution(("x",), [1.0], self.settings.rate)

        def offsets(self, choice):
            return 2 ** 62

        pattern = describe = None

    Silent.__abstractmethods__ = frozenset()
    family = Silent(PatternSettings(0.5))
    assert family.submodels(10) is None and family.pattern_entropy(10) is None


def test_families_are_searched_once():
    settings = settings_of("ROW", 0.4, search="SGD")
    assert get_family(settings) is get_family(replace(settings))


def test_unknown_family():
    with pytest.raises(ConfigError, match=r"unknown pattern 'PERODIC'; did you mean 'PERIODIC'\? "
                                          r"\(known patterns: .*PERIODIC.*ROW.*\)"):
        get_family(PatternSettings(0.5, "PERODIC"))


@pytest.mark.parametrize("name, setting, message", [
    ("PERIODIC", {"max_period": 8}, "pattern PERIODIC has no max_period, got max_period: 8; remove it, "
                                    "or set pattern to ROW or TILE"),
    ("PERIODIC", {"search": "SGD"}, "pattern PERIODIC has no search, got search: SGD; .* ROW or TILE"),
    ("ROW", {"step": 10}, "pattern ROW has no step, got step: 10; .*PERIODIC"),
    ("ROW", {"tile_size": 8}, "pattern ROW has no tile_size, got tile_size: 8; .*TILE"),
    ("TILE", {"block_units": 8}, "pattern TILE has no block_units, got block_units: 8; .*BLOCK"),
    ("UNIT", {"block_samples": 8}, "pattern UNIT has no block_samples, got block_samples: 8; .*BLOCK"),
    ("SLICE", {"step": 8}, "pattern SLICE has no step, got step: 8; .*PERIODIC"),
    ("BLOCK", {"tile_size": 8}, "pattern BLOCK has no tile_size, got tile_size: 8; .*TILE"),
    ("BLOCK", {"scale": "PATTERN"}, "pattern BLOCK has no scale PATTERN, only RATE; remove scale"),
])
def test_a_setting_that_the_family_would_ignore_is_an_error(name, setting, message):
    with pytest.raises(ConfigError, match=message):
        get_family(settings_of(name, 0.5, **setting))


def test_which_settings_each_family_reads():
    uses = {name: set(get_family(settings_of(name, 0.5)).uses) for name in known_families()}
    for name, expected in {"BLOCK": {"block_samples", "block_units"}, "PERIODIC": BY_GROUPS | {"step"},
                           "ROW": BY_GROUPS | {"max_period", "search"}, "SLICE": BY_GROUPS,
                           "TILE": {"max_period", "search", "tile_size"}, "UNIT": BY_GROUPS}.items():
        assert uses[name] == expected
    assert set().union(*uses.values()) <= set(OWN_SETTINGS)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'ROW' is registered twice"):
        register_pattern("ROW")(PatternFamily)


@pytest.mark.parametrize("choices, probabilities", [
    ((), []), ((1, 2), [1.0]), ((1, 2), [0.5, 0.4]), ((1, 2), [1.5, -0.5]), ((1, 2), [float("nan"), 1]),
])
def test_no_distribution(choices, probabilities):
    with pytest.raises(ValueError, match="choices need as many probabilities"):
        PatternDistribution(choices, probabilities, 0.5)
