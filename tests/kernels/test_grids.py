"""Every element has a thread, and no grid is larger than CUDA allows."""

import pytest
from cases import in_turn

from minidrop.kernels import grids

LARGEST_X, LARGEST_Y, MOST_THREADS = 2**31 - 1, 65535, 1024


@pytest.mark.parametrize("shape, expected", [
    ((1, 1), ((1, 1), (32, 8))),
    ((8, 128), ((1, 1), (32, 8))),
    ((9, 129), ((2, 2), (32, 8))),
    ((4096, 4096), ((32, 128), (32, 8))),           # 4096 blocks, of 4 rows of tiles each
    ((10, 2**31), ((2**24, 1), (32, 8))),
    ((2**40, 1), ((1, 4096), (32, 8))),
])
def test_tiles(shape, expected):
    assert grids.tiles(*shape) == expected


@pytest.mark.parametrize("n, blocks", [(1, 1), (256, 1), (257, 2), (10**12, 4096)])
def test_elements(n, blocks):
    assert grids.elements(n) == ((blocks, 1), (256, 1))


@pytest.mark.parametrize("n, blocks", [(1, 1), (1024, 1), (1025, 2)])
def test_counters(n, blocks):
    assert grids.counters(n) == ((blocks, 1), (256, 1))


def test_rows_columns_and_squares():
    assert grids.rows(17, 32) == ((3, 1), (32, 8))
    assert grids.rows(17, 256) == ((17, 1), (256, 1))
    assert grids.columns(33) == ((2, 1), (32, 16))
    assert grids.squares(33, 64) == ((2, 2), (32, 8))
    assert grids.squares(2**30, 1) == ((1, 65535), (32, 8))


@in_turn("n", [0, 1, 31, 129, 70_000, 2**31, 2**36])
@in_turn("m", [0, 1, 129, 70_000, 2**31 - 1])
def test_limits(n, m):
    for grid, block in (grids.tiles(n, m), grids.elements(n * m), grids.counters(n * m),
                        grids.rows(min(n, LARGEST_X), 256), grids.columns(m), grids.squares(n, m),
                        grids.product(min(n, 2**20), min(m, 2**20), 64, 64)):
        assert 1 <= grid[0] <= LARGEST_X and 1 <= grid[1] <= LARGEST_Y
        assert block[0] * block[1] <= MOST_THREADS and block[0] % 32 == 0
