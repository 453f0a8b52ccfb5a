"""The report of `minidrop patterns`, against figures worked out by hand."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from cases import in_turn

from minidrop.errors import ConfigError
from minidrop.patterns import PatternSettings, get_family, known_families
from minidrop.patterns.report import first_patterns, report, search_table


def short(settings, units, **more):
    return report(settings, units, **{"iterations": 300, **more})


def test_periodic():
    found = short(PatternSettings(0.3, "PERIODIC", step=10), 100)
    assert found["distribution"] == [{"choice": "7 of 10", "probability": 1.0, "rate": 0.3,
                                      "scale": pytest.approx(1 / 0.7), "mean_kept": pytest.approx(70)}]
    assert found["rate"] == found["rate_reached"] == 0.3 and found["exact"] and not found["sampled"]
    assert found["rate_deviation"] == pytest.approx(0, abs=1e-12)
    assert (found["entropy"] == 0 and found["pattern_entropy"] == pytest.approx(math.log(10))
            and found["submodels"] == 10)
    assert found["kept"] == {"min": 70, "mean": pytest.approx(70), "max": 70, "of": 100}
    assert found["iteration_rate"] == [[0.3, pytest.approx(1)]]
    assert found["gemm_share"] == {"one_side": pytest.approx(0.7), "both_sides": pytest.approx(0.49)}
    # of starts 0 .. 9 with runs of 7 in 10: 6, 5 and 4 keep two units at a distance of 1, 2 and 3 to 7
    joint = found["joint_keep"]
    assert joint["by_distance"][:10] == pytest.approx([0.6, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5, 0.6, 0.7])
    assert len(joint["by_distance"]) == 99 and joint["independent"] == pytest.approx(0.49)


def test_row_of_two_periods():
    # dp = 1 with 0.2, dp = 2 with 0.8; five units: 5 kept, or 3 or 2
    found = short(PatternSettings(0.4, "ROW", max_period=2), 5)
    assert [row["choice"] for row in found["distribution"]] == ["1 of 1", "1 of 2"]
    assert [row["probability"] for row in found["distribution"]] == pytest.approx([0.2, 0.8])
    assert [row["mean_kept"] for row in found["distribution"]] == [5, 2.5]
    assert found["kept"] == {"min": 2, "mean": pytest.approx(3), "max": 5, "of": 5}
    # shares 1, 0.6, 0.4 with 0.2, 0.4, 0.4
    assert found["rate_deviation"] == pytest.approx(math.sqrt(0.2 + 0.4 * 0.36 + 0.4 * 0.16 - 0.36))
    assert found["iteration_rate"] == [[0, pytest.approx(0.2)], [0.4, pytest.approx(0.4)],
                                       [0.6, pytest.approx(0.4)]]
    choices = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert found["entropy"] == pytest.approx(choices) and found["submodels"] == 3
    assert found["pattern_entropy"] == pytest.approx(choices + 0.8 * math.log(2))
    assert found["gemm_share"] == {"one_side": pytest.approx(0.6), "both_sides": pytest.approx(0.36)}
    assert found["joint_keep"]["by_distance"] == pytest.approx([0.2, 0.2 + 0.8 * 0.5, 0.2, 0.6])


def test_the_joint_probabilities_of_row():
    # the figures of the literature's N = 8: neighbours live together only where nothing is dropped
    joint = short(PatternSettings(0.5, "ROW", max_period=8), 1680)["joint_keep"]["by_distance"]
    assert (joint[0], joint[11]) == (pytest.approx(0.314, abs=5e-4), pytest.approx(0.460, abs=5e-4))


def test_row_swings_and_periodic_does_not():
    assert short(PatternSettings(0.5, "ROW", max_period=8),
                 2048)["rate_deviation"] == pytest.approx(0.356, abs=1e-3)
    assert short(PatternSettings(0.5, step=10), 2048)["rate_deviation"] < 1e-3
    # of the 8 units beyond 68 steps of 30, 8 of the 30 starts keep all, 8 none, and two each keep 1 .. 7
    deviation = math.sqrt((2 * 8 * 16 + 2 * (9 + 4 + 1 + 0 + 1 + 4 + 9)) / 30) / 2048
    assert short(PatternSettings(0.5, groups=1), 2048)["rate_deviation"] == pytest.approx(deviation)
    assert short(PatternSettings(0.5), 2048)["rate_deviation"] == 0     # with groups 16 of 32, a divisor


def test_unit():
    found = short(PatternSettings(0.5, "UNIT"), 60)
    assert not found["exact"] and "kept.min" in found["sampled"]
    assert found["sites"] == {"what": "units", "drops": "units", "count": 60}
    assert found["kept"] == {"min": 30, "mean": 30, "max": 30, "of": 60}
    assert found["rate_deviation"] == pytest.approx(0, abs=1e-12)
    assert found["submodels"] == "10^17"
    assert found["pattern_entropy"] == pytest.approx(math.log(math.comb(60, 30)))
    assert found["sequence"]["distinct"] == 300
    assert found["joint_keep"]["by_distance"][0] == pytest.approx(30 / 60 * 29 / 59,
                                                                  abs=5 * 0.5 / math.sqrt(300 * 20))


def test_slice():
    found = short(PatternSettings(0.5, "SLICE"), 10, iterations=3000)
    assert found["submodels"] == 10 == found["sequence"]["distinct"]
    # a straight pair at distance d lives in 5 - d of 10 runs
    assert found["joint_keep"]["by_distance"][:4] == pytest.approx([0.4, 0.3, 0.2, 0.1],
                                                                   abs=5 * 0.5 / math.sqrt(3000))


def test_tile():
    found = short(PatternSettings(0.5, "TILE", tile_size=8), 20, inputs=50)
    assert found["sites"] == {"what": "tiles", "drops": "weights",
                              "count": 3 * 7} and found["inputs"] == 50 and found["exact"]
    assert (found["kept"]["of"] == 1000 and found["kept"]["mean"] == pytest.approx(500)
            and found["kept"]["max"] == 1000)
    assert found["gemm_share"] == {"one_side": pytest.approx(0.5), "both_sides": None}
    assert found["submodels"] == 1 + 2 + 3 and found["unit_rate"]["all"] == pytest.approx([0.5] * 21)
    # four tiles an axis, at least
    assert short(PatternSettings(0.5, "TILE"), 64)["sites"]["count"] == 4 * 4
    assert short(PatternSettings(0.5), 64)["inputs"] is None


def test_block():
    found = short(PatternSettings(0.5, "BLOCK", block_units=25), 100, iterations=4000)
    assert found["sites"] == {"what": "blocks", "drops": "blocks", "count": 4} and found["submodels"] == 15
    assert found["kept"] == {"min": 25, "mean": 50, "max": 100,
                             "of": 100} and found["unit_rate"]["all"] == [0.5] * 4
    assert found["sequence"]["distinct"] == 15
    assert found["gemm_share"] == {"one_side": 0.5, "both_sides": 0.25}
    with pytest.raises(ConfigError, match="block_units 100 cuts 100 units into 1 block"):
        report(PatternSettings(0.5, "BLOCK", block_units=100), 100)


@in_turn("units", [1, 7, 64, 2048])
@in_turn("rate", [0, 0.3, 0.5, 0.7, 0.9])
@in_turn("name", known_families())
def test_every_unit_has_the_rate(name, rate, units):
    found = short(PatternSettings(rate, name), units, iterations=20)
    rate = min(rate, (units - 1) / units)       # one unit lives in every iteration
    assert found["kept"]["min"] >= 1
    rates = found["unit_rate"]
    assert len(rates["all"]) == found["sites"]["count"] == len(found["sequence"]["drops"]["all"])
    for value in (rates["min"], rates["mean"], rates["max"], *rates["all"]):
        assert value == pytest.approx(rate, abs=1e-12)
    assert found["kept"]["mean"] == pytest.approx((1 - rate) * found["kept"]["of"])
    assert found["gemm_share"]["one_side"] == pytest.approx(1 - rate)


@pytest.mark.parametrize("name", ["PERIODIC", "ROW"])
def test_the_submodels_listed_are_those_of_the_family(name):
    for units in (3, 10, 200):
        settings = PatternSettings(0.7, name)
        assert short(settings, units)["submodels"] == get_family(settings).fitted(units).submodels(units)


@pytest.mark.parametrize("name", known_families())
def test_the_sequence(name):
    found = report(PatternSettings(0.35, name), 48, iterations=2000, seed=3, layer="fc")
    drawn = found["sequence"]
    assert (drawn["iterations"], drawn["seed"], drawn["layer"]) == (2000, 3, "fc")
    assert sum(probability for _, probability in found["iteration_rate"]) == pytest.approx(1)
    drops = np.array(drawn["drops"]["all"])
    assert (drawn["drops"]["min"], drawn["drops"]["max"]) == (drops.min(), drops.max())
    assert drawn["drops"]["mean"] == pytest.approx(drops.mean())
    deviation = math.sqrt(2000 * 0.35 * 0.65)
    assert np.abs(drops - 2000 * 0.35).max() < 5 * deviation
    # over all sites: the deviation between iterations, and the rounding of quotas, which is below 1 / 1000
    assert drawn["rate"] == pytest.approx(0.35, abs=5 * found["rate_deviation"] / math.sqrt(2000) + 1e-3)
    assert 1 <= drawn["distinct"] <= (2000 if isinstance(found["submodels"], str) else found["submodels"])
    assert 1e-4 < drawn["chi_square"]["p_value"] < 1 - 1e-4
    assert drawn["chi_square"]["bernoulli"] == found["sites"]["count"]
    near = np.abs(np.array(drawn["joint_keep"]) - found["joint_keep"]["by_distance"])
    assert near.max() < 5 * 0.5 / math.sqrt(2000) + 1e-3
    # and it is the very sequence that a layer of that name draws
    live = first_patterns(PatternSettings(0.35, name), 48, seed=3, layer="fc", count=2000)
    assert (~live).sum(0).tolist() == drawn["drops"]["all"]


@pytest.mark.parametrize("name", known_families())
def test_nothing_dropped(name):
    found = short(PatternSettings(0, name), 48)
    assert (found["submodels"] == 1 and found["pattern_entropy"] == 0
            and found["sequence"]["chi_square"] is None)
    assert (found["sequence"]["rate"] == 0 and found["sequence"]["distinct"] == 1
            and found["iteration_rate"] == [[0, 1]])


def test_sgd_search_is_reported_as_it_is():
    found = short(PatternSettings(0.3, "ROW", search="SGD", max_period=8), 840)
    assert found["rate"] == 0.3
    assert found["rate_reached"] == pytest.approx(0.302, abs=5e-4)
    assert found["unit_rate"]["mean"] == pytest.approx(found["rate_reached"], abs=1e-12)


def test_a_short_axis_keeps_something():
    assert short(PatternSettings(0.5), 3)["kept"] == {"min": 1, "mean": pytest.approx(1.5), "max": 2, "of": 3}


def test_too_many_patterns_to_list_are_sampled():
    settings = PatternSettings(0.5, "ROW", max_period=512)        # 131328 patterns of 1024 sites
    found = short(settings, 1024)
    assert not found["exact"] and found["unit_rate"]["all"] == [0.5] * 1024
    assert found["rate_deviation"] == pytest.approx(0.5, abs=0.1)
    # choices and offsets
    q = get_family(settings).distribution.probabilities
    assert found["pattern_entropy"] == pytest.approx(found["entropy"] + q @ np.log(np.arange(1, 513)))


# -- long axes -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [       # SLICE is drawn in the same way as UNIT, but faster
    pytest.param(name, marks=pytest.mark.full if name == "UNIT" else ()) for name in known_families()])
def test_a_long_axis_fits_into_memory(name):
    tracemalloc.start()
    try:
        found = report(PatternSettings(0.5, name), 65536, iterations=300)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # tables of 300 x 65536 units are 20 MB of bytes, and 157 MB as numbers of eight; a product has 4 million
    # tiles
    assert peak < (350e6 if name == "TILE" else 130e6)
    assert found["sequence"]["iterations"] == 300 and found["unit_rate"]["mean"] == pytest.approx(0.5)
    shown = min(65536, found["sites"]["count"])
    assert len(found["unit_rate"]["all"]) == len(found["sequence"]["drops"]["all"]) == shown
    if name in ("PERIODIC", "ROW"):
        # what lives together does not change along the axis, so stretches tell the same as all of it
        # (divisors of both are among the steps that PERIODIC takes)
        short_axis = report(PatternSettings(0.5, name), 6400, iterations=5)["joint_keep"]
        assert found["joint_keep"]["sites"] == 8192 and short_axis["sites"] == 6400
        near = np.array(found["joint_keep"]["by_distance"])[:60]
        assert near == pytest.approx(np.array(short_axis["by_distance"])[:60], abs=3e-3)
    if name == "SLICE":
        assert found["joint_keep"]["by_distance"][0] == pytest.approx(0.5, abs=0.05)


def test_a_sequence_that_needs_too_much_memory_ends_early(monkeypatch):
    monkeypatch.setattr("minidrop.patterns.report.DRAWN", 64 * 100)
    drawn = short(PatternSettings(0.5, "UNIT"), 64)["sequence"]
    assert (drawn["iterations"], drawn["asked"], drawn["distinct"]) == (100, 300, 100)
    live = first_patterns(PatternSettings(0.5, "UNIT"), 64, count=100)
    assert drawn["drops"]["all"] == (~live).sum(0).tolist()
    # 30 different patterns are no more in 300 iterations than in 100
    drawn = short(PatternSettings(0.5), 64)["sequence"]
    assert drawn["iterations"] == drawn["asked"] == 300


@pytest.mark.parametrize("settings, units, message", [
    (PatternSettings(0.5, "TILE", tile_size=1), 65536, "4294967296 tiles are too many to look at, 10000000 "
     "are possible; "
                                                       "give fewer units or inputs"),
    (PatternSettings(0.5, "ROW"), 10 ** 9, "1000000000 units are too many to look at, .*; give fewer units"),
])
def test_too_many_sites(settings, units, message):
    with pytest.raises(ConfigError, match=message):
        report(settings, units)


def test_what_the_family_objects_to():
    with pytest.raises(ConfigError, match="tile_size 32 cuts 64 inputs into 2 tiles"):
        report(PatternSettings(0.5, "TILE", tile_size=32), 100, inputs=64)


@pytest.mark.parametrize("name", known_families())
def test_ready_for_json(name):
    found = short(PatternSettings(0.35, name), np.int64(12), iterations=np.int64(50))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["settings"] == {"rate": 0.35, "family": name, "max_period": 0, "step": 0, "scale": "RATE",
                                 "search": "EXACT", "tile_size": 0, "block_samples": 0, "block_units": 0,
                                 "groups": 0, "grouping": "STRATIFIED"}


def test_a_number_too_long_for_json_is_text():
    assert short(PatternSettings(0.5, "UNIT"), 20000, iterations=5)["submodels"] == "10^6018"


@in_turn("value", [0, -1, 2.5, "64", True])
@in_turn("name", ["units", "inputs", "iterations"])
def test_whole_numbers(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be an integer of at least 1, got"):
        report(PatternSettings(), **{"units": 10, name: value})


# -- the table of searches -----------------------------------------------------------------------------------
def test_search_table():
    rows = {(row["rate"], row["lambda2"]): row for row in search_table()}
    assert sorted(rows) == sorted((rate, lambda2) for rate in (0.3, 0.5, 0.7, 0.9)
                                  for lambda2 in (0.001, 0.01, 0.1, 0.5))
    for rate, reached in ((0.3, 0.431), (0.5, 0.564), (0.7, 0.681)):
        assert rows[rate, 0.5]["reached"] == pytest.approx(reached,
                                                           abs=5e-4) and rows[rate, 0.5]["periods"] == 8
        assert rows[rate, 0.5]["miss"] == pytest.approx(reached - rate, abs=5e-4)
    for rate, reached in ((0.3, 0.302), (0.5, 0.501), (0.7, 0.6996)):
        assert rows[rate, 0.01]["reached"] == pytest.approx(reached, abs=5e-4)
    assert {rows[0.9, lambda2]["periods"] for lambda2 in (0.5, 0.1, 0.01, 0.001)} == {11}
    for rate in (0.3, 0.5, 0.7, 0.9):
        misses = [abs(rows[rate, lambda2]["miss"]) for lambda2 in (0.5, 0.1, 0.01, 0.001)]
        assert misses == sorted(misses, reverse=True)
        # of those that reach the rate the exact one has the most entropy; near 10/11 little is left to choose
        if rate < 0.9:
            assert rows[rate, 0.001]["entropy"] == pytest.approx(rows[rate, 0.001]["exact_entropy"], abs=2e-3)


def test_search_table_of_other_periods():
    row, = search_table(rates=[0.5], lambdas=[0.5], max_period=20)
    assert row["periods"] == 20
    with pytest.raises(ConfigError, match="max_period 8 is too small for rate 0.9"):
        search_table(max_period=8)
