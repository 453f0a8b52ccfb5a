"""The CPU: NumPy, its BLAS, and Numba loops where NumPy would need several passes over memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidrop.backend.generic import Backend
from minidrop.backend.generic.nn import TANH_GATE
from minidrop.backend.late import Late
from minidrop.backend.numpy.attention import Attention
from minidrop.backend.numpy.chunks import by_chunks, chunk_of
from minidrop.backend.numpy.convolution import Convolutions
from minidrop.backend.numpy.kept import KeptSets
from minidrop.backend.numpy.late import LateProducts
from minidrop.backend.numpy.norm import Normalization
from minidrop.backend.numpy.pool import BufferPool
from minidrop.backend.numpy.pooling import Pooling
from minidrop.backend.numpy.random import RandomNumbers
from minidrop.backend.numpy.thin import ThinProducts
from minidrop.backend.numpy.update import Updates
from minidrop.kernels import products, threads

_SQUASHED = 5       # streamed elements cost about as much as an exponential and a quotient or two


class NumpyBackend(Updates, Convolutions, Pooling, Normalization, Attention, RandomNumbers, ThinProducts,
                   LateProducts, KeptSets, Backend):
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

    def in_chunks(self, work: Callable, rows: int, columns: int, itemsize: int) -> None:
        step = chunk_of(columns, itemsize)
        if 0 < rows <= step:      # too little for a second thread
            work(0, rows)
            return
        # `work` takes several passes, so an element costs more than a streamed one.
        threads.by_rows(by_chunks(work, step), rows, rows * columns * itemsize)

    def describe(self) -> str:
        return f"cpu (NumPy {np.__version__}, {threads.COUNT} kernel thread{'s' * (threads.COUNT != 1)})"

    def gemm(self, a: np.ndarray, b: np.ndarray, trans_a: bool = False, trans_b: bool = False,
             out: np.ndarray | None = None) -> np.ndarray:
        a = a.T if trans_a else a
        b = b.T if trans_b else b
        if out is not None and out.ndim == 2 and not out.flags.c_contiguous:
            return products.matmul(a, b, out)
        place = self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None or out.ndim == 3 else out
        product = products.dot(a, b, place)
        if out is None or out is place:
            return product
        out[...] = product.reshape(out.shape)
        return out

    def gemms_of(self, makers: Sequence[Callable[[], Any]], terms: int) -> list:
        results: list = [None] * len(makers)

        def some(first, last):
            for i in range(first, last):
                made = makers[i]()
                results[i] = made if isinstance(made, Late) else self.gemm(*made)

        threads.by_parts(some, len(makers), terms // threads.TERMS)
        return results

    def gemm_stack(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return products.matmul(a, b, self.empty((*a.shape[:2], b.shape[2]), a.dtype))

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
        if activation not in ("sigmoid", "tanh") or x.dtype != np.float32:
            return super().activate(x, b, activation, scale, out)
        from minidrop.kernels import cpu_gates
        y = self.empty(x.shape, x.dtype) if out is None else out
        if b is not None:
            x = np.add(x, b, out=y)
        # However the arrays lie, the loop is the same, and so are the last digits.
        room = y if y.flags.c_contiguous else self.empty(y.shape, y.dtype)
        threads.by_rows(cpu_gates.squash, x.size, _SQUASHED * x.size, np.ascontiguousarray(x).reshape(-1),
                        activation == "tanh", np.float32(scale), room.reshape(-1))
        if room is not y:
            y[...] = room
        return y

    def activate_gradient(self, gy: np.ndarray, y: np.ndarray, activation: str, scale: float) -> np.ndarray:
        if activation != "relu" or scale <= 0 or not (gy.flags.c_contiguous and gy.dtype == y.dtype):
            return super().activate_gradient(gy, y, activation, scale)
        from minidrop.kernels import cpu
        gx = self.empty(gy.shape, gy.dtype)
        threads.by_rows(cpu.relu_gradient, gy.size, gy.size, gy.reshape(-1), y.reshape(-1),
                        gy.dtype.type(scale), gx.reshape(-1))
        return gx

    def self_gate(self, x: np.ndarray, kind: str, beta: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        if x.dtype != np.float32 or not beta:
            return super().self_gate(x, kind, beta)
        from minidrop.kernels import cpu_gates
        y, slope = (self.empty(x.shape, x.dtype) for _ in range(2))
        arrays = np.ascontiguousarray(x).reshape(-1), *(out.reshape(-1) for out in (y, slope))
        if kind == "normal":
            threads.by_rows(cpu_gates.normal_gate, x.size, _SQUASHED * x.size, *arrays)
        else:
            numbers = map(np.float32, TANH_GATE if kind == "tanh" else (beta, 0.0))
            threads.by_rows(cpu_gates.logistic_gate, x.size, _SQUASHED * x.size, arrays[0], *numbers,
                            *arrays[1:])
        return y, slope

    def rotate(self, x: np.ndarray, cosine: np.ndarray, sine: np.ndarray, heads: int) -> np.ndarray:
        if x.dtype.kind != "f" or not cosine.dtype == sine.dtype == x.dtype:
            return super().rotate(x, cosine, sine, heads)
        from minidrop.kernels import cpu_nn
        y = self.empty(x.shape, x.dtype)
        threads.by_rows(cpu_nn.rotate, x.shape[0] * x.shape[1], 2 * x.size, np.ascontiguousarray(x),
                        np.ascontiguousarray(cosine), np.ascontiguousarray(sine), heads, y)
        return y

    def exp_of_nonpositive(self, x: np.ndarray) -> None:
        if x.dtype != np.float32:
            super().exp_of_nonpositive(x)
            return
        from minidrop.kernels import cpu_gates
        y = np.ascontiguousarray(x)
        cpu_gates.exponentials(y.reshape(-1))       # who calls this has split the rows between threads
        if y is not x:
            x[...] = y

    def lstm_step(self, x: np.ndarray, product: np.ndarray, c_before: np.ndarray, cont: np.ndarray,
                  activated: np.ndarray, c: Any, squashed: np.ndarray, h: np.ndarray) -> None:
        if any(one.dtype != np.float32 for one in (x, product, c_before, cont, c)):
            super().lstm_step(x, product, c_before, cont, activated, c, squashed, h)
            return
        from minidrop.kernels import cpu_gates
        np.add(x, product, out=activated)
        cpu_gates.lstm_step(c_before, cont, activated, c, squashed, h)

    def lstm_step_gradient(self, activated: np.ndarray, squashed: np.ndarray, c_before: np.ndarray,
                           cont: np.ndarray, dh: np.ndarray, dc: np.ndarray, d: np.ndarray) -> None:
        from minidrop.kernels import cpu_gates
        cpu_gates.lstm_gradient(activated, squashed, c_before, cont, dh, dc, d)
