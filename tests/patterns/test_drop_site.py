"""DropSite and its Draws: what of an iteration's pattern layers are given."""


import numpy as np
import pytest
from cases import in_turn

from minidrop.backend.device_sets import DeviceGrid
from minidrop.errors import CaptureError, ConfigError, ShapeError
from minidrop.kept import KeptByGroup
from minidrop.patterns import NOTHING, DropSite, PatternSequence, PatternSettings, get_family, known_families
from minidrop.patterns.draw import Blocks, Masked, Steps, Units, Weights

UNITS = [name for name in known_families() if get_family(PatternSettings(0.5, name)).drops == "units"]


def site(rate=0.5, name="ROW", total=20, **more):
    """One group of samples, unless `more` says otherwise: tests/patterns/test_groups.py has several."""
    more = {"groups": 1, **more} if name in UNITS else more
    return DropSite("drop1", PatternSettings(rate, name, **more), 0, total)


def first(one, wanted):
    """The first draw whose pattern is as wanted."""
    return next(draw for draw in map(one.draw, range(3000)) if wanted(draw.pattern))


def of(draw, total=20):
    """The mask of a draw of units as a list."""
    return draw.mask((5, total), 1).reshape(-1).tolist()


def test_nothing_is_the_identity():
    assert NOTHING.kept is None and NOTHING.scale == 1
    assert NOTHING.tiles(3, 4) is NOTHING.groups(5) is NOTHING.grid(5)
    assert of(NOTHING) == [1] * 20 and (NOTHING.weight_mask(3, 4) == 1).all() and NOTHING.kept_sets() == []


@pytest.mark.parametrize("name", known_families())
def test_draw_follows_the_sequence_and_remembers_nothing(name):
    one = site(name=name)
    sequence = PatternSequence(one.family, 0, "drop1")
    for counter in (0, 1, 5, 4321, 5):
        draw = one.draw(counter)
        assert draw.pattern == sequence.at(counter) and draw == one.draw(counter)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize("grouping", ["STRATIFIED", "INDEPENDENT"])
@in_turn("sizes", [{}, {"heads": 4}, {"heads": 4, "whole_heads": True}])
def test_a_draw_that_comes_again_is_that_of_its_own_axis(name, grouping, sizes):
    """Sites of one family that differ in their axes take turns, so that none finds another's draw."""
    sites = [site(0.5, name, groups=2, grouping=grouping) for _ in range(3)]
    for one, total in zip(sites, (40, 48, 40), strict=True):
        one.shape(total, **sizes)
    for counter in range(60):
        draws = [one.draw(counter) for one in sites]
        for one, draw in zip(sites, draws, strict=True):
            patterns = one.sequence.groups_at(counter)
            sets = [own.kept(one.entries).spread(one.runs).repeated(one.heads) for own in patterns]
            assert draw.pattern == patterns[0] and draw.every == KeptByGroup(sets)
        if sites[0].family.enumerable and grouping == "STRATIFIED":
            assert draws[0] is draws[2]


@pytest.mark.parametrize("name, scale", [(name, scale) for name in UNITS for scale in ("RATE", "PATTERN")])
def test_mask_is_kept_times_scale(name, scale):
    one = site(0.35, name, total=23, scale=scale)
    for counter in range(200):
        draw = one.draw(counter)
        survivors = draw.pattern.kept(23)
        assert of(draw, 23) == [draw.pattern.scale * (i in survivors.indices) for i in range(23)]
        assert draw.kept is None if survivors.is_all else draw.kept == survivors
        assert draw.scale == draw.pattern.scale


def test_a_draw_cannot_be_changed():
    with pytest.raises(AttributeError):
        site().draw(0).scale = 3


def test_scale_rate_holds_where_nothing_is_dropped():
    draw = first(site(0.3), lambda pattern: pattern.step == 1)
    assert draw.kept is None and draw.scale == 1 / 0.7 and of(draw) == [1 / 0.7] * 20
    draw = first(site(0.3, scale="PATTERN"), lambda pattern: pattern.step == 1)
    assert draw.kept is None and draw.scale == 1


def test_an_axis_too_short_to_notice_drops_nothing():
    draw = first(site(name="PERIODIC", total=3), lambda pattern: pattern.start == 0)
    assert draw.kept is None and of(draw, 3) == [2, 2, 2]


