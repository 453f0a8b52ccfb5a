"""SLICE: one run of neighbours that may go round."""

from collections import Counter
from math import log

import numpy as np
import pytest

from minidrop.patterns import PatternSettings, get_family


def family(rate, **more):
    return get_family(PatternSettings(rate, "SLICE", **more))


def runs(rate, total, draws=2000):
    one = family(rate)
    return [one.pattern("run", key).kept(total) for key in range(draws)]


@pytest.mark.parametrize("rate, total, count", [(0.5, 10, 5), (0.3, 10, 7), (0.9, 10, 1), (0.75, 64, 16)])
def test_what_lives_is_one_run_counted_round(rate, total, count):
    starts = Counter()
    for kept in runs(rate, total):
        mask = kept.mask(int)
        begins = np.flatnonzero((mask == 1) & (np.roll(mask, 1) == 0))
        assert kept.count == count and begins.size == 1
        assert sorted((begins[0] + np.arange(count)) % total) == kept.indices.tolist()
        starts[int(begins[0])] += 1
    # every start, those from which the run goes round too
    assert sorted(starts) == list(range(total))
    assert all(abs(n - 2000 / total) < 5 * (2000 / total) ** 0.5 for n in starts.values())


def test_a_straight_run_is_a_slice_and_one_that_goes_round_is_two():
    straight = around = 0
    for kept in runs(0.5, 10):
        first, last = kept.indices[0], kept.indices[-1]
        if last - first == 4:
            assert kept.index == slice(first, first + 5)
            straight += 1
        else:
            assert (first, last) == (0, 9) and isinstance(kept.index, np.ndarray)
            around += 1
        assert kept.regular is not None
    # starts 0 .. 5 of 10 end within the axis
    assert abs(straight - 1200) < 5 * (2000 * 0.6 * 0.4) ** 0.5 and straight + around == 2000


@pytest.mark.parametrize("rate, total, low, odds", [(0.5, 7, 3, 0.5), (0.9, 3, 0, 0.3), (0.3, 1, 0, 0.7)])
def test_where_the_length_is_no_integer_two_take_turns(rate, total, low, odds):
    counts = Counter(kept.count for kept in runs(rate, total))
    assert set(counts) == {low, low + 1}
    assert abs(counts[low + 1] / 2000 - odds) < 5 * (odds * (1 - odds) / 2000) ** 0.5


def test_units_at_the_ends_live_as_often_as_those_in_the_middle():
    # where runs end at the last unit, the two ends of this axis would live 1/6 of the time and the middle
    # always
    mean = sum(kept.mask(float) for kept in runs(0.5, 10)) / 2000
    assert mean == pytest.approx(np.full(10, 0.5), abs=5 * 0.5 / 2000 ** 0.5)


def test_a_pattern_is_a_function_of_its_key():
    one = family(0.5)
    assert one.pattern("run", 5).kept(640) == one.pattern("run",
                                                          5).kept(640) != one.pattern("run", 6).kept(640)


@pytest.mark.parametrize("rate, total, expected", [(0.5, 4, 4), (0.5, 5, 10), (0.9, 3, 1 + 3), (0.3, 1, 2),
                                                   (0, 5, 1), (0.5, 0, 1)])
def test_submodels(rate, total, expected):
    assert family(rate).submodels(total) == expected


def test_entropy():
    assert family(0.5).pattern_entropy(2048) == pytest.approx(log(2048))
    # 2 or 3 of 5: ten runs of the same probability; 0 of 3 with 0.7, else one of three
    assert family(0.5).pattern_entropy(5) == pytest.approx(log(10))
    assert family(0.9).pattern_entropy(3) == pytest.approx(-0.7 * log(0.7) - 0.3 * log(0.1))


def test_scales_and_words():
    assert family(0.75, scale="PATTERN").pattern("run", 0).scale == 4
    assert family(0.3).describe("run") == "a run of 0.7"
