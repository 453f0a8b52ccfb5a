"""PatternSettings refuses what makes no sense and says what would."""

from fractions import Fraction

import numpy as np
import pytest
from cases import in_turn

from minidrop.errors import ConfigError
from minidrop.patterns import PatternSettings


def test_defaults():
    assert PatternSettings() == PatternSettings(0.5, "PERIODIC", 0, 0, "RATE", "EXACT")


@pytest.mark.parametrize("rate", [-0.1, 1, 1.0, 1.5, float("nan"), float("inf"), -float("inf")])
def test_rate_out_of_range(rate):
    with pytest.raises(ConfigError, match=r"rate \(dropout_ratio\) must lie in \[0, 1\), got .*to drop"):
        PatternSettings(rate)


@pytest.mark.parametrize("rate", ["0.5", None, True, 0.5j])
def test_rate_of_another_type(rate):
    with pytest.raises(ConfigError, match=r"rate \(dropout_ratio\) must be a number in \[0, 1\), got"):
        PatternSettings(rate)


@in_turn("name", ["max_period", "step"])
@in_turn("value", [1, -1, 2.5, "10", True, False, None])
def test_periods(name, value):
    with pytest.raises(ConfigError, match=rf"{name} must be 0 .* or an integer of .* 2, got .*; remove"):
        PatternSettings(**{name: value})


@pytest.mark.parametrize("name, value, message", [
    ("scale", "RATES", "scale must be RATE or PATTERN, got 'RATES'; did you mean 'RATE'"),
    ("scale", 0, "scale must be RATE or PATTERN, got 0; RATE is the default"),
    ("search", "exact", "search must be EXACT or SGD, got 'exact'; did you mean 'EXACT'"),
    ("family", None, "pattern must be a name such as \"PERIODIC\", got None"),
    ("family", ["ROW"], "pattern must be a name such as"),
])
def test_names(name, value, message):
    with pytest.raises(ConfigError, match=message):
        PatternSettings(**{name: value})


@pytest.mark.parametrize("decimal", [0.3, 0.9, 0.98, 0.7, 0.1])
def test_a_rate_out_of_a_float32_field_is_the_decimal_that_was_written(decimal):
    assert float(np.float32(decimal)) != decimal
    assert PatternSettings(float(np.float32(decimal))) == PatternSettings(decimal)
    assert PatternSettings(np.float32(decimal)).rate == decimal


def test_other_rates_stay_as_they_are():
    assert PatternSettings(1 / 3).rate == 1 / 3
    assert PatternSettings(Fraction(1, 4)).rate == 0.25
    assert PatternSettings(0).rate == 0 and isinstance(PatternSettings(0).rate, float)


def test_exact_rate_is_the_decimal_s_fraction():
    assert PatternSettings(0.9).exact_rate == Fraction(9, 10)
    assert PatternSettings(1e-7).exact_rate == Fraction(1, 10 ** 7)


def test_whole_numbers_of_any_kind():
    assert PatternSettings(step=np.int64(12)) == PatternSettings(step=12)
    assert hash(PatternSettings(step=np.int64(12))) == hash(PatternSettings(step=12))
