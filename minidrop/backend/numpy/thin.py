"""Thin products: a few rows times weights that many products share, packed once for all of them."""

from __future__ import annotations

import numpy as np

from minidrop.backend.generic import Backend
from minidrop.errors import ShapeError
from minidrop.kernels import products, threads

LEAST_USES = 8              # of packed weights
LEAST_WEIGHTS = 1 << 14
_UNPACKED = 32              # rows; more are multiplied as all matrices are
# By the bits of a vector: the most rows of what is multiplied by packed weights; and how many rows of a
# product stay in registers, of each how many vectors, and what a row costs by comparison. The sums leave room
# among the 32 registers of AVX-512, the 16 of AVX2, for weights and a factor, and are enough to hide the
# latency of an FMA. Of one vector a row needs too many loads: 0.7 to 0.85 of the speed of two. Odd numbers
# are left out where one more costs little: each is compiled for itself.
_MOST_ROWS = {512: 128, 256: 64}
_FORMS = {512: {(12, 2): 1.0, (10, 2): 1.0, (8, 2): 1.0, (6, 4): 1.1, (4, 4): 1.15},
          256: {(6, 2): 1.0, (5, 2): 1.0, (4, 3): 1.0}}


def form_of(rows: int, dtype: np.dtype) -> tuple | None:
    """Return (rows, vectors, numbers of a vector) of the blocks of a product; None for too many rows, or
    without wide vectors."""
    from minidrop.kernels import vectors
    lanes = vectors.lanes(dtype)
    if not lanes or rows > _MOST_ROWS[vectors.BITS]:
        return None
    forms = _FORMS[vectors.BITS]
    # Those that compute the fewest rows for nothing; then the fewest passes over the weights.
    height, count = min(forms, key=lambda form: (forms[form] * (-(-rows // form[0]) * form[0]), -form[0]))
    return height, count, lanes


def packed(backend: Backend, x: np.ndarray, width: int, transpose: bool) -> np.ndarray:
    """Return x, or x^T, in panels of `width` columns each, see `cpu_thin.pack`."""
    from minidrop.kernels import vectors
    from minidrop.kernels.cpu_thin import pack
    depth, columns = x.shape[::-1] if transpose else x.shape
    panels = backend.empty((-(-columns // width), depth, width), x.dtype)
    threads.by_rows(pack, len(panels), 4 * x.size, x, transpose, panels, x.dtype.type(0),
                    *as_types(vectors.lanes(x.dtype)))
    return panels


def as_types(*lengths: int) -> tuple:
    """Return a tuple as long as each number: what is compiled for lengths takes them from types."""
    return tuple((None,) * length for length in lengths)


class Packed:
    """op(W) in panels for `thin_gemm`; `shape` and `size` are those of W."""

    def __init__(self, backend: Backend, W: np.ndarray, transpose: bool, form: tuple):
        self.shape, self.size, self.transpose = W.shape, W.size, transpose
        self.depth, self.columns = W.shape[::-1] if transpose else W.shape
        self.height, width = form[0], form[1] * form[2]
        self.form = as_types(*form)
        self.panels = packed(backend, W, width, transpose)


class ThinProducts(Backend):
    """`thin_operand` and `thin_gemm`."""

    def thin_operand(self, b: np.ndarray, trans_b: bool, rows: int, uses: int) -> np.ndarray | Packed:
        form = None
        if uses >= LEAST_USES and rows > 1 and b.size >= LEAST_WEIGHTS and b.dtype.char in "fd":
            form = form_of(rows, b.dtype)
        return b if form is None else Packed(self, b, trans_b, form)

    def thin_gemm(self, a: np.ndarray, b: np.ndarray | Packed, trans_b: bool = False) -> np.ndarray:
        if isinstance(b, Packed):
            return self._packed_product(a, b, trans_b)
        if a.shape[0] > _UNPACKED:
            return self.gemm(a, b, trans_b=trans_b)
        # Transposed: OpenBLAS is a quarter faster if the short side is the inner axis of the result.
        b = b if trans_b else b.T
        return products.dot(b, a.T, self.empty((b.shape[0], a.shape[0]), a.dtype)).T

    def _packed_product(self, a, b, trans_b):
        from minidrop.kernels.crew import crew
        if trans_b != b.transpose or a.shape[1] != b.depth or a.dtype != b.panels.dtype:
            raise ShapeError(f"thin_gemm: a {a.shape} of {a.dtype} times{' transposed' * trans_b} weights, "
                             f"but {b.shape} of {b.panels.dtype} were packed{' transposed' * b.transpose}")
        a = a if a.flags.c_contiguous else np.ascontiguousarray(a)
        blocks = -(-a.shape[0] // b.height)
        at = self.empty((blocks, b.depth, b.height), a.dtype)
        y = self.empty((blocks * b.height, b.panels.shape[0] * b.panels.shape[2]), a.dtype)
        crew.multiply(a, at, b.panels, y, b.form)
        return y[:a.shape[0], :b.columns]
