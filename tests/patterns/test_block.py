"""BLOCK: blocks of activations, each on its own, and the guard."""

from itertools import product
from math import log

import numpy as np
import pytest

from minidrop.backend.device_sets import DeviceGrid
from minidrop.errors import CaptureError, ConfigError, ShapeError
from minidrop.kept import Kept
from minidrop.patterns import PatternSequence, PatternSettings, get_family
from minidrop.patterns.block import block_units, can_guard, guarded_rate
from minidrop.patterns.grid import BlockGrid, BlockGroups

DRAWS = 2000


def block(rate, **more):
    return get_family(PatternSettings(rate, "BLOCK", **more))


def living(rate, blocks, draws=DRAWS):
    """Return what lives, (draws, blocks), of the first group of samples."""
    family = block(rate, block_units=1)
    return np.array([family.pattern("blocks", key).kept(blocks).mask() for key in range(draws)])


def test_groups_and_blocks():
    groups = block(0.5, block_samples=4, block_units=3).pattern("blocks", 11).groups(10, 8)
    assert [(first, last) for first, last, _ in groups] == [(0, 4), (4, 8), (8, 10)]
    for _, _, kept in groups:
        mask = kept.mask(int).tolist()
        # blocks of units 0-2, 3-5 and 6-7
        assert mask[0] == mask[1] == mask[2] and mask[3] == mask[4] == mask[5] and mask[6] == mask[7]
        assert kept.total == 8 and sum(mask) > 0


