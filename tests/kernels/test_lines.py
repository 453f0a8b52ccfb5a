"""Vectors over lines of any length: all of the line is written, and nothing around it."""

import numba
import numpy as np
import pytest
from cases import in_turn

from minidrop.kernels import vectors
from minidrop.kernels.lines import copy_line, finish_line

needs_vectors = pytest.mark.skipif(not vectors.BITS, reason="needs AVX2 with FMA, or AVX-512")


@numba.njit
def copied(source, to, lanes):
    copy_line(source, to, lanes)


@numba.njit
def finished(source, to, b, relu, scale, lanes):
    finish_line(source, to, b, relu, scale, lanes)


def lines(dtype):
    """Yield (numbers of a line, NaN, infinities and zeros among them, an array, where the line is in it)."""
    rng, lanes = np.random.default_rng(0), vectors.lanes(dtype)
    for size in range(1, 4 * lanes + 3):
        for begin in (0, 1, 3):
            source = rng.standard_normal(size).astype(dtype)
            source[rng.integers(0, size, 3)] = rng.choice([np.nan, -0.0, 0, np.inf, -np.inf], 3)
            yield source, np.full(size + 40, 77, dtype), slice(begin, begin + size)


def same(found, expected):
    np.testing.assert_array_equal(found, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]))


@needs_vectors
@in_turn("dtype", "fd")
def test_copied_lines(dtype):
    for source, around, place in lines(dtype):
        expected = around.copy()
        expected[place] = source
        copied(np.append(source, dtype == "d"), around[place], (None,) * vectors.lanes(dtype))
        same(around, expected)


@needs_vectors
@in_turn("dtype", "fd")
@in_turn("relu", [True, False])
@in_turn("b, scale", [(0, 1), (0.3, 2), (-0.0, -1.5), (np.nan, 1)])
def test_finished_lines(dtype, relu, b, scale):
    b, scale = (np.dtype(dtype).type(one) for one in (b, scale))
    for source, around, place in lines(dtype):
        expected, total = around.copy(), source + b
        expected[place] = scale * (np.where(total <= 0, b.dtype.type(0), total) if relu else total)
        finished(source, around[place], b, relu, scale, (None,) * vectors.lanes(dtype))
        same(around, expected)


@needs_vectors
def test_lines_of_two_types_are_refused():
    with pytest.raises(numba.TypingError, match="a line of float64 is not written from one of float32"):
        copied(np.ones(20, "f"), np.ones(20), (None,) * 4)
