"""TILE: one tile of weights in every dp."""

import tracemalloc
from math import gcd

import numpy as np
import pytest
from cases import in_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from minidrop.errors import ConfigError
from minidrop.patterns import PatternSettings, get_family
from minidrop.patterns.tile import TILE_SIZE, TilePattern, counted_columns, tile_size


def tile(rate, **more):
    return get_family(PatternSettings(rate, "TILE", **more))


def pattern(period, offset, size=1):
    return TilePattern(1 - 1 / period, 2.0, period, offset, size, drops="weights")


def test_by_hand():
    # 2 x 4 tiles of 2 x 2, the last row and column cut off; period 3 and 4 columns have no common divisor
    mask = pattern(3, 1, 2).weight_mask(3, 7)
    assert mask.astype(int).tolist() == [[0, 0, 1, 1, 0, 0, 0],       # tiles 0 1 2 3
                                         [0, 0, 1, 1, 0, 0, 0],
                                         [1, 1, 0, 0, 0, 0, 1]]       # tiles 4 5 6 7
    classes = {(tuple(rows.indices.tolist()), tuple(columns.indices.tolist()))
               for rows, columns in pattern(3, 1, 2).tiles(3, 7)}
    assert classes == {((0, 1), (2, 3)), ((2,), (0, 1, 6)), ((), (4, 5))}


def test_by_hand_where_the_numbering_is_stretched():
    # 4 tile columns and period 2: counted as 5, so that living tiles change columns from row to row
    assert pattern(2, 0).weight_mask(3, 4).astype(int).tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 23), st.data(), st.integers(1, 9), st.integers(0, 70), st.integers(0, 70))
def test_classes_are_the_mask(period, data, size, outputs, inputs):
    one = pattern(period, data.draw(st.integers(0, period - 1)), size)
    mask, found = one.weight_mask(outputs, inputs), np.zeros((outputs, inputs))
    read, written = np.zeros(inputs, int), np.zeros(outputs, int)
    classes = one.tiles(outputs, inputs)
    for rows, columns in classes:
        assert (rows.total, columns.total) == (outputs, inputs)
        found[np.ix_(rows.indices, columns.indices)] += 1
        written += rows.mask(int)
        read += columns.mask(int)
    assert len(classes) == period and np.array_equal(found, mask)
    # disjoint, and together everything
    assert (written == 1).all() and (read == 1).all()
    assert sum(rows.count * columns.count for rows, columns in classes) == mask.sum()


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 40), st.integers(1, 40))
def test_every_weight_lives_at_exactly_one_offset(period, size, outputs, inputs):
    assert (sum(pattern(period, offset, size).weight_mask(outputs, inputs)
                for offset in range(period)) == 1).all()


@pytest.mark.parametrize("columns, period, expected", [
    (4, 2, 5), (64, 8, 65), (6, 4, 7), (10, 6, 11), (9, 3, 10), (8, 15, 8), (25, 30, 29), (5, 1, 5),
    (0, 3, 1),
])
def test_counted_columns(columns, period, expected):
    assert counted_columns(columns, period) == expected and gcd(expected, period) == 1


@in_turn("period", range(2, 25))
@in_turn("columns", [1, 2, 12, 24, 30])
def test_no_input_loses_all_its_weights(period, columns):
    # with as many tile rows as the period, each column has its living tile; and each row where columns
    # suffice
    for offset in (0, period - 1):
        mask = pattern(period, offset).weight_mask(period, columns)
        assert (mask.sum(0) == 1).all()
        assert columns < period or mask.sum(1).min() >= 1


