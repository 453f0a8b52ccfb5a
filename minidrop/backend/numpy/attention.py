"""Attention on the CPU: a tile is one call of a compiled loop, as far as the machine has wide vectors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidrop.backend.generic.attention import Attention as Generic
from minidrop.backend.numpy.chunks import by_chunks, chunk_of
from minidrop.backend.numpy.thin import as_types
from minidrop.kernels import threads

_FORMS = {512: (8, 2), 256: (4, 3)}         # rows and vectors of a block, see `thin._FORMS`
_NONE = np.empty((0, 0, 0), np.bool_)


class Attention(Generic):
    """Overrides of backend/generic/attention.py.

    Compiled loops share the pairs between threads, and have numerators in whole blocks, which reach beyond
    the queries and keys of a tile.
    """

    def in_pairs(self, work: Callable, pairs: int, columns: int, itemsize: int) -> None:
        from minidrop.kernels import vectors
        if vectors.BITS:
            work(0, pairs)
            return
        # Each score is a sum of tens of products.
        threads.by_parts(by_chunks(work, chunk_of(columns, itemsize)), pairs, 8 * pairs * columns * itemsize)

    def attend(self, operands: tuple, bias: np.ndarray | None, reads: int | None, keep: np.ndarray | None,
               scales: tuple[float, float], top: np.ndarray, factor: np.ndarray, y: np.ndarray,
               first: bool = True, last: bool = True, stores: bool = True) -> Any:
        form = _form(*operands, y)
        if form is None:
            return super().attend(operands, bias, reads, keep, scales, top, factor, y, first, last, stores)
        from minidrop.kernels import cpu_attention
        shape = _filled(operands, form)
        e = self.empty((len(y) * stores, *shape), y.dtype)
        rows = [np.ascontiguousarray(own[:, :, 0]) for own in (top, factor)]
        threads.by_rows(cpu_attention.attend, len(y), _work(operands),
                        *_arguments(operands, bias, reads, keep, scales), *rows, _view(y), first, last, e,
                        shape, y.dtype.type(0), as_types(*form))
        for own, new in zip((top, factor), rows, strict=True):
            if not np.may_share_memory(own, new):
                own[:, :, 0] = new
        return e if stores else None

    def attend_gradient(self, operands: tuple, bias: np.ndarray | None, reads: int | None,
                        keep: np.ndarray | None, scales: tuple[float, float], top: np.ndarray,
                        factor: np.ndarray, y: np.ndarray, gy: np.ndarray, e: Any, gradients: tuple,
                        add_q: bool, add_k: bool) -> None:
        form = _form(*operands, y, gy, *(gx for gx in gradients if gx is not None))
        if form is None:
            e = None if e is None else e[:, :y.shape[1], :operands[1].shape[1]]
            super().attend_gradient(operands, bias, reads, keep, scales, top, factor, y, gy, e, gradients,
                                    add_q, add_k)
            return
        from minidrop.kernels import cpu_attention
        shape = _filled(operands, form)
        wanted = [np.zeros(x.shape, x.dtype) if gx is None else gx
                  for x, gx in zip(operands, gradients, strict=True)]
        threads.by_rows(cpu_attention.attend_gradient, len(y), 2 * _work(operands),
                        *_arguments(operands, bias, reads, keep, scales),
                        *(np.ascontiguousarray(own[:, :, 0]) for own in (top, factor)), _view(y), _view(gy),
                        np.empty((0, *shape), y.dtype) if e is None else e, shape, *map(_view, wanted),
                        (add_q, add_k), y.dtype.type(0), as_types(*form))

    def numerators(self, scores: np.ndarray, reads: int | None = None, top: np.ndarray | None = None,
                   shift: np.ndarray | None = None) -> tuple:
        if scores.dtype.char not in "fd" or not scores.flags.c_contiguous:
            return super().numerators(scores, reads, top, shift)
        from minidrop.kernels import cpu_nn
        (pairs, queries, keys), before = scores.shape, top if shift is None else shift
        largest = np.full((pairs, queries), -math.inf, scores.dtype)
        if before is not None:
            largest[...] = before[:, :, 0]
        cpu_nn.shift_scores(scores, keys if reads is None else reads, largest, shift is not None)
        self.exp_of_nonpositive(scores)
        if shift is not None:
            return None, None
        return largest[:, :, None], np.einsum("pik->pi", scores)[:, :, None]

    def score_gradient(self, scores: np.ndarray, e: np.ndarray, d: np.ndarray, keep: np.ndarray | None,
                       factor: float) -> None:
        if not (scores.dtype == e.dtype == d.dtype and scores.dtype.char in "fd"
                and scores.flags.c_contiguous and e.flags.c_contiguous):
            super().score_gradient(scores, e, d, keep, factor)
            return
        from minidrop.kernels import cpu_nn
        cpu_nn.score_gradient(scores, e, np.ascontiguousarray(d[:, :, 0]), keep, scores.dtype.type(factor))

    def row_products(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("pik,pik->pi", a, b)[:, :, None]       # np.sum calls a loop for each short row


def _form(*arrays):
    """Return the form of the blocks of products, see `thin.form_of`; None for arrays of another kind."""
    from minidrop.kernels import vectors
    dtype = arrays[0].dtype
    if dtype.char not in "fd" or not vectors.BITS or not all(
            x.dtype == dtype and x.size and x.strides[2] == x.itemsize for x in arrays):
        return None
    return *_FORMS[vectors.BITS], vectors.lanes(dtype)


def _filled(operands, form):
    """Return the queries and keys of a tile, rounded up to whole blocks."""
    height, width = form[0], form[1] * form[2]
    return -(-operands[0].shape[1] // height) * height, -(-operands[1].shape[1] // width) * width


def _work(operands):
    """Return the amount of work as `threads.by_rows` counts it: five products are a streamed element."""
    q, k, v = operands
    return len(q) * q.shape[1] * k.shape[1] * (q.shape[2] + v.shape[2]) // 5


def _view(x):
    return x.ctypes.data, *x.strides[:2], *x.shape[1:]


def _arguments(operands, bias, reads, keep, scales):
    """Return the first arguments of the loops; what is not there has no entries."""
    dtype, keys = operands[0].dtype, operands[1].shape[1]
    return (*map(_view, operands), np.empty((0, 0), dtype) if bias is None else np.ascontiguousarray(bias),
            keys if reads is None else reads, _NONE if keep is None else keep, *map(dtype.type, scales))
