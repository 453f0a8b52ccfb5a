"""Numba loops of transformers: x times its own distribution function, scores of attention, turned pairs.

References: backend/generic/nn.py. The gates in float32 alone: exponentials here are sums of powers and a
shift into the exponent, which vectorise, where a call of the C library would be one for each entry.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit
from minidrop.kernels.vectors import float_of_bits

_LANES = 32         # of the largest entry of a row: as many as make its loops vectorise
LEAST = np.float32(87.3)       # exp(-87.3) is nearly the smallest normal number
_FAR = np.float32(13.2)         # exp(-13.2^2 / 2) as well
_HUGE = np.float32(1e12)        # its third power is finite
_HALF, _ONE, _ZERO, _FOUR = np.float32(0.5), np.float32(1), np.float32(0), np.float32(4)
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.1219444005469057e-4)
_DENSITY = np.float32(0.3989422804014327)       # 1 / sqrt(2 pi)
_SPLIT = np.float32(4097)       # x * this cuts x into two halves of 12 bits (Dekker 1971)
# Chebyshev's nodes, in 40 digits: (exp(r) - 1 - r) / r^2 for |r| <= ln(2) / 2, to 1.1e-8;
_E = tuple(map(np.float32, (0.5, 0.16666573381900845, 0.04166655011030512, 0.008363773874405574,
                            0.0013926926614021907)))
# (1 + t) exp(t^2 / 2) Phi(-t) in powers of (t - 4) / (t + 4), 0 <= t <= 13.2, to 2e-9.
_TAIL = tuple(map(np.float32, (
    0.472053200006485, -0.09670346975326538, 0.013999611139297485, 0.02860003523528576, -0.03219743072986603,
    0.017939696088433266, -0.005004005506634712, -0.00030214799335226417, 0.0006931814714334905,
    -6.194569141371176e-05, -7.239467231556773e-05)))


@jit
def exponential(z: Any, low: Any) -> Any:
    """Return exp(z + low); -LEAST <= z <= 0."""
    n = np.int32(z * _LOG2_E - _HALF)       # towards zero: the nearest
    whole = np.float32(n)
    r = ((z - whole * _LN2_HIGH) - whole * _LN2_LOW) + low
    rest = (((_E[4] * r + _E[3]) * r + _E[2]) * r + _E[1]) * r + _E[0]
    return (_ONE + (r + r * r * rest)) * float_of_bits(np.int32((n + 127) << 23))


@jit
def normal_gate(x: np.ndarray, y: Any, slope: Any, first: Any, last: Any) -> None:
    """y = x Phi(x), slope = Phi(x) + x phi(x): the normal distribution, for entries first .. last - 1.

    Phi(-t) = exp(-t^2 / 2) R(t): the tail has as many exact digits as the middle. t^2 is taken to twice as
    many digits, as an error of the exponent is one of the result.
    """
    a, b, c = x[first:last], y[first:last], slope[first:last]
    for k in range(a.size):
        far = abs(a[k]) > _FAR
        t = _FAR if far else abs(a[k])
        cut = t * _SPLIT
        high = cut - (cut - t)
        rest = t - high
        e = exponential(-_HALF * high * high, -(high * rest + _HALF * rest * rest))
        e = _ZERO if far else e
        q = (t - _FOUR) / (t + _FOUR)
        p = ((((_TAIL[10] * q + _TAIL[9]) * q + _TAIL[8]) * q + _TAIL[7]) * q + _TAIL[6]) * q + _TAIL[5]
        p = ((((p * q + _TAIL[4]) * q + _TAIL[3]) * q + _TAIL[2]) * q + _TAIL[1]) * q + _TAIL[0]
        tail = e * p / (_ONE + t)
        share = tail if a[k] < _ZERO else _ONE - tail
        b[k] = a[k] * share
        c[k] = share + a[k] * (e * _DENSITY)


@jit
def logistic_gate(x: np.ndarray, linear: Any, cubic: Any, y: Any, slope: Any, first: Any, last: Any) -> None:
    """y = x s, s = 1 / (1 + exp(-w)), w = linear x + cubic x^3; slope = dy / dx; cubic has linear's sign."""
    steep, bend = abs(linear), abs(cubic)
    three = np.float32(3) * cubic
    a, b, c = x[first:last], y[first:last], slope[first:last]
    for k in range(a.size):
        t = abs(a[k])
        t = _HUGE if t > _HUGE else t
        w = t * (steep + bend * t * t)
        e = exponential(-LEAST if w > LEAST else -w, _ZERO)
        e = _ZERO if w > LEAST else e
        major = _ONE / (_ONE + e)
        minor = e * major
        share = minor if a[k] * linear < _ZERO else major
        b[k] = a[k] * share
        c[k] = share + a[k] * (linear + three * t * t) * (major * minor)


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
