"""Random streams: the same numbers for the same names, other numbers for others, on every machine."""

from itertools import product

import numpy as np

from minidrop.rng import generator, stream_key


def test_key_is_fixed_for_ever():
    # a snapshot saves seeds and counters only: another value here breaks every resumed run
    assert stream_key(0, "dropout", "drop1", 17) == 14544029934969353807
    drawn = generator(0, "dropout", "drop1", 17).integers(0, 1000, 5)
    assert drawn.tolist() == [533, 76, 501, 841, 204]


def test_a_generator_is_a_philox_with_the_key_of_its_names():
    for counter in range(20):
        ours = generator(3, "units", counter)
        numpys = np.random.Generator(np.random.Philox(key=stream_key(3, "units", counter)))
        for draw in (lambda rng: rng.random(5), lambda rng: rng.permutation(100),
                     lambda rng: rng.integers(2**62, size=3), lambda rng: rng.standard_normal(7)):
            np.testing.assert_array_equal(draw(ours), draw(numpys))


def test_same_names_same_numbers():
    a, b = (generator(7, "data", 3).random(100) for _ in range(2))
    assert np.array_equal(a, b)


def test_other_seed_name_or_counter_other_numbers():
    names = product(range(-2, 3), "ab", ("drop1", "drop2"), range(50))
    keys = {stream_key(seed, purpose, layer, counter) for seed, purpose, layer, counter in names}
    assert len(keys) == 5 * 2 * 2 * 50
    assert all(0 <= key < 2 ** 64 for key in keys)


def test_names_do_not_run_into_each_other():
    assert stream_key(0, "drop1", 1) != stream_key(0, "drop", 11) != stream_key(0, "drop11")
    assert stream_key(1, 0) != stream_key(10)


def test_a_numpy_seed_is_its_integer():
    assert stream_key(np.int64(5), "x") == stream_key(5, "x")


def test_neighbouring_counters_are_unrelated():
    draws = np.array([generator(0, "x", counter).random() for counter in range(2000)])
    # mean of 2000 uniforms: deviation 0.0065; neighbours' correlation: deviation 0.022
    assert abs(draws.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.1


def test_drawing_leaves_numpy_s_own_state_alone():
    before = np.random.get_state()[1].copy()
    generator(0, "x").random(10)
    assert np.array_equal(before, np.random.get_state()[1])
