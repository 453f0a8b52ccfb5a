"""ROW: one unit in every dp."""

import pytest

from minidrop.errors import ConfigError
from minidrop.patterns import PatternSettings, get_family


def row(rate, **more):
    return get_family(PatternSettings(rate, "ROW", **more))


def test_which_units_live():
    pattern = row(0.5).pattern(3, 1)
    assert pattern.kept(8).indices.tolist() == [1, 4, 7]
    assert pattern.rate == pytest.approx(2 / 3)
    assert pattern.scale == 2
    assert row(0.5, scale="PATTERN").pattern(3, 1).scale == 3


def test_count_depends_on_the_offset():
    assert [row(0.5).pattern(4, offset).kept(10).count for offset in range(4)] == [3, 3, 2, 2]


def test_an_axis_shorter_than_the_offset_keeps_nothing():
    kept = row(0.5).pattern(8, 7).kept(3)
    assert kept.count == 0 and not kept.is_all


def test_period_one_keeps_everything():
    assert row(0.5).offsets(1) == 1 and row(0.5).pattern(1, 0).kept(9).is_all


@pytest.mark.parametrize("rate, longest", [(0.05, 2), (0.3, 2), (0.5, 3), (0.7, 4), (0.75, 5), (0.8, 6),
                                           (0.9, 11), (0.99, 101)])
def test_default_longest_period(rate, longest):
    assert row(rate).distribution.choices == tuple(range(1, longest + 1))


def test_a_rate_that_is_no_decimal():
    # as a float 2/3 is a little less, but it stands for what 1 of 3 drops
    assert row(2 / 3).distribution.choices == (1, 2, 3, 4)
    assert row(2 / 3, max_period=3).distribution.choices == (3,)
    with pytest.raises(ConfigError, match="set max_period to at least 3, or remove it"):
        row(2 / 3, max_period=2)


def test_the_figures_of_the_exact_search():
    assert row(0.5,
               max_period=8).distribution.probabilities[:4] == pytest.approx([0.314, 0.143, 0.110, 0.097],
                                                                             abs=5e-4)
    assert row(0.4, max_period=2).distribution.probabilities == pytest.approx([0.2, 0.8], abs=1e-12)


def test_sgd_search_says_the_rate_it_reaches_and_scales_by_it():
    family = row(0.3, search="SGD", max_period=8)
    assert family.distribution.rate == pytest.approx(0.302, abs=5e-4)
    assert family.pattern(2, 0).scale == 1 / (1 - family.distribution.rate)


@pytest.mark.parametrize("rate, max_period, least", [(0.6, 2, 3), (0.75, 3, 4), (0.8, 4, 5), (0.9, 9, 10)])
def test_a_max_period_that_cannot_reach_the_rate(rate, max_period, least):
    with pytest.raises(ConfigError, match=f"max_period {max_period} is too small for rate {rate}: .* "
                                          f"set max_period to at least {least}, or remove it"):
        row(rate, max_period=max_period)
    assert row(rate, max_period=least).distribution.rate == rate


def test_limits():
    with pytest.raises(ConfigError, match="periods up to 1024; got max_period: 1025; lower it"):
        row(0.5, max_period=1025)
    with pytest.raises(ConfigError, match="periods up to 1024; rate 0.9995 needs 2001; lower it"):
        row(0.9995)
    assert len(row(0.999, max_period=1024).distribution.choices) == 1024


def test_describe():
    assert row(0.5).describe(3) == "1 of 3"