def test_a_huge_tile_needs_no_more_than_the_weights():
    tracemalloc.start()
    try:
        mask = pattern(2, 0, 60000).weight_mask(30, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert mask.shape == (30, 5) and mask.all() and peak < 1e6


def test_sites_are_the_tiles_of_the_mask():
    family = tile(0.5, tile_size=4)
    sites = family.sites(11, 18)
    assert (sites.what, sites.shape, sites.count, sites.total) == ("tiles", (3, 5), 15, 198)
    assert sites.sizes.reshape(3, 5).tolist() == [[16, 16, 16, 16, 8]] * 2 + [[12, 12, 12, 12, 6]]
    for one in (family.pattern(3, 1), family.pattern(2, 0), family.pattern(1, 0)):
        assert np.array_equal(family.live(one, sites).reshape(3, 5), one.weight_mask(11, 18)[::4, ::4])
        assert family.live(one, sites) @ sites.sizes == one.weight_mask(11, 18).sum()


def test_kept_is_the_pattern_of_a_matrix_one_tile_wide():
    for offset in range(3):
        one = pattern(3, offset, 4)
        assert np.array_equal(one.kept(29).mask(float), one.weight_mask(29, 1)[:, 0])
    assert pattern(3, 1, 4).kept(29).regular == (4, 12, 4) and pattern(1, 0, 4).kept(29).is_all


@in_turn("total, size", [(5, 4), (13, 32), (40, 32), (3, 2), (7, 4), (12, 4)])
def test_no_period_drops_all_units_of_an_axis(total, size):
    """Where runs of tile_size are fewer than the period they are shorter; each unit lives equally often."""
    for period in range(2, min(total, 5) + 1):
        masks = [pattern(period, offset, size).kept(total).mask(float) for offset in range(period)]
        assert min(mask.sum() for mask in masks) >= 1
        assert np.array_equal(sum(masks), np.ones(total))


def test_period_one_is_one_dense_product():
    (rows, columns), = pattern(1, 0, 32).tiles(50, 70)
    assert rows.is_all and columns.is_all and (rows.total, columns.total) == (50, 70)


def test_the_size_of_a_tile():
    assert TILE_SIZE == 32 and tile(0.5, tile_size=8).pattern(2, 1).size == 8
    # at p = 0.5 an axis has 4 tiles at least, at 0.9 it has 20
    assert [tile_size(length, 4) for length in (2048, 128, 127, 9, 3, 0)] == [32, 32, 31, 2, 1, 1]
    for rate, length, size in ((0.5, 2048, 32), (0.5, 64, 16), (0.9, 2048, 32), (0.9, 100, 5)):
        chosen, asked = tile(rate).pattern(2, 1), tile(rate, tile_size=size).pattern(2, 1)
        assert chosen.tiles(5000, length) == asked.tiles(5000,
                                                         length) and chosen.kept(length) == asked.kept(length)
        assert chosen.tiles(length, 5000) == asked.tiles(length, 5000)
        assert np.array_equal(chosen.weight_mask(700, length), asked.weight_mask(700, length))
    with pytest.raises(ConfigError, match="tile_size must be 0 .* or an integer of at least 1, got -1"):
        tile(0.5, tile_size=-1)


@pytest.mark.parametrize("rate, columns, sizes", [
    (0.5, 4, {784: 32, 2048: 32, 128: 32, 64: 16, 10: 2}),
    (0.7, 7, {784: 32, 2048: 32, 224: 32, 128: 18, 64: 9, 10: 1}),
])
def test_the_default_size_follows_the_shorter_side(rate, columns, sizes):
    # at least ceil(2 / (1 - p)) tile columns: twice as many as the mean period, and more than the longest
    assert tile(rate).pattern(2, 1).columns == columns > tile(rate).longest_period()
    assert {length: tile_size(length, columns) for length in sizes} == sizes
    for length, size in sizes.items():
        assert -(-length // size) >= columns
        for outputs in (length, length + 33, 3000):
            mask = tile(rate).pattern(3, 1).weight_mask(outputs, length)
            expected = tile(rate, tile_size=size).pattern(3, 1)
            assert np.array_equal(mask, expected.weight_mask(outputs, length))
            if length > 2 * size:       # the first tile row keeps tile 1 of every 3: nothing else of the
                                        # first two
                assert mask[0, :2 * size].tolist() == [0] * size + [1] * size


def test_an_asked_size_is_taken_as_it_is():
    # larger than the axis has room for: one tile, which lives or does not
    mask = tile(0.5, tile_size=64).pattern(2, 0).weight_mask(100, 10)
    assert mask[:64].all() and not mask[64:].any()
    assert tile(0.5, tile_size=64).pattern(2, 1).kept(100).indices.tolist() == list(range(64, 100))
    assert tile(0.5, tile_size=7).pattern(2, 1).kept(2048).regular == (7, 14, 7)


@in_turn("rate", [0.5, 0.7])
@in_turn("inputs", [10, 64, 784])
@in_turn("outputs", [10, 64, 100])
def test_mask_and_classes_agree_at_the_default_size(outputs, inputs, rate):
    family = tile(rate)
    for period in family.distribution.choices:
        for offset in range(period):
            one = family.pattern(period, offset)
            assert one.size == 0
            found = np.zeros((outputs, inputs))
            for rows, columns in one.tiles(outputs, inputs):
                found[np.ix_(rows.indices, columns.indices)] += 1
            assert np.array_equal(found, one.weight_mask(outputs, inputs))


@pytest.mark.parametrize("inputs", [64, 256, 784])
def test_every_output_keeps_a_weight(inputs):
    family = tile(0.5)
    assert family.longest_period() == 3
    for period in range(1, 4):
        for offset in range(period):
            kept = family.pattern(period, offset).weight_mask(300, inputs).sum(1)
            assert kept.min() >= (inputs if period == 1 else 1)
    # with the 32 x 32 of wide layers the 64 inputs would be two tiles, and one in three outputs would get
    # nothing
    assert not tile(0.5, tile_size=32).pattern(3, 0).weight_mask(300, 64).sum(1).all()


def test_periods_are_drawn_as_by_row():
    row = get_family(PatternSettings(0.5, "ROW", max_period=8))
    one = tile(0.5, max_period=8)
    assert one.distribution.choices == row.distribution.choices
    assert np.array_equal(one.distribution.probabilities, row.distribution.probabilities)
    assert one.describe(3) == "1 of 3" and one.pattern(4, 1).rate == 0.75
    assert (one.pattern(4, 1).scale, tile(0.5, scale="PATTERN").pattern(3, 1).scale) == (2, pytest.approx(3))


@pytest.mark.parametrize("search, message", [
    ({"max_period": 1}, "max_period must be 0 .* or an integer of at least 2, got 1"),
    ({"max_period": 1025}, "pattern TILE has periods up to 1024; got max_period: 1025; lower it"),
])
def test_periods_that_cannot_be(search, message):
    with pytest.raises(ConfigError, match=message):
        tile(0.5, **search)
