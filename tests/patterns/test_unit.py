"""UNIT: an exact number of random units."""

from collections import Counter
from itertools import combinations
from math import comb, floor, log

import numpy as np
import pytest

from minidrop.patterns import PatternSequence, PatternSettings, get_family
from minidrop.rng import stream_key


def unit(rate, **more):
    return get_family(PatternSettings(rate, "UNIT", **more))


def sets(family, total, draws, seed=0):
    sequence = PatternSequence(family, seed, "drop1")
    return [tuple(sequence.at(i).kept(total).indices.tolist()) for i in range(draws)]


@pytest.mark.parametrize("rate, total, count", [(0.5, 10, 5), (0.3, 10, 7), (0.9, 10, 1), (0.75, 2048, 512),
                                                (0.1, 10, 9)])
def test_the_number_is_exact(rate, total, count):
    assert {len(kept) for kept in sets(unit(rate), total, 200)} == {count}


@pytest.mark.parametrize("rate, total, low, odds", [(0.5, 7, 3, 0.5), (0.7, 11, 3, 0.3), (0.9, 3, 0, 0.3)])
def test_where_it_is_no_integer_two_take_turns(rate, total, low, odds):
    counts = Counter(len(kept) for kept in sets(unit(rate), total, 2000))
    assert set(counts) == {low, low + 1}
    assert abs(counts[low + 1] / 2000 - odds) < 5 * (odds * (1 - odds) / 2000) ** 0.5


@pytest.mark.parametrize("rate, total", [(0.5, 7), (0.7, 11), (1 / 3, 300), (0.5, 1024)])
@pytest.mark.parametrize("groups", [1, 3])
def test_what_a_key_draws_is_fixed_for_ever(rate, total, groups):
    """A number rounded up with the probability of its fraction, then the first so many of a permutation."""
    family = unit(rate, groups=groups)
    exact = (1 - family.settings.exact_rate) * total
    for i in range(20):
        patterns = PatternSequence(family, 0, "drop1").groups_at(i)
        rng = np.random.Generator(np.random.Philox(key=stream_key(patterns[0].key, "units", total)))
        count = floor(exact) + int(rng.random() < exact - floor(exact))
        order = rng.permutation(total)
        for group, pattern in enumerate(patterns):
            expected = sorted(order[(np.arange(count) + group * total // groups) % total].tolist())
            assert pattern.kept(total).indices.tolist() == expected


def test_every_set_is_as_likely():
    counts = Counter(sets(unit(0.6), 5, 4000))
    assert sorted(counts) == list(combinations(range(5), 2))
    # ten sets, 400 each: five standard deviations of a binomial are 95
    assert all(abs(count - 400) < 95 for count in counts.values())


def test_two_units_live_together_nearly_as_if_they_were_independent():
    family = unit(0.5)
    live = np.array([family.pattern("units", key).kept(20).mask() for key in range(2500)])
    together = (live.T.astype(float) @ live / 2500)[~np.eye(20, dtype=bool)]
    # 10/20 * 9/19
    assert together == pytest.approx(np.full(380, 9 / 38), abs=5 * (9 / 38 * 29 / 38 / 2500) ** 0.5)


def test_the_kept_form_is_indices_in_order():
    kept = unit(0.5).pattern("units", 3).kept(100)
    assert kept.regular is None and kept.count == 50 and (np.diff(kept.indices) > 0).all()


def test_a_pattern_is_a_function_of_its_key():
    family = unit(0.5)
    assert family.pattern("units", 5).kept(64) == family.pattern("units", 5).kept(64)
    assert family.pattern("units", 5).kept(64) != family.pattern("units", 6).kept(64)
    assert sets(family, 30, 50) == sets(family, 30, 50) != sets(family, 30, 50, seed=1)


def test_scales():
    assert unit(0.75).pattern("units", 0).scale == 4 == unit(0.75, scale="PATTERN").pattern("units", 0).scale


@pytest.mark.parametrize("rate, total, expected", [
    (0.5, 4, 6), (0.5, 5, 10 + 10), (0.9, 3, 1 + 3), (0, 5, 1), (0.5, 0, 1), (0.5, 2048, comb(2048, 1024)),
])
def test_submodels(rate, total, expected):
    assert unit(rate).submodels(total) == expected


def test_entropy():
    assert unit(0.5).pattern_entropy(4) == pytest.approx(log(6))
    # 3 of 7 kept with 0.5, 4 of 7 with 0.5: seventy sets of the same probability
    assert unit(0.5).pattern_entropy(7) == pytest.approx(log(70))
    assert unit(0.9).pattern_entropy(3) == pytest.approx(-0.7 * log(0.7) - 0.3 * log(0.1))


def test_describe():
    assert unit(0.3).describe("units") == "0.7 of all"
