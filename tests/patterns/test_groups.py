"""Groups of samples with a pattern each: rates, joint rates, variance, and what a Draw says of them."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from cases import in_turn

from minidrop.errors import ConfigError
from minidrop.kept import Kept, KeptByGroup, group_bounds
from minidrop.patterns import DropSite, PatternSequence, PatternSettings, get_family, known_families
from minidrop.patterns.report import report
from minidrop.patterns.sequence import moved

OF_UNITS = [name for name in known_families() if get_family(PatternSettings(family=name)).drops == "units"]
RATES = (0, 0.3, 0.5, 0.7, 0.9)


def site(family="PERIODIC", rate=0.5, total=60, seed=0, **settings):
    made = DropSite("drop1", PatternSettings(rate, family, **settings), seed)
    made.shape(total)
    return made


def live(family, patterns, total):
    """What lives in each group: (groups, units) of 0 and 1."""
    return np.array([pattern.kept(total).mask(float) for pattern in patterns])


def draws_of(site, count):
    return np.array([live(site.family, site.sequence.groups_at(i), site.total) for i in range(count)])


# -- one group is what there was before ----------------------------------------------------------------------
@pytest.mark.parametrize("family", OF_UNITS)
def test_the_first_group_has_the_pattern_that_a_single_group_has(family):
    for grouping in ("STRATIFIED", "INDEPENDENT"):
        alone, grouped = (site(family, groups=groups, grouping=grouping).sequence for groups in (1, 4))
        assert all(grouped.groups_at(i)[0] == alone.at(i) == alone.groups_at(i)[0] for i in range(40))


# -- marginal rates ------------------------------------------------------------------------------------------
@in_turn("rate", RATES)
@in_turn("family", ["PERIODIC", "ROW"])
def test_each_group_drops_each_unit_at_exactly_the_rate(family, rate):
    """By enumeration, on an axis that the period does not divide."""
    own = get_family(PatternSettings(rate, family, groups=4)).fitted(47)
    kept = np.zeros((4, 47))
    for choice, probability in zip(own.distribution.choices, own.distribution.probabilities, strict=True):
        for offset in range(own.offsets(choice)):
            kept += probability / own.offsets(choice) * live(own, moved(own.pattern(choice, offset), 4), 47)
    np.testing.assert_allclose(kept, 1 - rate, atol=1e-12)


@pytest.mark.parametrize("grouping", ["STRATIFIED", "INDEPENDENT"])
@pytest.mark.parametrize("family", OF_UNITS)
def test_each_group_drops_at_the_rate_in_a_sequence(family, grouping):
    kept = draws_of(site(family, 0.7, 40, groups=3, grouping=grouping), 1500).mean(axis=(0, 2))
    np.testing.assert_allclose(kept, 0.3, atol=0.025)


# -- stratified groups ---------------------------------------------------------------------------------------
@in_turn("groups", [2, 3, 4, 5])
@in_turn("rate", RATES)
@in_turn("family, total", [("PERIODIC", 60), ("UNIT", 60), ("SLICE", 60)])
def test_stratified_groups_keep_each_unit_as_equally_often_as_counts_allow(family, total, rate, groups):
    """In floor(G q) or one more of G groups, where the period can be cut into G equal parts."""
    share = groups * (1 - PatternSettings(rate).exact_rate)
    for patterns in (site(family, rate, total, groups=groups).sequence.groups_at(i) for i in range(30)):
        often = live(family, patterns, total).sum(axis=0)
        width = int(live(family, patterns, total)[0].sum())
        allowed = {floor(Fraction(groups * width, total)), -(-groups * width // total)}
        assert set(often.astype(int)) <= allowed
        if share.denominator == 1 and (total * (1 - PatternSettings(rate).exact_rate)).denominator == 1:
            assert set(often) == {share}


def test_two_groups_at_one_half_are_complements():
    for family in ("PERIODIC", "UNIT", "SLICE", "ROW"):
        own = site(family, groups=2, **({"max_period": 2} if family == "ROW" else {}))
        drawn = [draw for draw in draws_of(own, 50) if draw.sum() != draw.size]     # ROW: less than all
        assert drawn and all((draw.sum(axis=0) == 1).all() for draw in drawn)


@pytest.mark.parametrize("rate, groups", [
    (0.5, 1), (0.3, 2), (0.5, 2), (0.7, 3), (0.3, 5),
    *(pytest.param(*case, marks=pytest.mark.full)
      for case in ((0.3, 1), (0.7, 1), (0.7, 2), (0.3, 3), (0.5, 3), (0.5, 5), (0.7, 5)))])
def test_the_variance_of_a_gradient_is_what_the_formula_says(rate, groups):
    """docs/patterns.md: of the mean over groups of m / q, whose part of a gradient is the same in each."""
    q = 1 - rate
    rest = groups * q - floor(groups * q + 1e-9)
    expected = {"STRATIFIED": rest * (1 - rest) / (groups * q) ** 2, "INDEPENDENT": rate / (q * groups)}
    for grouping, variance in expected.items():
        drawn = draws_of(site("PERIODIC", rate, 60, step=30, groups=groups, grouping=grouping), 2000)
        found = (drawn.mean(axis=1) / q).var(axis=0).mean()
        assert abs(found - variance) < 0.05 * max(variance, 0.1), grouping


@pytest.mark.parametrize("grouping, expected", [("STRATIFIED", (1, 0.318, 0.239)),
                                                ("INDEPENDENT", (1, 0.606, 0.409))])
def test_groups_of_rows_keep_the_variance_of_their_common_period(grouping, expected):
    """A period dp of 1, 2, 3: the mean over it of the variances at 1 / dp, and the variance of 1 / (q dp)."""
    for groups, variance in zip((1, 2, 4), expected, strict=True):
        live = draws_of(site("ROW", 0.5, 60, groups=groups, grouping=grouping), 4000)
        found = (live.mean(axis=1) / 0.5).var(axis=0).mean()
        assert found == pytest.approx(variance, rel=0.03), groups


@pytest.mark.parametrize("family", ["PERIODIC", "UNIT", "SLICE"])
def test_pairs_across_stratified_groups_are_negatively_correlated(family):
    # A mean over 1000 iterations and 60 units is off by less than 0.002.
    told = {grouping: report(PatternSettings(0.7, family, groups=3, grouping=grouping), 60,
                             iterations=1000)["groups"]
            for grouping in ("STRATIFIED", "INDEPENDENT")}
    assert max(told["STRATIFIED"]["joint_keep"]) < 0.3 ** 2 / 2
    np.testing.assert_allclose(told["INDEPENDENT"]["joint_keep"], 0.3 ** 2, atol=0.02)
    assert told["STRATIFIED"]["spread"] < told["INDEPENDENT"]["spread"]


def test_more_groups_than_units_or_than_a_period():
    own = site("ROW", 0.5, 3, groups=7)
    for i in range(20):
        found = live("ROW", own.sequence.groups_at(i), 3)
        assert found.shape == (7, 3) and found.sum(axis=1).all()


@pytest.mark.parametrize("rate", [0.96, 0.965, 0.97, 0.98, 0.985, 0.99])
def test_a_step_that_is_chosen_keeps_a_unit_at_high_rates(rate):
    for total in (*range(2, 130), 160, 650, 1000, 1024, 4096):
        own = get_family(PatternSettings(rate)).fitted(total)
        assert all(width >= 1 for width in own.distribution.choices) and own.step <= total


# -- the draw ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("samples", [0, 1, 2, 3, 7, 8])
def test_bounds_cover_all_samples_in_runs_of_nearly_one_size(samples):
    for groups in (1, 2, 3, 4, 9):
        bounds = group_bounds(samples, groups)
        sizes = [last - first for first, last in bounds]
        assert [i for first, last in bounds for i in range(first, last)] == list(range(samples))
        assert len(bounds) == groups and max(sizes) - min(sizes) <= 1


def test_parts_leave_out_empty_groups_and_join_equal_neighbours():
    odd, even = Kept(1, 2, 1, 6), Kept(0, 2, 1, 6)
    assert KeptByGroup([odd, odd, even, even]).parts(8) == ((0, 4, odd), (4, 8, even))
    assert KeptByGroup([odd, even, odd]).parts(2) == ((0, 1, even), (1, 2, odd))


def test_a_draw_carries_a_set_for_each_group_and_its_mask_has_a_row_for_each_sample():
    draw = site(groups=3, total=10).draw(5)
    assert isinstance(draw.kept, KeptByGroup) and len(draw.kept_sets()) == 3
    mask = draw.mask((7, 10), 1)
    assert mask.shape == (7, 10)
    np.testing.assert_array_equal(mask[0], mask[1])
    for first, last, kept in draw.kept.parts(7):
        np.testing.assert_array_equal(mask[first:last] != 0, np.tile(kept.mask(bool), (last - first, 1)))
    assert draw.mask((4, 7, 10), 2).shape == (1, 7, 10) and draw.mask((7, 10, 2, 2), 1).shape == (7, 10, 1, 1)


def test_a_rate_of_zero_keeps_all_whatever_the_groups():
    assert site(rate=0, groups=4).draw(0).kept is None


def test_sets_of_different_axes_make_no_groups():
    with pytest.raises(ValueError, match="one axis"):
        KeptByGroup([Kept.all(3), Kept.all(4)])


@pytest.mark.parametrize("family", [name for name in known_families() if name not in OF_UNITS])
def test_families_of_blocks_and_weights_have_no_groups(family):
    with pytest.raises(ConfigError, match=f"pattern {family} has no groups, got groups: 2.*PERIODIC"):
        get_family(PatternSettings(family=family, groups=2))


@pytest.mark.parametrize("wrong", [{"groups": -1}, {"groups": 1.5}, {"groups": True}, {"grouping": "RANDOM"},
                                   {"groups": 1025}, {"groups": 4000000000}])
def test_wrong_settings_are_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PatternSettings(**wrong)


def test_independent_starts_depend_on_seed_layer_and_iteration_alone():
    def starts(seed, layer, order):
        family = get_family(PatternSettings(0.5, groups=4, grouping="INDEPENDENT"))
        sequence = PatternSequence(family, seed, layer)
        return {i: [pattern.start for pattern in sequence.groups_at(i)] for i in order}

    forwards = starts(1, "a", range(30))
    assert starts(1, "a", reversed(range(30))) == forwards
    assert starts(2, "a", range(30)) != forwards != starts(1, "b", range(30))