@pytest.mark.parametrize("samples, total", [(10, 8), (8, 7), (1, 3), (0, 8)])
def test_the_grid_says_what_the_groups_say(samples, total):
    groups = block(0.5, block_samples=4, block_units=3).pattern("blocks", 11).groups(samples, total)
    grid = groups.grid
    assert (grid.block_samples, grid.block_units) == (4,
                                                      3) and grid.shape == (-(-samples // 4), -(-total // 3))
    mask = grid.mask(samples, total)
    for first, last, kept in groups:
        assert (mask[first:last] == kept.mask()).all()
    assert len(groups) == grid.shape[0] and groups == tuple(groups)
    assert grid is block(0.5, block_samples=4, block_units=3).pattern("blocks", 11).grid(samples, total)
    with pytest.raises(ValueError, match="read-only"):
        grid.lives[...] = 1


def test_without_drops_there_is_no_grid():
    assert block(0.0, block_samples=4).pattern("blocks",
                                               0).groups(6, 8) == ((0, 4, Kept.all(8)), (4, 6, Kept.all(8)))


def test_groups_of_which_only_the_device_knows_what_lives():
    groups = block(0.5, block_samples=4, block_units=3).pattern("blocks", 11).groups(10, 8)
    moving = BlockGroups(DeviceGrid(np.zeros((3, 3), np.uint8), 4, 3), 10, 8)
    assert len(moving) == 3 and moving.grid.shape == groups.grid.shape
    for ask in (lambda: moving[0], lambda: list(moving), lambda: moving.grid.mask(10, 8)):
        with pytest.raises(CaptureError, match="^what lives is asked for, but a captured step knows only how "
                           "many blocks"):
            ask()


def test_a_grid_that_does_not_fit():
    grid = BlockGrid(np.ones((2, 3), np.uint8), 4, 2)
    with pytest.raises(ShapeError,
                       match=r"^blocks of 4 x 2 of activations \(9, 6\) need a grid of 3 x 3, got 2 x 3$"):
        grid.mask(9, 6)


def test_kept_is_the_first_group():
    one = block(0.5, block_samples=4, block_units=3).pattern("blocks", 11)
    assert one.kept(80) == one.groups(100, 80)[0][2]


@pytest.mark.parametrize("rate, blocks", [(0.5, 2), (0.5, 4), (0.3, 2), (0.7, 8), (0.9, 20), (0.75, 4),
                                          (0.9, 10), (0.5, 3)])
def test_the_rate_before_the_guard(rate, blocks):
    assert can_guard(rate, blocks)
    q = guarded_rate(rate, blocks)
    assert rate < q <= 1 and q - q ** blocks / blocks == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize("rate, blocks", [(0.5, 2), (0.5, 3), (0.3, 2), (0.7, 4), (0.3, 5)])
def test_the_guard_keeps_the_rate_by_listing_every_outcome(rate, blocks):
    q = guarded_rate(rate, blocks)
    dropped = np.zeros(blocks)
    for drops in product((0, 1), repeat=blocks):
        probability = np.prod([q if drop else 1 - q for drop in drops])
        # where all are dropped one is spared, each as likely
        dropped += probability * (np.array(drops) if not all(drops) else np.full(blocks, 1 - 1 / blocks))
    assert dropped == pytest.approx(np.full(blocks, rate), abs=1e-12)


@pytest.mark.parametrize("rate, blocks", [
    (0.5, 2), (0.7, 4), (0.9, 10), (0.3, 5),
    *(pytest.param(*case, marks=pytest.mark.full) for case in ((0.5, 3), (0.75, 4), (0.9, 16)))])
def test_no_group_is_empty_and_every_block_has_the_rate(rate, blocks):
    live = living(rate, blocks)
    assert live.any(axis=1).all()
    assert live.mean(axis=0) == pytest.approx(np.full(blocks, 1 - rate),
                                              abs=5 * (rate * (1 - rate) / DRAWS) ** 0.5)


@pytest.mark.parametrize("rate, blocks", [(0.5, 1), (0.7, 3), (0.9, 9)])
def test_too_few_blocks_have_no_guard(rate, blocks):
    assert not can_guard(rate, blocks) and guarded_rate(rate, blocks) == rate
    live = living(rate, blocks)
    assert abs((~live).all(axis=1).mean() - rate ** blocks) < 5 * 0.5 / DRAWS ** 0.5
    assert live.mean(axis=0) == pytest.approx(np.full(blocks, 1 - rate),
                                              abs=5 * (rate * (1 - rate) / DRAWS) ** 0.5)


def test_as_few_blocks_as_a_guard_can_do_with_keep_exactly_one():
    assert guarded_rate(0.5, 2) == guarded_rate(0.75, 4) == guarded_rate(0.9, 10) == 1
    assert (living(0.75, 4).sum(axis=1) == 1).all()


def test_blocks_are_independent():
    live = living(0.5, 12).astype(float)
    correlation = np.corrcoef(live.T)[~np.eye(12, dtype=bool)]
    # the guard acts once in 4096
    assert np.abs(correlation).max() < 5 / DRAWS ** 0.5


def test_groups_of_samples_are_independent():
    family = block(0.5, block_samples=1, block_units=1)
    live = np.array([[kept.mask() for _, _, kept in family.pattern("blocks", key).groups(3, 8)]
                     for key in range(DRAWS)])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        correlation = np.corrcoef(live[:, a].ravel(), live[:, b].ravel())[0, 1]
        assert abs(correlation) < 5 / (8 * DRAWS) ** 0.5
    assert live.mean(axis=0) == pytest.approx(np.full((3, 8), 0.5), abs=5 * 0.5 / DRAWS ** 0.5)


def test_a_larger_batch_begins_with_the_same_groups():
    one = block(0.5, block_samples=4, block_units=2).pattern("blocks", 5)
    assert one.groups(16, 20)[:2] == one.groups(8, 20)
    assert one.groups(0, 20) == ()


@pytest.mark.parametrize("rate, width", [(0, 3), (0.5, 3), (0.5, 0), (0.9, 2)])
def test_sites_are_the_blocks_of_the_first_group(rate, width):
    family = block(rate, block_units=width)
    sites = family.sites(40)
    assert sites.what == "blocks" and sites.total == sites.sizes.sum() == 40
    for key in range(20):
        one = family.pattern("blocks", key)
        assert np.array_equal(family.live(one, sites).repeat(sites.sizes), one.kept(40).mask())


def test_seeds():
    def drawn(seed, layer="drop1"):
        sequence = PatternSequence(block(0.5, block_units=2), seed, layer)
        return [sequence.at(i).groups(200, 40) for i in range(20)]
    assert drawn(0) == drawn(0) != drawn(1) and drawn(0) != drawn(0, "drop2")


@pytest.mark.parametrize("rate, total, width", [
    (0.5, 2048, 128), (0.5, 512, 128), (0.5, 500, 125), (0.9, 2048, 102), (0.8, 1000, 100),
    (0.9, 64, 3), (0.9, 3, 1), (0.5, 1, 1),
])
def test_default_width(rate, total, width):
    assert block_units(rate, total) == width
    kept = block(rate).pattern("blocks", 4).kept(total).mask()
    assert all(len(set(kept[i:i + width])) == 1 for i in range(0, total, width))


def test_default_group():
    assert [(first, last) for first, last, _ in block(0.5).pattern("blocks", 0).groups(300, 512)] == [
        (0, 128), (128, 256), (256, 300)]


@pytest.mark.parametrize("rate, width, total, message", [
    (0.5, 100, 100, "block_units 100 cuts 100 units into 1 block, but rate 0.5 needs 2 at least, or a whole "
     "layer would "
                    "be dropped; set block_units to 50 or less, or remove it"),
    (0.7, 128, 300, "block_units 128 cuts 300 units into 3 blocks, but rate 0.7 needs 4 at least, .*; "
                    "set block_units to 75 or less"),
])
def test_check_total(rate, width, total, message):
    with pytest.raises(ConfigError, match=message):
        block(rate, block_units=width).check_total(total)
    least = int(message.split("block_units to ")[1].split()[0])
    block(rate, block_units=least).check_total(total)
    block(rate).check_total(total)
    block(0, block_units=width).check_total(total)


@pytest.mark.parametrize("rate, total, more, expected", [
    (0.5, 2048, {}, 2 ** 16 - 1), (0.5, 8, {"block_units": 2}, 15), (0.5, 4, {"block_units": 2}, 2),
    (0.7, 3, {}, 8), (0, 9, {}, 1),
])
def test_submodels(rate, total, more, expected):
    assert block(rate, **more).submodels(total) == expected


def test_entropy():
    # without a guard, three coins; with one at its limit, one of two; else every outcome listed
    coin = -0.7 * log(0.7) - 0.3 * log(0.3)
    assert block(0.7).pattern_entropy(3) == pytest.approx(3 * coin)
    assert block(0.5, block_units=1).pattern_entropy(2) == pytest.approx(log(2))
    q = guarded_rate(0.5, 3)
    odds = [(1 - q) ** 3] + [(1 - q) ** 2 * q] * 3 + [(1 - q) * q ** 2 + q ** 3 / 3] * 3
    assert sum(odds) == pytest.approx(1)
    assert block(0.5, block_units=1).pattern_entropy(3) == pytest.approx(-sum(p * log(p) for p in odds))


def test_scale_and_words():
    assert block(0.75).pattern("blocks", 0).scale == 4
    assert block(0.3).describe("blocks") == "0.7 of the blocks"
    with pytest.raises(ConfigError, match="pattern BLOCK has no scale PATTERN, only RATE; remove scale"):
        block(0.5, scale="PATTERN")
    with pytest.raises(ConfigError, match="block_samples must be 0 .* or an integer of at least 1, got -2"):
        block(0.5, block_samples=-2)
