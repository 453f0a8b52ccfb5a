"""DropSite: what a layer sees of the pattern of the iteration."""

import time

import numpy as np
import pytest

from minidrop.errors import ConfigError, ShapeError
from minidrop.patterns import DropSite, PatternSequence, PatternSettings, known_families


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


@pytest.mark.parametrize("scale", ["RATE", "PATTERN"])
@pytest.mark.parametrize("name", known_families())
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
        assert one.kept is None and one.scale == 1 and one.mask().tolist() == [1] * 20


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


@pytest.mark.parametrize("name", known_families())
def test_an_iteration_costs_little(name):
    one = site(name=name, total=2048)
    best = float("inf")
    for repeat in range(3):
        start = time.perf_counter()
        for counter in range(repeat * 1000, repeat * 1000 + 1000):
            one.draw(counter)
            one.kept  # noqa: B018
        best = min(best, (time.perf_counter() - start) / 1000)
    assert best < 50e-6


def test_repr_names_the_layer():
    assert repr(site()).startswith("DropSite('drop1', PatternSettings(rate=0.5")