def test_an_axis_of_which_nothing_is_left():
    draw = first(site(name="PERIODIC", total=3), lambda pattern: pattern.start == 4)
    assert draw.kept.count == 0 and draw.kept.total == 3 and of(draw, 3) == [0, 0, 0]


@pytest.mark.parametrize("name", known_families())
def test_rate_zero_is_the_identity(name):
    one = site(0, name)
    for counter in range(20):
        draw = one.draw(counter)
        draw = draw.as_units(20) if isinstance(draw, Weights) else draw
        assert draw.kept is None and draw.scale == 1 and set(draw.mask((2, 20), 1).ravel().tolist()) == {1}
        assert draw.groups(2) is None or all(kept.is_all for _, _, kept in draw.groups(2))


def test_masked_hides_what_is_kept():
    for draw in (site().draw(2), site(name="BLOCK").draw(0)):
        masked = Masked(draw)
        assert (masked.kept is None and masked.groups(4) is None and masked.scale == 2
                and masked.pattern is draw.pattern)
        np.testing.assert_array_equal(masked.mask((5, 20), 1), draw.mask((5, 20), 1))
    draw = site(name="TILE").draw(0)
    assert Masked(draw).tiles(20, 8) is None
    np.testing.assert_array_equal(Masked(draw).weight_mask(20, 8), draw.weight_mask(20, 8))


def test_total_must_be_known():
    with pytest.raises(ShapeError, match="layer 'drop1': the length of the dropped axis is not known yet"):
        site(total=None).draw(0)


def test_wrong_settings_are_found_when_the_site_is_made():
    with pytest.raises(ConfigError, match="max_period 2 is too small"):
        site(0.9, max_period=2)


def test_the_kept_sets_of_a_captured_step_stand_in_for_its_own():
    draw = first(site(), lambda pattern: pattern.step == 3)
    other = first(site(), lambda pattern: pattern.step == 2)
    assert draw.kept_sets() == [draw.kept] and draw.given(other.kept_sets()).kept == other.kept
    assert site(0).draw(0).kept_sets() == []


# -- weights -------------------------------------------------------------------------------------------------
def test_weights_of_no_product_are_units_in_runs():
    draw = first(site(name="TILE", total=10, tile_size=3), lambda pattern: pattern.period == 3
                 and pattern.offset == 1)
    units = draw.as_units(10)
    assert isinstance(draw, Weights) and isinstance(units, Units) and units.kept.indices.tolist() == [3, 4, 5]
    assert of(units, 10) == [0, 0, 0, 2, 2, 2, 0, 0, 0, 0]
    assert units.tiles(10, 7) is None and units.groups(4) is None


def test_weights_of_the_product_above():
    draw = first(site(name="TILE", total=10, tile_size=3), lambda pattern: pattern.period == 3)
    assert draw.kept is None and draw.groups(4) is None and draw.scale == 2
    assert draw.tiles(10, 7) == draw.pattern.tiles(10, 7) and len(draw.tiles(10, 7)) == 3
    assert np.array_equal(draw.weight_mask(10, 7), 2 * draw.pattern.weight_mask(10, 7))
    sets = draw.kept_sets((10, 7))
    assert draw.given(sets[::-1]).tiles(10, 7) == tuple(zip(sets[::-1][::2], sets[::-1][1::2], strict=True))


# -- blocks and steps ----------------------------------------------------------------------------------------
def test_blocks():
    draw = site(name="BLOCK", total=10, block_samples=4, block_units=3).draw(0)
    assert isinstance(draw, Blocks) and draw.kept is None and draw.tiles(10, 7) is None and draw.scale == 2
    assert draw.groups(9) == draw.pattern.groups(9, 10)
    assert [(begin, end) for begin, end, _ in draw.groups(9)] == [(0, 4), (4, 8), (8, 9)]
    mask = draw.mask((9, 10), 1)
    for begin, end, kept in draw.groups(9):
        assert (mask[begin:end] == 2 * kept.mask(float)).all()
    assert draw.mask((3, 3, 10), 2).reshape(9, 10).tolist() == mask.tolist()
    table = np.zeros((3, 4), np.uint8)
    assert draw.given(DeviceGrid(table, 4, 3)).groups(9).grid.table is table


