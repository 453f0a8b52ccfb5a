"""Weight gradients a^T b of few samples as late products: the update computes them, tile by tile.

Their norm needs no entry of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidrop.backend.generic import Backend
from minidrop.backend.late import Late
from minidrop.backend.numpy import thin
from minidrop.kept import Kept
from minidrop.kernels import threads

MOST_SAMPLES = 128          # of more the product is longer, and what it writes counts less
LEAST_ENTRIES = 1 << 16     # of the product
LEAST_RUN = 4               # neighbours, on average: each run is added by whole vectors
MOST_INNER = 30             # products of numbers for each entry, in inner products for a norm: of more the
                            # entries themselves are written and read as fast
MOST_CANCELLED = 100        # times a squared norm: how large its terms may be together
MOST_COPIED = 0.5           # of as many numbers: what is packed is read again for each block of rows
_FORMS = {512: (12, 2), 256: (6, 2)}        # rows and vectors of a block, see `thin._FORMS`


def form_of(dtype: np.dtype) -> tuple | None:
    """Return (rows, vectors, numbers of a vector) of the blocks of a product, None without wide vectors."""
    from minidrop.kernels import vectors
    lanes = vectors.lanes(dtype) if dtype.char in "fd" else 0
    return (*_FORMS[vectors.BITS], lanes) if lanes else None


class LateProduct(Late):
    """a^T b for a (samples, rows) and b (samples, columns), of both of which it has packed copies."""

    __slots__ = ("shape", "dtype", "backend", "a", "b", "zero", "form")

    def __init__(self, backend: Backend, a: np.ndarray, b: np.ndarray, form: tuple):
        self.shape, self.dtype, self.backend = (a.shape[1], b.shape[1]), a.dtype, backend
        self.zero, self.form = a.dtype.type(0), thin.as_types(*form)
        self.a = thin.packed(backend, a, form[0], False)
        self.b = thin.packed(backend, b, form[1] * form[2], False)

    def array(self) -> np.ndarray:
        from minidrop.kernels.cpu_late import TILE, write_product
        out = self.backend.empty(self.shape, self.dtype)
        # A product takes about an eighth of a streamed element's time for each term.
        threads.by_rows(write_product, -(-self.shape[0] // TILE), out.size * self.a.shape[1] // 8, self.a,
                        self.b, out, self.zero, self.form)
        return out

    @property
    def is_surely_finite(self) -> bool:
        # |a_i . b_j| <= |a| |b|, with room for what the norms lose by rounding.
        with np.errstate(over="ignore", invalid="ignore"):
            squares = [float(np.dot(x, x)) for x in (self.a.reshape(-1), self.b.reshape(-1))]
        return math.sqrt(squares[0]) * math.sqrt(squares[1]) < np.finfo(self.dtype).max / 4


class LateProducts(Backend):
    """`late_product` and `late_norm`."""

    def late_product(self, a: np.ndarray, b: np.ndarray, cols: Kept | None = None) -> Any:
        entries = a.shape[1] * b.shape[1]
        fits = (0 < a.shape[0] <= MOST_SAMPLES and entries >= LEAST_ENTRIES
                and a.size + b.size <= MOST_COPIED * entries and _has_long_runs(cols))
        form = form_of(a.dtype) if fits and a.dtype == b.dtype else None
        return None if form is None else LateProduct(self, a, b, form)

    def late_norm(self, W: np.ndarray, blocks: Any, separate: bool) -> float | None:
        """As the generic one: of all samples i and j, with zeros where a block has no row or no column,

            |sum_i a_i^T b_i|^2 = sum_ij (a_i . a_j) (b_i . b_j)
        """
        if W.ndim != 2 or not all(isinstance(block.late, LateProduct) for block in blocks):
            return None
        apart = [[one] for one in blocks] if separate else [blocks]
        squares = [self._square(own, W.shape) for own in apart]
        if None in squares:
            return None
        norm = math.sqrt(sum(squares))
        return norm if norm < np.finfo(W.dtype).max / 4 else None       # an entry may be as large

    def _square(self, blocks, shape):
        """Return the sum of squares of late blocks that may overlap, None if it is not exact, or not fast."""
        samples, entries = sum(one.late.a.shape[1] for one in blocks), sum(one.size for one in blocks)
        width = sum(blocks[0].late.shape if len(blocks) == 1 else shape)
        if not 0 < samples**2 * width <= MOST_INNER * entries:
            return None
        sides = (_whole([(block.late.a, block.rows) for block in blocks], shape[0]),
                 _whole([(block.late.b, block.cols) for block in blocks], shape[1]))
        with np.errstate(over="ignore", invalid="ignore"):
            terms = np.multiply(*(self.gemm(side, side, trans_b=True).astype(np.float64) for side in sides))
            square, size = float(terms.sum()), float(np.abs(terms).sum())
        # Terms that cancel leave their rounding. A NaN compares as False.
        return square if size <= MOST_CANCELLED * square else None


def _whole(parts, length):
    """Return the rows of packed factors [(panels, kept set or None)], of `length` columns each.

    One factor alone is returned as it is: zeros add nothing.
    """
    plain = [panels.transpose(1, 0, 2).reshape(panels.shape[1], -1) for panels, _ in parts]
    if len(parts) == 1:
        return plain[0]
    whole, first = np.zeros((sum(map(len, plain)), length), plain[0].dtype), 0
    for rows, (_, kept) in zip(plain, parts, strict=True):
        places = slice(None) if kept is None else kept.indices
        whole[first:first + len(rows), places] = rows[:, :length if kept is None else kept.count]
        first += len(rows)
    return whole


def _has_long_runs(kept):
    """Return whether a kept set, None for all, has runs of neighbours that fill vectors."""
    return kept is None or kept.count >= LEAST_RUN * len(kept.run_ends[0])
