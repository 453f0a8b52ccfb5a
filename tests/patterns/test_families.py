"""What every registered family must do; a new one is tested here without a line more."""

from dataclasses import replace

import numpy as np
import pytest

from minidrop.errors import ConfigError
from minidrop.patterns import (
    PatternDistribution,
    PatternFamily,
    PatternSettings,
    get_family,
    known_families,
    register_pattern,
)

RATES = [0, 0.05, 0.3, 1 / 3, 0.5, 0.7, 0.9, 0.95]


def law(family):
    """Yield every pattern of a family with its probability."""
    distribution = family.distribution
    for choice, probability in zip(distribution.choices, distribution.probabilities, strict=True):
        offsets = family.offsets(choice)
        for offset in range(offsets):
            yield family.pattern(choice, offset), probability / offsets


def settings_of(name, rate, **more):
    return PatternSettings(rate, name, **more)


def test_the_two_families_are_known():
    assert {"PERIODIC", "ROW"} <= set(known_families())
    assert known_families() == sorted(known_families())


@pytest.mark.parametrize("total", [0, 1, 3, 10, 37])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", known_families())
def test_every_unit_is_kept_with_the_expected_probability_on_an_axis_of_any_length(name, rate, total):
    family = get_family(settings_of(name, rate))
    kept = sum(probability * pattern.kept(total).mask(float) for pattern, probability in law(family))
    assert kept == pytest.approx(np.full(total, 1 - rate), abs=1e-12)


@pytest.mark.parametrize("scale", ["RATE", "PATTERN"])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", known_families())
def test_the_scale_keeps_the_expectation_over_the_law(name, rate, scale):
    family = get_family(settings_of(name, rate, scale=scale))
    mean = sum(q * pattern.scale * pattern.kept(23).mask(float) for pattern, q in law(family))
    assert mean == pytest.approx(np.ones(23), abs=1e-12)


@pytest.mark.parametrize("name", known_families())
def test_scale_pattern_keeps_it_within_every_choice(name):
    family = get_family(settings_of(name, 0.35, scale="PATTERN"))
    for choice in family.distribution.choices:
        patterns = [family.pattern(choice, offset) for offset in range(family.offsets(choice))]
        mean = sum(pattern.scale * pattern.kept(23).mask(float) for pattern in patterns) / len(patterns)
        assert mean == pytest.approx(np.ones(23), abs=1e-12)


@pytest.mark.parametrize("name", known_families())
def test_scale_rate_is_one_number_also_where_nothing_is_dropped(name):
    family = get_family(settings_of(name, 0.3))
    assert {pattern.scale for pattern, _ in law(family)} == {1 / (1 - 0.3)}


@pytest.mark.parametrize("name", known_families())
def test_rate_zero_is_the_identity(name):
    for scale in ("RATE", "PATTERN"):
        for pattern, probability in law(get_family(settings_of(name, 0, scale=scale))):
            assert probability == 1 and pattern.rate == 0 and pattern.scale == 1 and pattern.kept(7).is_all


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", known_families())
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
    assert family.pattern(choice, 1).drops == family.drops
    with pytest.raises(AttributeError):
        family.pattern(choice, 1).rate = 0.1


@pytest.mark.parametrize("name", known_families())
def test_draw_reaches_every_offset_equally_often(name):
    family = get_family(settings_of(name, 0.5))
    choice = family.distribution.choices[-1]
    rng = np.random.default_rng(0)
    drawn = [family.draw(choice, rng) for _ in range(4000)]
    counts = [drawn.count(family.pattern(choice, offset)) for offset in range(family.offsets(choice))]
    expected = 4000 / family.offsets(choice)
    assert sum(counts) == 4000
    # five standard deviations of a binomial
    assert max(abs(count - expected) for count in counts) < 5 * expected ** 0.5


def test_families_are_searched_once():
    settings = settings_of("ROW", 0.4, search="SGD")
    assert get_family(settings) is get_family(replace(settings))


def test_unknown_family():
    with pytest.raises(ConfigError, match=r"unknown pattern 'PERODIC'; did you mean 'PERIODIC'\? "
                                          r"\(known patterns: .*PERIODIC.*ROW.*\)"):
        get_family(PatternSettings(0.5, "PERODIC"))


@pytest.mark.parametrize("name, setting, message", [
    ("PERIODIC", {"max_period": 8}, "pattern PERIODIC has no max_period, got max_period: 8; remove it, "
                                    "or set pattern to .*ROW"),
    ("PERIODIC", {"search": "SGD"}, "pattern PERIODIC has no search, got search: SGD; .*ROW"),
    ("ROW", {"step": 10}, "pattern ROW has no step, got step: 10; .*PERIODIC"),
])
def test_a_setting_that_the_family_would_ignore_is_an_error(name, setting, message):
    with pytest.raises(ConfigError, match=message):
        get_family(settings_of(name, 0.5, **setting))


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'ROW' is registered twice"):
        register_pattern("ROW")(PatternFamily)


@pytest.mark.parametrize("choices, probabilities", [
    ((), []), ((1, 2), [1.0]), ((1, 2), [0.5, 0.4]), ((1, 2), [1.5, -0.5]), ((1, 2), [float("nan"), 1]),
])
def test_no_distribution(choices, probabilities):
    with pytest.raises(ValueError, match="choices need as many probabilities"):
        PatternDistribution(choices, probabilities, 0.5)
