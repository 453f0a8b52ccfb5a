"""Numba loops for what takes NumPy several passes over memory. Their references are in backend/generic.

Each takes a range of rows [first, last) and releases the GIL, so that `threads.by_rows` can split the work.
Compiled on first use and cached on disk. No fastmath: results must not depend on how a loop was vectorised.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba
import numpy as np

from minidrop.kernels.kernel_files import KernelCache, fingerprint

SOURCES = fingerprint(Path(__file__).parent)


def jit(function: Any, cached: bool = True) -> Callable:
    """Compile a loop on first use, and cache it on disk unless it depends on more than the kernels' code.

    Numba's cache looks at the file of the loop alone. What a loop calls becomes part of it, and may stand in
    another one, so the cache is told the fingerprint of all kernels in place of the file's.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    compiled = numba.njit(**options)(function)
    if cached and compiled is not function:         # as it is with NUMBA_DISABLE_JIT
        with suppress(RuntimeError):    # the cache cannot be written: every process compiles for itself
            compiled._cache = KernelCache(function, SOURCES)
    return compiled


@jit
def inside(shift: Any, step: Any, length: Any, places: Any) -> Any:
    """Return (begin, end): the places p < `places` for which 0 <= p step + shift < length."""
    return max(0, -(shift // step)), min(places, (length - 1 - shift) // step + 1)


@jit
def take_block(W: Any, rows: Any, cols: Any, out: Any, first: Any, last: Any) -> None:
    """out[i, j] = W[rows[i], cols[j]]."""
    for i in range(first, last):
        source = rows[i]
        for j in range(cols.size):
            out[i, j] = W[source, cols[j]]


@jit
def take_columns(W: Any, cols: Any, out: Any, first: Any, last: Any) -> None:
    """out[i, j] = W[i, cols[j]]."""
    for i in range(first, last):
        for j in range(cols.size):
            out[i, j] = W[i, cols[j]]


@jit
def take_runs(W: Any, rows: Any, begins: Any, ends: Any, out: Any, first: Any, last: Any) -> None:
    """out[i] = the columns begins[r] .. ends[r] - 1 of W[rows[i]] for all r, or of W[i] if `rows` is None."""
    for i in range(first, last):
        source, to, j = W[i if rows is None else rows[i]], out[i], 0
        for r in range(begins.size):
            # Slices, which count from 0: a loop over begins[r] .. would not be vectorised.
            own = source[begins[r]:ends[r]]
            part = to[j:j + own.size]
            for k in range(own.size):
                part[k] = own[k]
            j += own.size


@jit
def put_runs(x: np.ndarray, begins: Any, ends: Any, out: Any, first: Any, last: Any) -> None:
    """The columns begins[r] .. ends[r] - 1 of out[i] for all r = x[i]."""
    for i in range(first, last):
        source, to, j = x[i], out[i], 0
        for r in range(begins.size):
            own = to[begins[r]:ends[r]]
            part = source[j:j + own.size]
            for k in range(own.size):
                own[k] = part[k]
            j += own.size


@jit
def put_columns(x: np.ndarray, cols: Any, out: Any, first: Any, last: Any) -> None:
    """out[i, cols[j]] = x[i, j]."""
    for i in range(first, last):
        for j in range(cols.size):
            out[i, cols[j]] = x[i, j]


@jit
def add_block(out: Any, rows: Any, cols: Any, x: np.ndarray, first: Any, last: Any) -> None:
    """out[rows[i], cols[j]] += x[i, j]."""
    for i in range(first, last):
        row, own = out[rows[i]], x[i]
        for j in range(cols.size):
            row[cols[j]] += own[j]


@jit
def sum_groups(x: np.ndarray, order: Any, bounds: Any, out: Any, first: Any, last: Any) -> None:
    """out[i] = the sum of the rows x[order[j]] for bounds[i] <= j < bounds[i + 1], added in order."""
    for i in range(first, last):
        total = out[i]
        row = x[order[bounds[i]]]
        for k in range(total.size):
            total[k] = row[k]
        for j in range(bounds[i] + 1, bounds[i + 1]):
            row = x[order[j]]
            for k in range(total.size):
                total[k] += row[k]


@jit
def relu(x: np.ndarray, y: Any, first: Any, last: Any) -> None:
    """y = max(x, 0); NaN stays NaN, so that divergence is noticed."""
    x, y = x[first:last], y[first:last]      # counting from 0 saves the loop a check for negative indices
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = zero if x[i] <= zero else x[i]


@jit
def activate(y: Any, b: Any, relu: Any, scale: Any, first: Any, last: Any) -> None:
    """y = scale * max(y + b, 0), or scale * (y + b) if not `relu`, in place for rows first .. last-1."""
    zero = y.dtype.type(0)
    for i in range(first, last):
        row = y[i]
        if relu:
            for j in range(b.size):
                total = row[j] + b[j]
                row[j] = (zero if total <= zero else total) * scale
        else:
            for j in range(b.size):
                row[j] = (row[j] + b[j]) * scale


@jit
def add(a: Any, b: Any, relu: Any, y: Any, first: Any, last: Any) -> None:
    """y = a + b, or max(a + b, 0) if `relu`; NaN stays NaN."""
    a, b, y = a[first:last], b[first:last], y[first:last]
    zero = a.dtype.type(0)
    if relu:
        for i in range(a.size):
            total = a[i] + b[i]
            y[i] = zero if total <= zero else total
    else:
        for i in range(a.size):
            y[i] = a[i] + b[i]


@jit
def relu_gradient(gy: Any, y: Any, scale: Any, gx: Any, first: Any, last: Any) -> None:
    """gx = gy * scale where y > 0, else 0."""
    gy, y, gx = gy[first:last], y[first:last], gx[first:last]
    zero = gy.dtype.type(0)
    for i in range(gy.size):
        gx[i] = gy[i] * scale if y[i] > zero else zero


_CHUNK = 128     # counters at a time: their four words each stay in the L1 cache


@jit
def philox_words(first: Any, count: int, key_low: Any, key_high: Any, words: Any) -> None:
    """words[4 b + w] = word w of Philox4x32-10 for the counter (first + b, 0, 0), b < count.

    32-bit words are held in 64-bit lanes, so that the loop over b vectorises. Source: Salmon et al. 2011.
    """
    low32 = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    lanes = np.empty((4, _CHUNK), np.uint32)
    for b in range(count):
        block = np.uint64(first + b)
        c0 = block & low32
        c1 = block >> shift
        c2 = np.uint64(0)
        c3 = np.uint64(0)
        k0 = key_low
        k1 = key_high
        for _ in range(10):
            product0 = np.uint64(0xD2511F53) * c0
            product1 = np.uint64(0xCD9E8D57) * c2
            c0 = (product1 >> shift) ^ c1 ^ k0
            c1 = product1 & low32
            c2 = (product0 >> shift) ^ c3 ^ k1
            c3 = product0 & low32
            k0 = (k0 + np.uint64(0x9E3779B9)) & low32
            k1 = (k1 + np.uint64(0xBB67AE85)) & low32
        lanes[0, b] = c0
        lanes[1, b] = c1
        lanes[2, b] = c2
        lanes[3, b] = c3
    for b in range(count):
        words[4 * b] = lanes[0, b]
        words[4 * b + 1] = lanes[1, b]
        words[4 * b + 2] = lanes[2, b]
        words[4 * b + 3] = lanes[3, b]


@jit
def dropout(x: np.ndarray, y: Any, mask: Any, key_low: Any, key_high: Any, threshold: Any, scale: Any,
            first: Any, last: Any) -> None:
    """y = x * mask * scale for blocks first .. last-1 of four elements; mask = (random word >= threshold)."""
    words = np.empty(4 * _CHUNK, np.uint32)
    zero = x.dtype.type(0)
    for start in range(first, last, _CHUNK):
        count = min(_CHUNK, last - start)
        philox_words(start, count, key_low, key_high, words)
        i = 4 * start
        for j in range(min(4 * count, x.size - i)):
            keep = words[j] >= threshold
            mask[i + j] = keep
            y[i + j] = x[i + j] * scale if keep else zero


@jit
def dropout_tile(keep: Any, begin: int, stride: int, row_stride: int, key_low: Any, key_high: Any,
                 threshold: Any, first: Any, last: Any) -> None:
    """keep[a, r, c] = random word of the element begin + a stride + r row_stride + c >= threshold."""
    words = np.empty(4 * _CHUNK, np.uint32)
    for a in range(first, last):
        for r in range(keep.shape[1]):
            row = keep[a, r]
            element = begin + a * stride + r * row_stride
            c = 0
            while c < row.size:
                skip = (element + c) % 4
                count = min(_CHUNK, (skip + row.size - c + 3) // 4)
                philox_words((element + c) // 4, count, key_low, key_high, words)
                fresh = min(4 * count - skip, row.size - c)
                for j in range(fresh):
                    row[c + j] = words[skip + j] >= threshold
                c += fresh


@jit
def gaussian(out: Any, key_low: Any, key_high: Any, first: Any, last: Any) -> None:
    """out = samples of N(0, 1) for blocks first .. last-1 of four elements, two from two words.

    The logarithm is always taken in float64, the cosine and sine of the angle in the dtype of `out`. Source:
    Box and Muller 1958.
    """
    words = np.empty(4 * _CHUNK, np.uint32)
    real = out.dtype.type
    for start in range(first, last, _CHUNK):
        count = min(_CHUNK, last - start)
        philox_words(start, count, key_low, key_high, words)
        i = 4 * start
        for j in range(0, min(4 * count, out.size - i), 2):
            radius = real(math.sqrt(-2.0 * math.log((np.float64(words[j]) + 1.0) * 2.0**-32)))
            angle = real((np.float64(words[j + 1]) + 1.0) * (2.0 * math.pi * 2.0**-32))
            out[i + j] = radius * np.cos(angle)
            if i + j + 1 < out.size:
                out[i + j + 1] = radius * np.sin(angle)
