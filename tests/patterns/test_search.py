"""The searches against the figures worked out by hand and against the definition of an optimum."""


import numpy as np
import pytest
from cases import in_turn

from minidrop.errors import ConfigError
from minidrop.patterns.search import entropy, exact_search, sgd_search


def row_rates(longest):
    return np.array([(dp - 1) / dp for dp in range(1, longest + 1)])


@pytest.mark.parametrize("p, expected", [
    (0.5, [0.314, 0.143, 0.110, 0.097]),
    (0.3, [0.571, 0.123, 0.074, 0.057]),
])
def test_exact_figures(p, expected):
    assert exact_search(row_rates(8), p)[:4] == pytest.approx(expected, abs=5e-4)


def test_two_rates_leave_no_freedom():
    assert exact_search([0, 0.5], 0.2) == pytest.approx([0.6, 0.4], abs=1e-14)


def test_the_middle_of_symmetric_rates_is_uniform():
    assert exact_search([0, 0.25, 0.5], 0.25) == pytest.approx([1 / 3] * 3, abs=1e-14)


@in_turn("longest", [2, 3, 8, 50, 1024])
@in_turn("share", [0, 1e-300, 1e-9, 0.1, 0.5, 0.9, 0.999, 1 - 1e-12])
def test_exact_meets_the_rate_wherever_it_can_be_met(longest, share):
    u = row_rates(longest)
    d = exact_search(u, u[-1] * share)
    assert d @ u == pytest.approx(u[-1] * share, rel=1e-9, abs=1e-14)
    assert d.sum() == pytest.approx(1, abs=1e-12) and (d >= 0).all()


def test_rate_zero_keeps_everything():
    assert exact_search(row_rates(8), 0).tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_no_other_distribution_of_that_rate_has_more_entropy(p):
    u = row_rates(8)
    d = exact_search(u, p)
    rng = np.random.default_rng(0)
    # directions that change neither the sum nor the mean
    _, _, rows = np.linalg.svd(np.array([np.ones(8), u]))
    for _ in range(200):
        direction = rng.standard_normal(6) @ rows[2:]
        step = 0.5 * (d / np.abs(direction)).min()
        for size in (step, 1e-3 * step):
            assert entropy(d + size * direction) < entropy(d)


@pytest.mark.parametrize("p, reached", [(0.3, 0.431), (0.5, 0.564), (0.7, 0.681)])
def test_equal_lambdas_miss_the_rate(p, reached):
    u = row_rates(8)
    assert sgd_search(u, p, 0.5, 0.5) @ u == pytest.approx(reached, abs=5e-4)


@pytest.mark.parametrize("p, reached", [(0.3, 0.302), (0.5, 0.501), (0.7, 0.6996)])
def test_the_default_lambdas_nearly_meet_it(p, reached):
    u = row_rates(8)
    assert sgd_search(u, p) @ u == pytest.approx(reached, abs=5e-4)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 0.7, 0.85])
def test_a_smaller_lambda2_comes_nearer(p):
    u = row_rates(8)
    misses = [abs(sgd_search(u, p, 1 - lambda2, lambda2) @ u - p) for lambda2 in (0.5, 0.1, 0.01)]
    assert misses == sorted(misses, reverse=True) and misses[-1] < 0.01


def test_sgd_agrees_with_the_exact_search_at_the_rate_it_reaches():
    u = row_rates(8)
    for lambda2 in (0.5, 0.01):
        d = sgd_search(u, 0.5, 1 - lambda2, lambda2)
        assert d == pytest.approx(exact_search(u, d @ u), abs=1e-4)


def test_sgd_is_a_distribution_and_repeatable():
    d = sgd_search(row_rates(20), 0.9)
    assert d.sum() == pytest.approx(1, abs=1e-12) and (d >= 0).all()
    assert np.array_equal(d, sgd_search(row_rates(20), 0.9))


@in_turn("search", [exact_search, sgd_search])
@in_turn("p", [-0.1, 0.875, 0.9, 1, float("nan")])
def test_an_impossible_rate(search, p):
    with pytest.raises(ConfigError, match=r"no mixture of rates from 0 to 0\.875 .* allow longer periods"):
        search(row_rates(8), p)


@pytest.mark.parametrize("lambdas", [(0.5, 0.6), (0, 1), (1.5, -0.5), (float("nan"), 0.5)])
def test_impossible_lambdas(lambdas):
    with pytest.raises(ConfigError, match=r"expected lambda1 > 0, lambda2 >= 0 and lambda1 \+ lambda2 = 1"):
        sgd_search(row_rates(8), 0.5, *lambdas)


def test_entropy():
    assert entropy([0.5, 0.5, 0]) == pytest.approx(np.log(2))
    assert entropy([1.0]) == 0
