"""Random numbers of entries are those of the generic backend, and of the law that they should have."""

import math

import numpy as np
import pytest
from agreement import GENERIC, memory, same
from cases import in_turn


@pytest.fixture
def backend(any_backend):
    return any_backend


@memory
@in_turn("shape", [(1,), (3,), (7, 9), (300, 5), (2, 3, 5, 7), (0, 4)])
@in_turn("rate", [0.1, 0.5, 0.9])
def test_dropout(backend, array, rate, shape, layout):
    x, gy = array(shape, layout), array(shape, layout)
    y, mask = GENERIC.dropout(x, rate, 1 / (1 - rate), 2**63 + 17)
    got_y, got_mask = backend.dropout(backend.asarray(x), rate, 1 / (1 - rate), 2**63 + 17)
    same(backend, got_mask, mask)
    same(backend, got_y, y)
    same(backend, got_y, np.where(mask, x * x.dtype.type(1 / (1 - rate)), 0).astype(x.dtype))
    same(backend, backend.dropout_gradient(backend.asarray(gy), got_mask, 2.0),
         GENERIC.dropout_gradient(gy, mask, 2.0))


def test_dropout_masks_do_not_depend_on_the_shape(backend):
    """Element i is drawn from (key, i) alone."""
    ones = backend.asarray(np.ones(1001, np.float32))
    _, mask = backend.dropout(ones, 0.4, 1.0, 5)
    for count in (1, 4, 513, 1000):
        same(backend, backend.dropout(ones[:count], 0.4, 1.0, 5)[1], backend.to_host(mask)[:count])


@in_turn("shape", [(1, 1, 1), (2, 3, 5), (3, 2, 1001), (2, 0, 4)])
@in_turn("begin, strides", [(0, (5000, 1001)), (7, (30, 5)), (2**34 + 2, (2**20 + 1, 2**10 + 3))])
def test_a_tile_of_a_dropout_mask(backend, shape, begin, strides):
    got = backend.dropout_tile(shape, begin, strides, 0.4, 2**63 + 17)
    assert got.shape == shape and got.dtype == bool
    same(backend, got, GENERIC.dropout_tile(shape, begin, strides, 0.4, 2**63 + 17))
    if begin < 100:
        whole = GENERIC.dropout(np.ones(20_000, np.float32), 0.4, 1.0, 2**63 + 17)[1]
        a, r, c = np.ogrid[tuple(map(slice, shape))]
        same(backend, got, whole[begin + a * strides[0] + r * strides[1] + c])


def test_dropout_rate(backend):
    x = backend.asarray(np.ones(400_000, np.float32))
    for rate in (0.1, 0.5, 0.75):
        kept = backend.to_host(backend.dropout(x, rate, 1.0, 99)[1]).mean()
        assert abs(kept - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / 400_000)


GAUSSIAN_TOLERANCE = {"float32": 2e-6, "float64": 1e-14}


@in_turn("shape", [(), (1,), (2,), (3,), (7, 9), (129, 31), (2, 3, 5, 7), (0, 4)])
@in_turn("key", [0, 5, 2**63 + 17])
def test_gaussian(backend, dtype, shape, key):
    """All backends and dtypes give one stream, to rounding."""
    got = backend.gaussian(shape, np.dtype(dtype), key)
    assert isinstance(got, backend.xp.ndarray) and got.shape == shape and got.dtype == dtype
    expected = GENERIC.gaussian(shape, np.dtype(np.float64), key)
    np.testing.assert_allclose(backend.to_host(got), expected, rtol=0, atol=GAUSSIAN_TOLERANCE[dtype])
    single = GENERIC.gaussian(shape, np.dtype(np.float32), key)
    np.testing.assert_array_equal(single, expected.astype(np.float32))


def test_gaussian_numbers_do_not_depend_on_the_shape(backend, dtype):
    """Number i is drawn from (key, i) alone, wherever work is split."""
    numbers = backend.to_host(backend.gaussian((1001,), np.dtype(dtype), 5))
    for count in (1, 4, 511, 513, 1000):
        np.testing.assert_allclose(backend.to_host(backend.gaussian((count,), np.dtype(dtype), 5)),
                                   numbers[:count], rtol=0, atol=GAUSSIAN_TOLERANCE[dtype])


def test_gaussian_law(backend, dtype):
    """Moments, and the distance of the empirical distribution from the normal one."""
    e = backend.to_host(backend.gaussian((400, 1000), np.dtype(dtype), 99)).astype(float).reshape(-1)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((e**power).mean() - mean) < 5 * np.sqrt(variance / e.size), f"moment {power}"
    places = np.sort(e)[::400]
    normal = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in places])
    # P(further) < 0.001
    assert abs(normal - np.arange(0, e.size, 400) / e.size).max() < 2 / np.sqrt(e.size)
    assert abs(e).max() < math.sqrt(64 * math.log(2))
