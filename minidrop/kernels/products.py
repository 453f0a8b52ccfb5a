"""Products of matrices, cut for our threads where BLAS's own would be in their way (see threads.py)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from minidrop.kernels import threads

_TILE = 16          # rows or columns that BLAS computes at a time, or a multiple


def dot(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return np.dot(a, b, out=out), which passes a transposed operand to BLAS as it is, and knows A A^T."""
    return _cut(a, b, out) if threads.cuts() else np.dot(a, b, out=out)


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return np.matmul(a, b, out=out) of two matrices or two stacks of them."""
    return _cut(a, b, out) if threads.cuts() else np.matmul(a, b, out=out)


def _cut(a, b, out):
    """Cut the stack, or the longer axis of a matrix. matmul, as dot would copy a slice.

    A matrix is cut in the same places whoever computes the parts: its last bits may depend on them.
    """
    work = out.size * a.shape[-1] // threads.TERMS
    with threads.blas_on_one_thread:
        if out.ndim == 3:
            threads.by_rows(lambda i, j: np.matmul(a[i:j], b[i:j], out=out[i:j]), len(out), work)
            return out
        parts, length = threads.parts_of(work), max(out.shape)
        ends = [length * part // parts // _TILE * _TILE for part in range(parts)] + [length]

        def some(first, last):
            for i, j in pairwise(ends[first:last + 1]):
                if length == out.shape[0]:
                    np.matmul(a[i:j], b, out=out[i:j])
                else:
                    np.matmul(a, b[:, i:j], out=out[:, i:j])

        threads.by_rows(some, parts, work)
    return out
