"""Products of matrices, cut for our threads where BLAS's own would be in their way (see threads.py)."""

from __future__ import annotations

import numpy as np

from minidrop.kernels import threads


def dot(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return np.dot(a, b, out=out), which passes a transposed operand to BLAS as it is, and knows A A^T."""
    return _cut(a, b, out) if threads.cuts() else np.dot(a, b, out=out)


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return np.matmul(a, b, out=out) of two matrices or two stacks of them."""
    return _cut(a, b, out) if threads.cuts() else np.matmul(a, b, out=out)


def _cut(a, b, out):
    """Cut the stack, or the longer axis of the matrix `out`. matmul, as dot would copy a slice."""
    work = out.size * a.shape[-1] // threads.TERMS
    with threads.blas_on_one_thread:
        if out.ndim == 3:
            threads.by_rows(lambda i, j: np.matmul(a[i:j], b[i:j], out=out[i:j]), len(out), work)
        elif out.shape[0] > out.shape[1]:
            threads.by_rows(lambda i, j: np.matmul(a[i:j], b, out=out[i:j]), out.shape[0], work)
        else:
            threads.by_rows(lambda i, j: np.matmul(a, b[:, i:j], out=out[:, i:j]), out.shape[1], work)
    return out
