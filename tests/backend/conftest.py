"""cuBLAS on the host, to check what it is asked for."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def interpret():
    return run_calls


def run_calls(calls, a, b, c):
    """Do what cuBLAS does with Gemm calls for our operands a and b and result c, flat NumPy arrays; c is changed.

    An access outside its buffer raises IndexError; an argument that cuBLAS refuses, and two products of a batch that write
    the same element, raise ValueError.
    """
    for call in calls:
        _check(call)
        written = np.zeros(c.size, bool)
        for i in range(call.batch):
            # cuBLAS's first operand is our second.
            of_left = (call.k, call.m) if call.transa else (call.m, call.k)
            of_right = (call.n, call.k) if call.transb else (call.k, call.n)
            left = b[_places(b, call.a + i * call.stride_a, call.lda, *of_left)]
            right = a[_places(a, call.b + i * call.stride_b, call.ldb, *of_right)]
            place = _places(c, call.c + i * call.stride_c, call.ldc, call.m, call.n)
            if written[place].any():
                raise ValueError(f"{call}: products of one batch write the same elements")
            written[place] = True
            result = call.alpha * ((left.T if call.transa else left) @ (right.T if call.transb else right))
            # With beta = 0 the old value is not read: it may be a NaN.
            c[place] = result + call.beta * c[place] if call.beta else result


def _places(buffer, offset, ld, rows, columns):
    """Return where the elements (rows, columns) of a column-major matrix stand in a buffer."""
    place = offset + np.arange(rows)[:, None] + ld * np.arange(columns)
    if not 0 <= place.min() <= place.max() < buffer.size:
        raise IndexError(f"elements {place.min()} .. {place.max()} of a buffer of {buffer.size}")
    return place


def _check(call):
    """The conditions in cuBLAS's reference for gemm and gemmStridedBatched."""
    numbers = (call.m, call.n, call.k, call.lda, call.ldb, call.ldc, call.batch)
    if min(numbers) < 1 or max(numbers) >= 2**31:
        raise ValueError(f"{call}: sizes must be positive and fit 32 bits")
    least = (call.k if call.transa else call.m, call.n if call.transb else call.k, call.m)
    if any(ld < rows for ld, rows in zip((call.lda, call.ldb, call.ldc), least, strict=True)):
        raise ValueError(f"{call}: leading dimensions must be at least {least}")
    if call.batch > 1 and call.routine != "gemmStridedBatched":
        raise ValueError(f"{call}: a batch needs gemmStridedBatched")
