"""PatternSequence: pure, quota-true, shuffled, cheap."""

from collections import Counter

import numpy as np
import pytest

from minidrop.patterns import BLOCK_LENGTH, PatternSequence, PatternSettings, get_family, known_families
from minidrop.patterns.sequence import quotas


def sequence(name="ROW", rate=0.5, seed=0, layer="drop1", **more):
    return PatternSequence(get_family(PatternSettings(rate, name, **more)), seed, layer)


def test_the_block_is_a_thousand_iterations():
    assert BLOCK_LENGTH == 1000


@pytest.mark.parametrize("name", known_families())
def test_any_order_of_calls_gives_the_same_patterns(name):
    in_order = [sequence(name).at(i) for i in range(1200)]
    one = sequence(name)
    shuffled = np.random.default_rng(0).permutation(1200)[:60].tolist()
    assert [one.at(i) for i in shuffled] == [in_order[i] for i in shuffled]
    assert sequence(name).at(1134) == in_order[1134]


def test_seed_and_layer_name_matter_and_nothing_else():
    one = [sequence().at(i) for i in range(100)]
    assert one == [sequence().at(np.int64(i)) for i in range(100)]
    assert one != [sequence(seed=1).at(i) for i in range(100)]
    assert one != [sequence(layer="drop2").at(i) for i in range(100)]
    assert one != [sequence().at(i) for i in range(1000, 1100)]


@pytest.mark.parametrize("block", [0, 1, 17])
def test_quotas_in_every_block(block):
    one = sequence()
    periods = Counter(one.at(block * 1000 + i).step for i in range(1000))
    expected = one.family.distribution.probabilities * 1000
    assert sum(periods.values()) == 1000
    for dp, count in periods.items():
        assert abs(count - expected[dp - 1]) < 1
    rate = sum(one.at(block * 1000 + i).rate for i in range(1000)) / 1000
    assert rate == pytest.approx(0.5, abs=1e-3)


def test_the_order_is_shuffled():
    periods = np.array([sequence().at(i).step for i in range(1000)])
    assert abs(np.corrcoef(periods[:-1], periods[1:])[0, 1]) < 0.15
    assert not np.array_equal(periods, [sequence().at(1000 + i).step for i in range(1000)])


def test_offsets_are_uniform_and_independent():
    one = sequence("PERIODIC", step=10)
    starts = [one.at(i).start for i in range(10000)]
    counts = Counter(starts)
    assert sorted(counts) == list(range(10))
    # chi-square with 9 degrees of freedom: 27.9 is passed once in a thousand
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 27.9
    assert abs(np.corrcoef(starts[:-1], starts[1:])[0, 1]) < 0.05


def test_two_layers_draw_independently():
    a, b = sequence("PERIODIC"), sequence("PERIODIC", layer="drop2")
    starts = np.array([[a.at(i).start, b.at(i).start] for i in range(5000)])
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.07


def test_drawn_patterns_are_fixed_for_ever():
    # resuming an old snapshot must draw what the first run would have drawn
    one = sequence()
    drawn = [(one.at(i).step, one.at(i).start) for i in range(6)]
    assert drawn == [(2, 0), (2, 1), (3, 2), (3, 1), (2, 0), (2, 0)]
    assert [(one.at(i).period, one.at(i).offset) for one in [sequence("TILE")] for i in range(6)] == drawn
    one = sequence("ROW", max_period=8)
    assert [(one.at(i).step, one.at(i).start) for i in range(6)] == [(1, 0), (1, 0), (6, 2), (3, 1), (2, 1),
                                                                     (3, 1)]
    assert [sequence("PERIODIC", step=10).at(i).start for i in range(6)] == [3, 5, 9, 5, 1, 1]
    for name, expected in (("UNIT", [[0, 4, 6, 7], [1, 4, 6, 7], [1, 2, 3, 7]]),
                           ("SLICE", [[1, 2, 3, 4], [0, 1, 2, 3], [4, 5, 6, 7]])):
        assert [sequence(name).at(i).kept(8).indices.tolist() for i in range(3)] == expected
    blocks = sequence("BLOCK", block_samples=2, block_units=2)
    assert [[kept.indices.tolist() for _, _, kept in blocks.at(i).groups(4, 8)] for i in range(3)] == [
        [[4, 5], [0, 1]], [[0, 1], [4, 5, 6, 7]], [[6, 7], [0, 1, 2, 3, 4, 5]]]


def test_negative_counter():
    with pytest.raises(ValueError, match="count from 0, got -1"):
        sequence().at(-1)


@pytest.mark.parametrize("probabilities, length, expected", [
    ([0.5, 0.5], 3, [2, 1]),
    ([0.3, 0.7], 1000, [300, 700]),
    ([1 / 3] * 3, 1000, [334, 333, 333]),
    ([0.26, 0.37, 0.37], 10, [2, 4, 4]),
    ([0.9996, 0.0004], 1000, [1000, 0]),
    ([0.9994, 0.0006], 1000, [999, 1]),
    ([1.0], 1000, [1000]),
])
def test_largest_remainder(probabilities, length, expected):
    assert quotas(probabilities, length).tolist() == expected


def test_largest_remainder_is_within_one_for_any_distribution():
    rng = np.random.default_rng(0)
    for size in (2, 3, 10, 300):
        for concentration in (0.05, 1, 20):
            d = rng.dirichlet(np.full(size, concentration))
            counts = quotas(d, 1000)
            assert counts.sum() == 1000 and (np.abs(counts - 1000 * d) < 1).all()
