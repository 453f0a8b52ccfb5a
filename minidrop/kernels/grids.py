"""Launch configurations: (grid, block) of a kernel from its sizes. Pure functions of integers."""

from typing import Any

COLUMNS = 128           # of a tile: 32 threads with PER_THREAD = 4 columns each (common.cuh)
ROWS = 8
BLOCKS = 4096           # fills the largest device several times; beyond, a thread takes several rows
THREADS = 256
TILES = ((64, 64), (128, 64), (128, 128))      # of block_products.cu, rows by columns
LEAST_TILES = {(128, 64): 120, (128, 128): 240}     # about one, and two, per SM of a large device
_PARTIAL_SUMS = 1024    # of an array, at most; one block adds them up
_LINES = 16             # of column_sums (sums.cu)
_TILE = 32              # of transpose (transpose.cu)
_LARGEST_Y = 65535      # what CUDA allows


def _parts(count, size):
    return max(1, -(-count // size))


def tiles(n: int, m: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Tiles of 8 rows by 128 columns of a matrix (n, m); a block may take several tiles of one column."""
    across = _parts(m, COLUMNS)
    return (across, min(_parts(n, ROWS), max(1, BLOCKS // across))), (32, ROWS)


def elements(n: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """One thread per element, or a grid-stride loop where there are more."""
    return (min(_parts(n, THREADS), BLOCKS), 1), (THREADS, 1)


def counters(n: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """One thread per four elements (dropout.cu)."""
    return elements(-(-n // 4))


def partial_sums(n: int) -> int:
    """Return how many blocks share a sum of n elements."""
    return min(_parts(n, 4 * THREADS), _PARTIAL_SUMS)


def rows(n: int, row_threads: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """`row_threads` threads per row, 256 per block."""
    lines = THREADS // row_threads
    return (_parts(n, lines), 1), (row_threads, lines)


def columns(m: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Blocks of 32 columns, whose threads share the rows."""
    return (_parts(m, 32), 1), (32, _LINES)


def squares(n: int, m: int) -> Any:
    """Blocks of 32 x 8 threads for tiles of 32 x 32."""
    return (_parts(m, _TILE), min(_parts(n, _TILE), _LARGEST_Y)), (32, 8)


def product(m: int, n: int, tile_m: Any, tile_n: Any) -> Any:
    """One block per tile of a matrix (m, n)."""
    return (_parts(m, tile_m) * _parts(n, tile_n), 1), (2 * tile_n, 1)


def tile_of_product(m: Any, n: Any, rows: Any = (), columns: Any = ()) -> Any:
    """Return the largest of TILES of which a matrix (m, n) has enough to keep a device busy.

    rows, columns: sizes that must be multiples of the tile's. Reasoned, not measured: large tiles read less,
    small ones balance the load better if some have less to do.
    """
    for tile_m, tile_n in TILES[:0:-1]:
        enough = _parts(m, tile_m) * _parts(n, tile_n) >= LEAST_TILES[tile_m, tile_n]
        if enough and not any(size % tile_m for size in rows) and not any(size % tile_n for size in columns):
            return tile_m, tile_n
    return TILES[0]
