"""DropSite: what a layer sees of the pattern of the iteration."""


import numpy as np
import pytest

from minidrop.errors import ConfigError, ShapeError
from minidrop.patterns import DropSite, PatternSequence, PatternSettings, get_family, known_families

UNITS = [name for name in known_families() if get_family(PatternSettings(0.5, name)).drops != "blocks"]


def site(rate=0.5, name="ROW", total=20, **more):
    return DropSite("drop1", PatternSettings(rate, name, **more), 0, total)


def first(one, wanted):
    """Draw until the pattern is as wanted."""
    return next(pattern for pattern in map(one.draw, range(3000)) if wanted(pattern))


def test_before_the_first_draw_it_is_the_identity():
    one = site()
    assert one.pattern is None and one.kept is None and one.scale == 1
    assert one.mask().tolist() == [1] * 20


@pytest.mark.parametrize("name", known_families())
def test_draw_follows_the_sequence(name):
    one = site(name=name)
    sequence = PatternSequence(one.family, 0, "drop1")
    for counter in (0, 1, 5, 4321, 5):
        assert one.draw(counter) == one.pattern == sequence.at(counter)


@pytest.mark.parametrize("name, scale", [(name, scale) for name in UNITS for scale in ("RATE", "PATTERN")])
def test_mask_is_kept_times_scale(name, scale):
    one = site(0.35, name, total=23, scale=scale)
    for counter in range(200):
        pattern = one.draw(counter)
        survivors = pattern.kept(23)
        expected = [pattern.scale * (i in survivors.indices) for i in range(23)]
        assert one.mask().tolist() == expected
        assert one.kept is None if survivors.is_all else one.kept == survivors
        assert one.scale == pattern.scale


def test_mask_has_the_wanted_dtype():
    one = site()
    for wanted in (lambda pattern: pattern.step == 1, lambda pattern: pattern.step == 3):
        first(one, wanted)
        assert one.mask().dtype == np.float64 and one.mask(np.float32).dtype == np.float32


def test_scale_rate_holds_where_nothing_is_dropped():
    one = site(0.3)
    first(one, lambda pattern: pattern.step == 1)
    assert one.kept is None and one.scale == 1 / 0.7
    assert one.mask().tolist() == [1 / 0.7] * 20
    one = site(0.3, scale="PATTERN")
    first(one, lambda pattern: pattern.step == 1)
    assert one.kept is None and one.scale == 1


def test_an_axis_too_short_to_notice_drops_nothing():
    one = site(name="PERIODIC", total=3)
    first(one, lambda pattern: pattern.start == 0)
    assert one.kept is None and one.mask().tolist() == [2, 2, 2]


def test_an_axis_of_which_nothing_is_left():
    one = site(name="PERIODIC", total=3)
    first(one, lambda pattern: pattern.start == 4)
    assert one.kept.count == 0 and one.kept.total == 3 and one.mask().tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", known_families())
def test_rate_zero_is_the_identity(name):
    one = site(0, name)
    for counter in range(20):
        one.draw(counter)
        assert one.kept is None and one.scale == 1
        dense = one.block_mask(2)[1] if one.drops == "blocks" else one.mask()
        assert dense.tolist() == [1] * 20
        assert one.groups(2) is None or all(kept.is_all for _, _, kept in one.groups(2))


def test_phase_test_drops_nothing():
    one = site()
    first(one, lambda pattern: pattern.step == 3)
    one.active = False
    assert one.kept is None and one.scale == 1 and one.mask().tolist() == [1] * 20
    one.active = True
    assert one.kept.count in (6, 7) and one.scale == 2


def test_masked_hides_kept_only():
    one = site()
    first(one, lambda pattern: pattern.step == 3)
    compact = one.mask().tolist()
    one.masked = True
    assert one.kept is None and one.scale == 2 and one.mask().tolist() == compact
    assert sorted(set(compact)) == [0, 2]


def test_total_may_change_between_iterations():
    one = site()
    first(one, lambda pattern: pattern.step == 2)
    one.total = 31
    assert one.kept.total == 31 and one.mask().shape == (31,)