def test_steps():
    one = site(name="UNIT", total=10)
    one.steps = 3
    draw, sequence = one.draw(5), PatternSequence(one.family, 0, "drop1")
    assert isinstance(draw, Steps) and one.kind == "blocks"
    assert draw.groups(6) == tuple((2 * t, 2 * t + 2, sequence.at(15 + t).kept(10)) for t in range(3))
    with pytest.raises(CaptureError, match="layer 'drop1' draws another pattern for each step"):
        draw.grid(6)


@in_turn("held", [1, 2, 3, 5, 9])
def test_runs_of_steps(held):
    """Of five steps each `held` have a pattern; the last of them fewer."""
    one = site(name="UNIT", total=10)
    one.shape(10, 5, held=held)
    draw, runs = one.draw(4), -(-5 // held)
    kept = [one.sequence.at(4 * runs + i).kept(10) for i in range(runs)]
    assert one.draws == runs and draw.by_run == tuple(kept)
    assert draw.by_step == tuple(kept[t // held] for t in range(5))
    assert draw.groups(10) == tuple((2 * t, 2 * min(5, t + held), own)
                                    for t, own in zip(range(0, 5, held), kept, strict=True))
    assert draw.mask((5, 2, 10), 2).tolist() == [[(2 * own.mask(float)).tolist()] * 2 for own in draw.by_step]


def test_runs_of_steps_with_groups_of_streams():
    """The groups of each step: the samples of one are no single run. Where they are, one group for all."""
    one = site(name="UNIT", total=10, groups=2)
    one.shape(10, 3, held=2)
    draw = one.draw(0)
    (a, b), (c, d) = (every.sets for every in draw.by_run)
    assert draw.groups(12) == ((0, 2, a), (2, 4, b), (4, 6, a), (6, 8, b), (8, 10, c), (10, 12, d))
    assert draw.groups(3) == ((0, 2, b), (2, 3, d))         # one stream is the second group's


def test_repr_names_the_layer():
    assert repr(site()).startswith("DropSite('drop1', PatternSettings(rate=0.5")


@in_turn("rate", [0.3, 0.5, 2 / 3, 0.9, 0.95])
@in_turn("name", known_families())
def test_no_iteration_drops_a_whole_axis_and_the_rate_is_kept(name, rate):
    for total in (1, 2, 3, 5, 8, 16, 29, 40):
        one = site(rate, name)
        one.shape(total)
        reached = min(rate, (total - 1) / total)
        assert one.family.distribution.rate == pytest.approx(reached, abs=1e-9)
        assert one.draw(0).scale == pytest.approx(1 / (1 - reached))
        counts = np.array([one.draw(i).pattern.kept(total).count for i in range(100)])
        assert counts.min() >= 1
        if one.family.drops == "weights":
            assert all(one.draw(i).weight_mask(total, inputs).any()
                       for i in range(20) for inputs in (1, 2, 9))
        if name in ("UNIT", "SLICE") or name == "PERIODIC" and total < 30:      # steady: the next integers
            assert abs(counts - total * (1 - reached)).max() < 1


@pytest.mark.parametrize("name, rate, total, settings, words", [
    ("PERIODIC", 0.5, 8, {}, "keeps 4 of 8, not 15 of 30: it has 8 units, and no iteration drops all"),
    ("PERIODIC", 0.5, 9, {"step": 64}, "keeps 4 of 9 to 5 of 9, not 32 of 64: it has 9 units, and no"),
    ("PERIODIC", 0.5, 30, {}, ""),
    ("ROW", 0.8, 7, {"max_period": 12}, "keeps 1 of 1 to 1 of 7, not 1 of 1 to 1 of 12: it has 7 units"),
    ("UNIT", 0.9, 4, {}, "drops at rate 0.75, not 0.9: one of its 4 units lives in every iteration"),
    ("BLOCK", 0.9, 1, {}, "drops at rate 0, not 0.9: one of its 1 unit lives in every iteration"),
])
def test_what_was_adapted_is_said(name, rate, total, settings, words):
    one = site(rate, name, **settings)
    one.shape(total)
    assert one.adapted.startswith(words) and bool(one.adapted) == bool(words)
    one.shape(200)
    assert not one.adapted and one.family is get_family(one.settings)
