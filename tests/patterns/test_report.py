"""The report of `minidrop patterns`, against figures worked out by hand."""

import json
import math

import numpy as np
import pytest

from minidrop.errors import ConfigError
from minidrop.patterns import PatternSettings, known_families
from minidrop.patterns.report import report


def test_periodic():
    found = report(PatternSettings(0.3, "PERIODIC"), 100)
    assert found["distribution"] == [{"choice": "7 of 10", "probability": 1.0, "rate": 0.3,
                                      "scale": pytest.approx(1 / 0.7), "mean_kept": 70}]
    assert found["rate"] == found["rate_reached"] == 0.3
    assert found["rate_deviation"] == pytest.approx(0, abs=1e-7)
    assert found["entropy"] == 0
    assert found["kept"] == {"min": 70, "mean": 70, "max": 70}
    assert found["gemm_share"] == {"one_side": pytest.approx(0.7), "both_sides": pytest.approx(0.49)}


def test_row_of_two_periods():
    # dp = 1 with 0.2, dp = 2 with 0.8; five units: 5 kept, or 3 or 2
    found = report(PatternSettings(0.4, "ROW", max_period=2), 5)
    assert [row["choice"] for row in found["distribution"]] == ["1 of 1", "1 of 2"]
    assert [row["probability"] for row in found["distribution"]] == pytest.approx([0.2, 0.8])
    assert [row["mean_kept"] for row in found["distribution"]] == [5, 2.5]
    assert found["kept"] == {"min": 2, "mean": pytest.approx(3), "max": 5}
    # shares 1, 0.6, 0.4 with 0.2, 0.4, 0.4
    assert found["rate_deviation"] == pytest.approx(math.sqrt(0.2 + 0.4 * 0.36 + 0.4 * 0.16 - 0.36))
    assert found["entropy"] == pytest.approx(-0.2 * math.log(0.2) - 0.8 * math.log(0.8))
    assert found["gemm_share"] == {"one_side": pytest.approx(0.6), "both_sides": pytest.approx(0.36)}


def test_row_swings_and_periodic_does_not():
    assert report(PatternSettings(0.5, "ROW"), 2048)["rate_deviation"] == pytest.approx(0.356, abs=1e-3)
    assert report(PatternSettings(0.5), 2048)["rate_deviation"] < 1e-3


@pytest.mark.parametrize("units", [1, 7, 64, 2048])
@pytest.mark.parametrize("rate", [0, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("name", known_families())
def test_every_unit_has_the_rate(name, rate, units):
    found = report(PatternSettings(rate, name), units)["unit_rate"]
    assert len(found["all"]) == units
    for value in (found["min"], found["mean"], found["max"], *found["all"]):
        assert value == pytest.approx(rate, abs=1e-12)


def test_sgd_search_is_reported_as_it_is():
    found = report(PatternSettings(0.3, "ROW", search="SGD"), 840)
    assert found["rate"] == 0.3
    assert found["rate_reached"] == pytest.approx(0.302, abs=5e-4)
    assert found["unit_rate"]["mean"] == pytest.approx(found["rate_reached"], abs=1e-12)


def test_a_short_axis_may_keep_nothing():
    assert report(PatternSettings(0.5), 3)["kept"] == {"min": 0, "mean": pytest.approx(1.5), "max": 3}


@pytest.mark.parametrize("name", known_families())
def test_ready_for_json(name):
    found = report(PatternSettings(0.35, name), np.int64(12))
    assert json.loads(json.dumps(found)) == found
    assert found["settings"] == {"rate": 0.35, "family": name, "max_period": 0, "step": 0, "scale": "RATE",
                                 "search": "EXACT"}


@pytest.mark.parametrize("units", [0, -1, 2.5, "64", True, None])
def test_units(units):
    with pytest.raises(ConfigError, match="units must be an integer of at least 1, got"):
        report(PatternSettings(), units)
