"""The CPU: NumPy, BLAS through it, and Numba loops where NumPy would pass over memory several times."""

import numpy as np

from minidrop import threads
from minidrop.backend.base import Backend, dropout_threshold
from minidrop.backend.pool import BufferPool


class NumpyBackend(Backend):
    """Runs on the host. Big temporaries come from a pool; products go to BLAS with `out=` so that none is allocated."""

    name = "cpu"

    def __init__(self):
        self.pool = BufferPool()

    def empty(self, shape, dtype):
        return self.pool.empty(shape, dtype)

    def trim(self):
        self.pool.trim()

    def describe(self):
        return f"cpu (NumPy {np.__version__}, {threads.COUNT} kernel thread{'s' * (threads.COUNT != 1)})"

    def gemm(self, a, b, trans_a=False, trans_b=False):
        a = a.T if trans_a else a
        b = b.T if trans_b else b
        # dot, not matmul: it hands a transposed operand to BLAS as it is, and knows A A^T.
        return np.dot(a, b, out=self.empty((a.shape[0], b.shape[1]), a.dtype))

    def take(self, x, kept, axis):
        if kept is None or kept.is_all:
            return x
        if isinstance(kept.index, slice) and x.ndim == 1:
            return x[kept.index]
        if x.ndim == 2 and axis % 2 == 1 and x.flags.c_contiguous:
            from minidrop.kernels import cpu
            out = self.empty((x.shape[0], kept.count), x.dtype)
            threads.by_rows(cpu.take_columns, x.shape[0], x.size, x, kept.indices, out)
            return out
        shape = list(x.shape)
        shape[axis] = kept.count
        out = self.empty(tuple(shape), x.dtype)
        # mode="clip" writes straight into `out`; the default mode copies through a buffer.
        return np.take(x, kept.indices, axis=axis, out=out, mode="clip")

    def submatrix(self, W, rows, cols):
        rows = None if rows is not None and rows.is_all else rows
        cols = None if cols is not None and cols.is_all else cols
        if rows is None or cols is None or not W.flags.c_contiguous:
            return self.take(self.take(W, rows, 0), cols, 1)
        from minidrop.kernels import cpu
        out = self.empty((rows.count, cols.count), W.dtype)
        # W lies in main memory as a rule: a gathered element costs about as much as two streamed ones.
        threads.by_rows(cpu.take_block, rows.count, 2 * rows.count * W.shape[1], W, rows.indices, cols.indices, out)
        return out

    def relu(self, x):
        if not x.flags.c_contiguous:
            return super().relu(x)
        from minidrop.kernels import cpu
        y = self.empty(x.shape, x.dtype)
        threads.by_rows(cpu.relu, x.size, x.size, x.reshape(-1), y.reshape(-1))
        return y

    def relu_gradient(self, gy, y):
        if not gy.flags.c_contiguous:
            return super().relu_gradient(gy, y)
        from minidrop.kernels import cpu
        gx = self.empty(gy.shape, gy.dtype)
        threads.by_rows(cpu.relu_gradient, gy.size, gy.size, gy.reshape(-1), y.reshape(-1), gx.reshape(-1))
        return gx

    def dropout(self, x, rate, scale, key):
        from minidrop.kernels import cpu
        x = np.ascontiguousarray(x)
        y, mask = self.empty(x.shape, x.dtype), self.empty(x.shape, np.bool_)
        threads.by_rows(cpu.dropout, -(-x.size // 4), x.size, x.reshape(-1), y.reshape(-1), mask.reshape(-1),
                        np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32), np.uint32(dropout_threshold(rate)),
                        x.dtype.type(scale))
        return y, mask

    def sgd_update(self, W, history, blocks, lr, momentum, decay, l1, grad_scale):
        if not blocks or W.ndim not in (1, 2) or not W.flags.c_contiguous or W.dtype.kind != "f":
            super().sgd_update(W, history, blocks, lr, momentum, decay, l1, grad_scale)
            return
        from minidrop.kernels import cpu
        g, rows, cols = blocks[0].data, blocks[0].rows, blocks[0].cols
        if len(blocks) > 1:
            g, rows, cols = sum(block.dense(self, W.shape) for block in blocks), None, None
        if W.ndim == 1:          # a bias is a matrix of one row, its kept set that row's columns
            W, history, g, rows, cols = W[None], history[None], g[None], None, rows
        number = W.dtype.type
        threads.by_rows(cpu.sgd_update, W.shape[0], W.size, W, history, g, _position(rows, W.shape[0]),
                        np.arange(W.shape[1]) if cols is None else cols.indices, number(lr), number(momentum),
                        number(decay), bool(l1), number(grad_scale))


def _position(kept, total):
    """For every entry of an axis its place among the kept ones, -1 where it is dropped."""
    if kept is None:
        return np.arange(total)
    position = np.full(total, -1, np.int64)
    position[kept.indices] = np.arange(kept.count)
    return position
