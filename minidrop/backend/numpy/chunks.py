"""Work in chunks that fit into a core's own cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_BYTES = 1 << 19        # an array of this size and its result fit


def chunk_of(columns: int, itemsize: int) -> int:
    """Return how many rows a chunk has."""
    return max(1, _BYTES // max(1, columns * itemsize))


def by_chunks(work: Callable, step: int) -> Callable:
    """Return a function of (first, last) that calls work(first, last) for `step` rows at a time."""
    errors = np.geterr()

    def some(first, last):
        with np.errstate(**errors):       # errstate is per thread: pass the caller's on
            for start in range(first, last, step):
                work(start, min(last, start + step))
    return some
