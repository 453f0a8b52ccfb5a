"""Products of matrices, cut for our threads where BLAS's own would be in their way (see threads.py)."""

from __future__ import annotations

import numpy as np

from minidrop.kernels import threads


def dot(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return np.dot(a, b, out=out): dot, as it passes a transposed operand to BLAS without a copy."""
    if not threads.cuts():
        return np.dot(a, b, out=out)
    rows, columns = out.shape
    work = rows * columns * a.shape[1] // threads.TERMS
    with threads.blas_on_one_thread:
        if rows > columns:
            threads.by_rows(lambda first, last: np.dot(a[first:last], b, out=out[first:last]), rows, work)
        else:
            threads.by_rows(lambda first, last: np.matmul(a, b[:, first:last], out=out[:, first:last]),
                            columns, work)
    return out


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return np.matmul(a, b, out=out) of two matrices or two stacks of them."""
    if not threads.cuts():
        return np.matmul(a, b, out=out)
    with threads.blas_on_one_thread:
        threads.by_rows(lambda first, last: np.matmul(a[first:last], b[first:last] if b.ndim == 3 else b,
                                                      out=out[first:last]),
                        len(a), out.size * a.shape[-1] // threads.TERMS)
    return out