def test_total_must_be_known():
    one = site(total=None)
    one.draw(0)
    with pytest.raises(ShapeError, match="layer 'drop1': the length of the dropped axis is not known yet"):
        one.kept  # noqa: B018


def test_wrong_settings_are_found_when_the_site_is_made():
    with pytest.raises(ConfigError, match="max_period 2 is too small"):
        site(0.9, max_period=2)


# -- weights -----------------------------------------------------------------------------------------------------------
def attached(rate=0.5, **more):
    one = site(rate, "TILE", total=10, tile_size=3, **more)
    one.attached = True
    return one


def test_weights_of_no_product_are_units_in_runs():
    one = site(name="TILE", total=10, tile_size=3)
    pattern = first(one, lambda pattern: pattern.period == 3 and pattern.offset == 1)
    assert one.drops == "units" and one.kept == pattern.kept(10) and one.kept.indices.tolist() == [3, 4, 5]
    assert one.mask().tolist() == [0, 0, 0, 2, 2, 2, 0, 0, 0, 0]
    assert one.tiles(10, 7) is None and one.groups(4) is None


def test_weights_of_the_product_above():
    one = attached()
    pattern = first(one, lambda pattern: pattern.period == 3)
    assert one.drops == "weights" and one.kept is None and one.groups(4) is None and one.scale == 2
    assert one.tiles(10, 7) == pattern.tiles(10, 7) and len(one.tiles(10, 7)) == 3
    assert np.array_equal(one.weight_mask(10, 7), 2 * pattern.weight_mask(10, 7))
    assert one.weight_mask(10, 7, np.float32).dtype == np.float32


def test_weights_masked_and_inactive():
    one = attached()
    first(one, lambda pattern: pattern.period == 3)
    mask = one.weight_mask(10, 7)
    one.masked = True
    assert one.tiles(10, 7) is None and np.array_equal(one.weight_mask(10, 7), mask) and set(mask.ravel()) == {0, 2}
    one.masked, one.active = False, False
    assert one.tiles(10, 7) is None and one.scale == 1 and (one.weight_mask(10, 7) == 1).all()


# -- blocks ------------------------------------------------------------------------------------------------------------
def blocks(**more):
    one = site(name="BLOCK", total=10, block_samples=4, block_units=3, **more)
    one.draw(0)
    return one


def test_blocks():
    one = blocks()
    assert one.drops == "blocks" and one.kept is None and one.tiles(10, 7) is None and one.scale == 2
    assert one.groups(9) == one.pattern.groups(9, 10)
    assert [(begin, end) for begin, end, _ in one.groups(9)] == [(0, 4), (4, 8), (8, 9)]
    mask = one.block_mask(9)
    assert mask.shape == (9, 10) and one.block_mask(9, np.float32).dtype == np.float32
    for begin, end, kept in one.groups(9):
        assert (mask[begin:end] == 2 * kept.mask(float)).all()


def test_blocks_masked_and_inactive():
    one = blocks()
    mask = one.block_mask(9)
    one.masked = True
    assert one.groups(9) is None and np.array_equal(one.block_mask(9), mask) and set(mask.ravel()) == {0, 2}
    one.masked, one.active = False, False
    assert one.groups(9) is None and one.scale == 1 and (one.block_mask(9) == 1).all()


def test_blocks_before_the_first_draw():
    one = site(name="BLOCK", total=10)
    assert one.groups(9) is None and (one.block_mask(3) == 1).all()


def test_each_kind_has_its_mask():
    for one, own, others in ((site(), lambda: site().mask(), ("block_mask", "weight_mask")),
                             (blocks(), lambda: blocks().block_mask(4), ("mask", "weight_mask")),
                             (attached(), lambda: attached().weight_mask(10, 7), ("mask", "block_mask"))):
        own()
        for other in others:
            arguments = {"mask": (), "block_mask": (4,), "weight_mask": (10, 7)}[other]
            with pytest.raises(ValueError, match=rf"layer 'drop1': {other} is for .*; this one drops {one.drops} .*: call"):
                getattr(one, other)(*arguments)


def test_repr_names_the_layer():
    assert repr(site()).startswith("DropSite('drop1', PatternSettings(rate=0.5")
