"""The CPU: NumPy, its BLAS, and Numba loops where NumPy would need several passes over memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend.generic import Backend
from minidrop.backend.generic.nn import TANH_GATE
from minidrop.backend.late import Late
from minidrop.backend.numpy.compact import CompactProducts, KeptWeight
from minidrop.backend.numpy.convolution import Convolutions
from minidrop.backend.numpy.late import LateProducts
from minidrop.backend.numpy.norm import Normalization
from minidrop.backend.numpy.pool import BufferPool
from minidrop.backend.numpy.pooling import Pooling
from minidrop.backend.numpy.probabilities import Probabilities
from minidrop.backend.numpy.random import RandomNumbers
from minidrop.backend.numpy.thin import ThinProducts
from minidrop.backend.numpy.update import Updates
from minidrop.kept import KeptByGroup
from minidrop.kernels import threads

if TYPE_CHECKING:
    from minidrop.kept import Kept

_CHUNK_BYTES = 1 << 19      # an array of this size and its result fit into a core's own cache
_LONG_RUN = 16              # neighbours; runs of 15 take half as long again as entry by entry, of 16 half


class NumpyBackend(Updates, Convolutions, Pooling, Normalization, Probabilities, RandomNumbers, ThinProducts,
                   LateProducts, CompactProducts, Backend):
    """The host. Large arrays come from a pool; products write into them with `out=`, so none is allocated."""

    name = "cpu"
    # A pattern costs its gathers and its share of the update, which more threads do not make faster; it saves
    # products, which they do. With 200 units at half kept, on one thread: 66 rows of two groups lost 4 % of a
    # step to masks, 100 of one gained 10 %, 200 gained 26 %. On two threads only a busy machine was measured,
    # where 200 lost 13 %: 256 is chosen with a margin, not measured. A product of 16 rows takes two thirds of
    # the time of one of 32. Constants: results must not depend on the number of threads.
    rows_of_run, rows_of_group = 256, 32

    def __init__(self):
        self.pool = BufferPool()
        threads.notice()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.pool.empty(shape, dtype)

    def trim(self) -> None:
        self.pool.trim()

    def in_chunks(self, work: Callable, rows: int, columns: int, itemsize: int,
                  products: bool = False) -> None:
        step = max(1, _CHUNK_BYTES // max(1, columns * itemsize))
        if 0 < rows <= step and not products:      # too little for a second thread
            work(0, rows)
            return
        errors = np.geterr()

        def some(first, last):
            with np.errstate(**errors):       # errstate is per thread: pass the caller's on
                for start in range(first, last, step):
                    work(start, min(last, start + step))

        # `work` takes several passes, so an element costs more than a streamed one.
        if products:        # and each of its results is a sum of tens of products
            threads.by_parts(some, rows, 8 * rows * columns * itemsize)
        else:
            threads.by_rows(some, rows, rows * columns * itemsize)

    def describe(self) -> str:
        return f"cpu (NumPy {np.__version__}, {threads.COUNT} kernel thread{'s' * (threads.COUNT != 1)})"

    def gemm(self, a: np.ndarray, b: np.ndarray, trans_a: bool = False, trans_b: bool = False,
             out: np.ndarray | None = None) -> np.ndarray:
        if isinstance(b, KeptWeight):
            return b.multiplied(a, trans_b, out)
        a = a.T if trans_a else a
        b = b.T if trans_b else b
        if out is not None and not out.flags.c_contiguous:
            return np.matmul(a, b, out=out)
        # dot, not matmul: it passes a transposed operand to BLAS without a copy, and has a case for A A^T.
        return np.dot(a, b, out=self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out)

    def gemms_of(self, makers: Sequence[Callable[[], Any]], terms: int) -> list:
        results: list = [None] * len(makers)

        def some(first, last):
            for i in range(first, last):
                made = makers[i]()
                results[i] = made if isinstance(made, Late) else self.gemm(*made)

        # A product takes about a quarter of a streamed element's time for each term.
        threads.by_parts(some, len(makers), terms // 4)
        return results

    def add_to_rows(self, y: np.ndarray, b: np.ndarray) -> None:
        def some(first, last):
            y[first:last] += b

        threads.by_rows(some, y.shape[0], y.size)

    def column_sums(self, x: np.ndarray) -> np.ndarray:
        if x.shape[1] < 2 * threads.COUNT:      # a single column would be summed pairwise: a different result
            return super().column_sums(x)
        out = self.empty(x.shape[1:], x.dtype)

        def some(first, last):
            np.add.reduce(x[:, first:last], axis=0, out=out[first:last])

        threads.by_rows(some, x.shape[1], x.size)
        return out

    def take(self, x: np.ndarray, kept: Kept | None, axis: int) -> np.ndarray:
        if kept is None or kept.is_all:
            return x
        if isinstance(kept.index, slice) and x.ndim == 1:
            return x[kept.index]
        if x.ndim == 2 and kept.runs is not None:
            return self._straight(x, *((kept, None) if axis % 2 == 0 else (None, kept)))
        if x.ndim == 2 and axis % 2 == 1 and x.flags.c_contiguous:
            from minidrop.kernels import cpu
            out = self.empty((x.shape[0], kept.count), x.dtype)
            if _has_long_runs(kept):
                threads.by_rows(cpu.take_runs, x.shape[0], 2 * out.size, x, None, *kept.run_ends, out)
            else:
                threads.by_rows(cpu.take_columns, x.shape[0], x.size, x, kept.indices, out)
            return out
        shape = list(x.shape)
        shape[axis] = kept.count
        out, indices = self.empty(tuple(shape), x.dtype), kept.indices
        # mode="clip" writes straight into `out`; the default mode copies through a buffer.
        if axis or x.ndim == 1 or not x.flags.c_contiguous:     # NumPy copies all of a strided x in each call
            return np.take(x, indices, axis=axis, out=out, mode="clip")

        def some(first, last):      # does not hold the GIL
            np.take(x, indices[first:last], axis=0, out=out[first:last], mode="clip")

        # As in `submatrix`: a gathered element costs about as much as two streamed ones.
        threads.by_rows(some, kept.count, 2 * out.size)
        return out

    def put_columns(self, out: np.ndarray, kept: Kept | None, x: np.ndarray) -> None:
        if kept is None or kept.is_all or isinstance(kept.index, slice):
            super().put_columns(out, kept, x)
            return
        from minidrop.kernels import cpu
        if out.ndim == 3:
            if not _along_rows(cpu.put_of_samples, out, x, kept, 2):
                super().put_columns(out, kept, x)
            return
        if _has_long_runs(kept):
            threads.by_rows(cpu.put_runs, x.shape[0], x.size, x, *kept.run_ends, out)
        else:
            threads.by_rows(cpu.put_columns, x.shape[0], x.size, x, kept.indices, out)

    def add_block(self, out: np.ndarray, rows: Kept | None, cols: Kept | None, x: np.ndarray) -> None:
        if cols is None or isinstance(cols.index, slice) or out.ndim != 2 or not (
                out.flags.c_contiguous and out.dtype == x.dtype):
            super().add_block(out, rows, cols, x)
            return
        from minidrop.kernels import cpu
        places = np.arange(len(out)) if rows is None else rows.indices
        threads.by_rows(cpu.add_block, len(x), 2 * x.size, out, places, cols.indices, x)

    def add_kept(self, out: np.ndarray, x: np.ndarray, kept: Kept | KeptByGroup, axis: int) -> None:
        from minidrop.kernels import cpu
        if not _along_rows(cpu.add_to_samples, out, x, kept, axis):
            super().add_kept(out, x, kept, axis)

    def compact(self, x: np.ndarray, kept: Kept | KeptByGroup | None, axis: int) -> np.ndarray:
        if kept is None or x.ndim < 3 and not isinstance(kept, KeptByGroup):
            return super().compact(x, kept, axis)
        from minidrop.kernels import cpu
        even = not isinstance(kept, KeptByGroup) or kept.is_even
        out = (self.empty if even else self.zeros)((*x.shape[:-1], kept.count), x.dtype)
        return out if _along_rows(cpu.take_of_samples, x, out, kept, axis) else super().compact(x, kept, axis)

    def expand(self, x: np.ndarray, kept: Kept | KeptByGroup | None, axis: int) -> np.ndarray:
        if kept is None:
            return x
        from minidrop.kernels import cpu
        out = self.zeros((*x.shape[:-1], kept.total), x.dtype) if axis % x.ndim == x.ndim - 1 else x
        return out if _along_rows(cpu.put_of_samples, out, x, kept, axis) else super().expand(x, kept, axis)

    def submatrix(self, W: np.ndarray, rows: Kept | None, cols: Kept | None) -> np.ndarray:
        rows = None if rows is not None and rows.is_all else rows
        cols = None if cols is not None and cols.is_all else cols
        if rows is None or cols is None or not W.flags.c_contiguous:
            return self.take(self.take(W, rows, 0), cols, 1)
        if rows.runs is not None and cols.runs is not None:
            return self._straight(W, rows, cols)
        from minidrop.kernels import cpu
        out = self.empty((rows.count, cols.count), W.dtype)
        if _has_long_runs(cols):
            threads.by_rows(cpu.take_runs, rows.count, 2 * out.size, W, rows.indices, *cols.run_ends, out)
            return out
        # W is usually in main memory: a gathered element costs about as much as two streamed ones.
        threads.by_rows(cpu.take_block, rows.count, 2 * rows.count * W.shape[1], W, rows.indices,
                        cols.indices, out)
        return out

    def lookup(self, W: np.ndarray, ids: np.ndarray, cols: Kept | None) -> np.ndarray:
        if cols is None or cols.is_all:
            # mode="clip" writes straight into `out`; see `take`.
            return np.take(W, ids, axis=0, out=self.empty((ids.size, W.shape[1]), W.dtype), mode="clip")
        from minidrop.kernels import cpu
        out = self.empty((ids.size, cols.count), W.dtype)
        threads.by_rows(cpu.take_block, ids.size, 2 * ids.size * W.shape[1], W, ids, cols.indices, out)
        return out

    def sum_groups(self, x: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
        from minidrop.kernels import cpu
        out = self.empty((starts.size, x.shape[1]), x.dtype)
        threads.by_rows(cpu.sum_groups, starts.size, x.size, x, order, np.append(starts, order.size), out)
        return out

    def _straight(self, W, rows, cols):
        """Return W[rows, cols], copied block by block; each side is None (all) or has one or two runs."""
        row_runs = (slice(0, W.shape[0]),) if rows is None else rows.runs
        col_runs = (slice(0, W.shape[1]),) if cols is None else cols.runs
        if cols is None and len(row_runs) == 1 and W.flags.c_contiguous:
            return W[row_runs[0]]
        # Copied into a contiguous array: NumPy's dot would copy a view of some columns as well.
        count = [W.shape[i] if kept is None else kept.count for i, kept in enumerate((rows, cols))]
        out = self.empty(tuple(count), W.dtype)
        i = 0
        for row_run in row_runs:
            j, i_end = 0, i + row_run.stop - row_run.start
            for col_run in col_runs:
                j_end = j + col_run.stop - col_run.start
                out[i:i_end, j:j_end] = W[row_run, col_run]
                j = j_end
            i = i_end
        return out

    def relu(self, x: np.ndarray) -> np.ndarray:
        if not x.flags.c_contiguous:
            return super().relu(x)
        from minidrop.kernels import cpu
        y = self.empty(x.shape, x.dtype)
        threads.by_rows(cpu.relu, x.size, x.size, x.reshape(-1), y.reshape(-1))
        return y

    def add(self, a: np.ndarray, b: np.ndarray, activation: str = "none") -> np.ndarray:
        if not (a.dtype == b.dtype and a.dtype.char in "fd" and a.dtype.isnative and a.flags.c_contiguous
                and b.flags.c_contiguous and activation in ("none", "relu")):
            return super().add(a, b, activation)
        from minidrop.kernels import cpu
        y = self.empty(a.shape, a.dtype)
        threads.by_rows(cpu.add, a.size, a.size, a.reshape(-1), b.reshape(-1), activation == "relu",
                        y.reshape(-1))
        return y

    def activate(self, x: np.ndarray, b: np.ndarray | None, activation: str, scale: float,
                 out: np.ndarray | None = None) -> np.ndarray:
        if out is x and x.ndim == 2 and x.flags.c_contiguous and x.dtype.kind == "f":
            if activation == "relu" and b is None:
                b = self.zeros(x.shape[1:], x.dtype)
            if activation in ("none", "relu") and b is not None and b.dtype == x.dtype:
                from minidrop.kernels import cpu
                threads.by_rows(cpu.activate, x.shape[0], x.size, x, np.ascontiguousarray(b),
                                activation == "relu", x.dtype.type(scale))
                return x
            if b is not None:
                self.add_to_rows(x, b)
                b = None
        return super().activate(x, b, activation, scale, out)

    def activate_gradient(self, gy: np.ndarray, y: np.ndarray, activation: str, scale: float) -> np.ndarray:
        if activation != "relu" or scale <= 0 or not (gy.flags.c_contiguous and gy.dtype == y.dtype):
            return super().activate_gradient(gy, y, activation, scale)
        from minidrop.kernels import cpu
        gx = self.empty(gy.shape, gy.dtype)
        threads.by_rows(cpu.relu_gradient, gy.size, gy.size, gy.reshape(-1), y.reshape(-1),
                        gy.dtype.type(scale), gx.reshape(-1))
        return gx

    def self_gate(self, x: np.ndarray, kind: str, beta: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        if x.dtype != np.float32 or not x.flags.c_contiguous or not beta:
            return super().self_gate(x, kind, beta)
        from minidrop.kernels import cpu_nn
        y, slope = (self.empty(x.shape, x.dtype) for _ in range(2))
        arrays = x.reshape(-1), *(out.reshape(-1) for out in (y, slope))
        # An exponential and a quotient or two: an element costs about as much as five streamed ones.
        if kind == "normal":
            threads.by_rows(cpu_nn.normal_gate, x.size, 5 * x.size, *arrays)
        else:
            numbers = map(np.float32, TANH_GATE if kind == "tanh" else (beta, 0.0))
            threads.by_rows(cpu_nn.logistic_gate, x.size, 5 * x.size, arrays[0], *numbers, *arrays[1:])
        return y, slope

    def rotate(self, x: np.ndarray, cosine: np.ndarray, sine: np.ndarray, heads: int) -> np.ndarray:
        if x.dtype.kind != "f" or not cosine.dtype == sine.dtype == x.dtype:
            return super().rotate(x, cosine, sine, heads)
        from minidrop.kernels import cpu_nn
        y = self.empty(x.shape, x.dtype)
        threads.by_rows(cpu_nn.rotate, x.shape[0] * x.shape[1], 2 * x.size, np.ascontiguousarray(x),
                        np.ascontiguousarray(cosine), np.ascontiguousarray(sine), heads, y)
        return y

    def lstm_step_gradient(self, activated: np.ndarray, squashed: np.ndarray, c_before: np.ndarray,
                           cont: np.ndarray, dh: np.ndarray, dc: np.ndarray, d: np.ndarray) -> None:
        from minidrop.kernels import cpu
        cpu.lstm_gradient(activated, squashed, c_before, cont, dh, dc, d)


def _has_long_runs(kept):
    """Whether a set is better copied run by run than entry by entry."""
    return kept.regular is not None and kept.regular[2] >= _LONG_RUN


def _along_rows(loop, whole, part, kept, axis):
    """Run a loop of kernels.cpu over the rows of two arrays, one of which lacks entries of its last axis.

    Returns False, and does nothing, if that is not the axis or the arrays are no rows.
    """
    # Of three axes the first two may be strided, as those of a group of streams are.
    straight = whole.ndim == 3 or whole.flags.c_contiguous and part.flags.c_contiguous
    if axis % whole.ndim + 1 != whole.ndim or whole.ndim < 2 or not straight or whole.dtype != part.dtype:
        return False
    samples, lead = whole.shape[-2], math.prod(whole.shape[:-2])
    parts = kept.parts(samples) if isinstance(kept, KeptByGroup) else [(0, samples, kept)]
    whole, part = (x.reshape(lead, samples, x.shape[-1]) for x in (whole, part))
    for first, last, own in parts:
        rows = lead * (last - first)
        threads.by_rows(loop, rows, 2 * rows * own.count, whole, part, own.indices, first, last - first)
    return True
