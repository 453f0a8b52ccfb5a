"""The figures of a table of patterns against their definitions, and the chi-square against SciPy-free
facts."""

import math

import numpy as np
import pytest

from minidrop.patterns import statistics
from minidrop.patterns.statistics import (
    chi_square,
    column_sums,
    deviation,
    joint_keep,
    row_counts,
    upper_tail,
)


def table(rng, rows, n):
    return rng.random((rows, n)) < 0.4, rng.dirichlet(np.ones(rows))


@pytest.mark.parametrize("n", [1, 2, 7, 64, 100])
def test_joint_keep_by_its_definition(n):
    live, weights = table(np.random.default_rng(n), 300, n)
    expected = [np.mean([weights @ (live[:, i] & live[:, i + d]) for i in range(n - d)]) for d in range(1, n)]
    assert joint_keep(live, weights) == pytest.approx(np.array(expected), abs=1e-9)


def test_row_counts_weigh_sites_by_size():
    live = np.array([[True, False], [True, True]])
    assert row_counts(live).tolist() == [1, 2] and row_counts(live, np.array([3, 1])).tolist() == [3, 4]


def test_deviation():
    # 0.75 and 1, as likely; 0 and 1 with 0.1 and 0.9
    assert deviation(np.array([0.75, 1]), np.array([0.5, 0.5])) == pytest.approx(0.125)
    assert deviation(np.array([0, 1]), np.array([0.1, 0.9])) == pytest.approx(0.3)


@pytest.mark.parametrize("cells", [1, 7, 100])
def test_some_rows_at_a_time_are_all_rows(cells, monkeypatch):
    live, weights = table(np.random.default_rng(9), 40, 6)
    sizes, counts = np.arange(6), np.arange(1, 41)
    expected = (weights @ live, live @ sizes, joint_keep(live, weights),
                chi_square(live, counts, np.full(40, 0.6), 0.6))
    monkeypatch.setattr(statistics, "CELLS", cells)
    found = (column_sums(live, weights), row_counts(live, sizes), joint_keep(live, weights),
             chi_square(live, counts, np.full(40, 0.6), 0.6))
    assert found[0] == pytest.approx(expected[0]) and found[1].tolist() == expected[1].tolist()
    assert found[2] == pytest.approx(expected[2]) and found[3] == pytest.approx(expected[3], rel=1e-5)


def sequence(rng, iterations, n, rate=0.3, copies=1, shift=0.0):
    """Independent drops; each column stands `copies` times; the first half of the axis is dropped more often
    by shift."""
    rates = np.where(np.arange(n) < n / 2, rate + shift, rate - shift)
    return np.repeat(rng.random((iterations, n)) >= rates, copies, axis=1)


def square(live, p=0.3):
    return chi_square(live, np.ones(len(live), int), np.full(len(live), p), p)


def test_independent_sites():
    live = sequence(np.random.default_rng(0), 4000, 60)
    found = square(live)
    drops = (~live).sum(0)
    assert found["value"] == pytest.approx(((drops - 1200) ** 2).sum() / (4000 * 0.3 * 0.7))
    assert found["bernoulli"] == 60 and found["expected"] == pytest.approx(60)
    assert found["freedom"] == pytest.approx(60, rel=0.02)


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_count_once(copies):
    # copies of 30 independent sites: 30 degrees of freedom
    found = square(sequence(np.random.default_rng(1), 4000, 30, copies=copies))
    assert found["bernoulli"] == 30 * copies and found["freedom"] == pytest.approx(30, rel=0.03)


def test_more_sites_than_are_looked_at():
    found = square(sequence(np.random.default_rng(2), 1000, 600, copies=3))
    assert found["freedom"] == pytest.approx(600, rel=0.15)


@pytest.mark.parametrize("copies", [1, 4])
def test_p_values_are_even_where_nothing_is_wrong(copies):
    rng = np.random.default_rng(3)
    p = np.array([square(sequence(rng, 400, 12, copies=copies))["p_value"] for _ in range(400)])
    # 400 uniform numbers: mean 1/2 with a deviation of 0.0144; one in ten below 0.1 with one of 0.015
    assert abs(p.mean() - 0.5) < 5 * 0.0145
    assert abs((p < 0.1).mean() - 0.1) < 5 * 0.015 and abs((p > 0.9).mean() - 0.1) < 5 * 0.015


def test_a_wrong_rate_is_found():
    live = sequence(np.random.default_rng(4), 4000, 60, shift=0.03)
    assert square(live)["p_value"] < 1e-12


def test_quotas_leave_only_the_offsets():
    # period 2 in half of the iterations, nothing dropped in the others, offsets evenly: p = 1/4, v = 1/2 *
    # 1/4
    live = np.array([[True] * 6, [True, False] * 3, [False, True] * 3])
    found = chi_square(live, np.array([500, 240, 260]), np.array([0, 0.5, 0.5]), 0.25)
    # 260 and 240 drops where 250 are expected
    assert found["value"] == pytest.approx(6 * 100 / (1000 * 0.25 * 0.75))
    assert found["expected"] == pytest.approx(6 * 0.125 / 0.1875)
    # all sites are +1 or -1 correlated: one degree of freedom, and 10 is 0.63 deviations of sqrt(1000 / 8)
    assert found["freedom"] == pytest.approx(1, abs=1e-3)
    assert found["p_value"] == pytest.approx(math.erfc(10 / math.sqrt(125) / math.sqrt(2)), abs=0.02)


def test_nothing_varies():
    live = np.ones((1, 5), bool)
    assert chi_square(live, np.array([100]), np.array([0.0]), 0.0) is None
    assert chi_square(live, np.array([2]), np.array([0.5]), 0.5) is None


@pytest.mark.parametrize("freedom, x, expected", [
    # tables of the chi-square distribution
    (1, 3.841, 0.05), (2, 4.605, 0.10), (3, 7.815, 0.05), (3, 2.366, 0.50), (10, 18.307, 0.05),
    (10, 4.865, 0.90), (100, 124.342, 0.05), (1000, 1074.679, 0.05),
])
def test_upper_tail(freedom, x, expected):
    assert upper_tail(x, freedom) == pytest.approx(expected, abs=0.01 if freedom <= 3 else 5e-4)
    assert upper_tail(0, freedom) > 0.95 and upper_tail(100 * freedom, freedom) < 1e-9
