"""Numba loops of transformers: scores of attention, turned pairs. References: backend/generic/nn.py."""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit

_LANES = 32         # of the largest entry of a row: as many as make its loops vectorise
@jit
def shift_scores(scores: np.ndarray, reads: Any, largest: Any, known: Any) -> None:
    """row -= largest for each row of scores (pairs, queries, keys), -infinity from entry reads + i on.

    largest (pairs, queries): unless it is `known`, it becomes that of itself and of the other entries;
    -infinity counts as 0, and a NaN as no entry.
    """
    pairs, queries, keys = scores.shape
    lanes = np.empty(_LANES, scores.dtype)
    for pair in range(pairs):
        for i in range(queries):
            row = scores[pair, i, :min(keys, max(0, reads + i))]
            if not known:
                most, whole = largest[pair, i], row.size // _LANES * _LANES
                lanes[:] = most
                for start in range(0, whole, _LANES):
                    part = row[start:start + _LANES]
                    for k in range(_LANES):
                        lanes[k] = part[k] if part[k] > lanes[k] else lanes[k]
                half = _LANES // 2
                for k in range(half):
                    lanes[k] = lanes[k + half] if lanes[k + half] > lanes[k] else lanes[k]
                for k in range(half):
                    most = lanes[k] if lanes[k] > most else most
                for k in range(whole, row.size):
                    most = row[k] if row[k] > most else most
                largest[pair, i] = most
            shift = largest[pair, i]
            if shift != -np.inf:
                for k in range(row.size):
                    row[k] -= shift
            scores[pair, i, row.size:] = -np.inf


@jit
def score_gradient(scores: np.ndarray, e: np.ndarray, d: np.ndarray, keep: Any, factor: Any) -> None:
    """scores = factor * e * (keep * scores - d): (pairs, queries, keys), d (pairs, queries), keep or None."""
    pairs, queries, keys = scores.shape
    for pair in range(pairs):
        for i in range(queries):
            row, own, shift = scores[pair, i], e[pair, i], d[pair, i]
            if keep is not None:
                kept = keep[pair, i]
                for k in range(keys):
                    row[k] *= kept[k]
            for k in range(keys):
                row[k] = (row[k] - shift) * own[k] * factor


@jit
def rotate(x: np.ndarray, cosine: Any, sine: Any, heads: Any, y: Any, first: Any, last: Any) -> None:
    """Turn the pairs (k, k + half) of each head of rows first .. last - 1 of x (steps, streams, units)."""
    streams, half = x.shape[1], cosine.shape[1]
    for row in range(first, last):
        step, stream = row // streams, row % streams
        c, s = cosine[step], sine[step]
        for head in range(heads):
            begin = 2 * half * head
            a, b = x[step, stream, begin:begin + half], x[step, stream, begin + half:begin + 2 * half]
            # Two loops: of more arrays in one the compiler does not ask whether they overlap.
            one, other = y[step, stream, begin:begin + half], y[step, stream, begin + half:begin + 2 * half]
            for k in range(half):
                one[k] = a[k] * c[k] - b[k] * s[k]
            for k in range(half):
                other[k] = b[k] * c[k] + a[k] * s[k]
