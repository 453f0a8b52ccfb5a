"""Products of a few samples with what is kept of a matrix, without a gathered copy of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.backend.generic import Backend
from minidrop.backend.numpy import thin
from minidrop.kept import Kept
from minidrop.kernels import threads

FEWEST, MOST = 8, 64        # samples; with more BLAS is as fast
LEAST_ENTRIES = 1 << 16     # of what is kept
LEAST_SIDE = 4              # times as many rows and columns as samples: else packing these costs too much
LEAST_RUN = 4               # neighbours, on average: each run is copied by whole vectors
_HEIGHTS = {512: 12, 256: 6}        # rows of a block, of one or two vectors


class KeptWeight:
    """W[rows, cols], for `gemm` as the second operand: first transposed, then as it is."""

    __slots__ = ("backend", "W", "rows", "cols", "shape", "dtype", "panels")

    def __init__(self, backend: Backend, W: np.ndarray, rows: Kept, cols: Kept):
        self.backend, self.W, self.rows, self.cols = backend, W, rows, cols
        self.shape, self.dtype, self.panels = (rows.count, cols.count), W.dtype, None

    def array(self) -> np.ndarray:
        return self.backend.submatrix(self.W, self.rows, self.cols)

    def multiplied(self, x: np.ndarray, transposed: bool, out: np.ndarray | None) -> np.ndarray:
        """Return x kept^T, or x kept after that."""
        y = self.backend.empty((len(x), self.shape[not transposed]), x.dtype) if out is None else out
        (self._forward if transposed else self._backward)(x, y)
        return y

    def _forward(self, x, y):
        from minidrop.kernels.cpu_compact import multiply_kept
        (height, *columns), wide = self._forms(len(x))
        xt = thin.packed(self.backend, x, columns[0] * columns[1], True)
        count = -(-self.shape[1] // wide)
        # An odd number of lines from one panel to the next: rows of all panels fit into the cache at once.
        self.panels = self.backend.empty((count, self.shape[0] | 1, wide), self.dtype)
        threads.by_rows(multiply_kept, -(-self.shape[0] // height), y.size * self.shape[1] // 8, self.W,
                        self.rows.indices, *self.cols.run_ends, xt, self.panels, y, self.dtype.type(0),
                        thin.as_types(height, *columns))

    def _backward(self, gy, gx):
        from minidrop.kernels.cpu_compact import multiply_panels
        form = thin.form_of(len(gy), self.dtype)
        gyt = thin.packed(self.backend, gy, form[0], True)
        threads.by_rows(multiply_panels, len(self.panels), gx.size * self.shape[0] // 8, gyt, self.panels, gx,
                        self.dtype.type(0), thin.as_types(*form))
        self.panels = None

    def _forms(self, samples):
        """Return (rows, vectors, numbers) of a block forward, and how wide a panel is backward."""
        from minidrop.kernels import vectors
        lanes = vectors.lanes(self.dtype)
        two = -(-samples // lanes) % 2 == 0         # no vector of samples is computed for nothing
        _, count, numbers = thin.form_of(samples, self.dtype)
        return (_HEIGHTS[vectors.BITS], 2 if two else 1, lanes), count * numbers


def has_long_runs(kept: Kept | None) -> bool:
    """Whether a kept set, None for all, has runs of neighbours that are copied by vectors without loss."""
    return kept is None or kept.count >= LEAST_RUN * len(kept.run_ends[0])


class CompactProducts(Backend):
    """`kept_operand`."""

    def kept_operand(self, W: np.ndarray, rows: Kept | None, cols: Kept | None, samples: int) -> Any:
        rows, cols = (Kept.all(n) if kept is None else kept
                      for n, kept in zip(W.shape, (rows, cols), strict=True))
        if (FEWEST <= samples <= MOST and rows.count * cols.count >= LEAST_ENTRIES and W.flags.c_contiguous
                and min(rows.count, cols.count) >= LEAST_SIDE * samples and has_long_runs(cols)
                and not (cols.is_all and rows.runs is not None) and W.dtype.char in "fd"
                and thin.form_of(samples, W.dtype) is not None):
            return KeptWeight(self, W, rows, cols)
        return super().kept_operand(W, rows, cols, samples)
