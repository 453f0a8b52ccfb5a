"""Numba loops of what is made of exponentials, in float32: activations, gates, steps of an LSTM.

References: backend/generic/nn.py. Exponentials here are sums of powers and a shift into the exponent, which
vectorise, where a call of the C library would be one for each entry; NumPy's own take two to four times as
long with AVX2. Wherever a loop writes, it reads the same places alone or arrays apart: of more than a few
arrays in one loop the compiler does not ask whether they overlap. And it writes every entry anew: one that is
kept where a condition says so becomes a store under a mask, which takes longer than all the rest.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit
from minidrop.kernels.vectors import float_of_bits

LEAST = np.float32(87.3)       # exp(-87.3) is nearly the smallest normal number
_FAR = np.float32(13.2)         # exp(-13.2^2 / 2) as well
_HUGE = np.float32(1e12)        # its third power is finite
_HALF, _ONE, _ZERO, _TWO, _FOUR = map(np.float32, (0.5, 1, 0, 2, 4))
_FLAT = np.float32(10)          # tanh of it is 1
_CHUNK = 2048                   # entries that stay in the L1 cache
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
def _parts(z: Any, low: Any) -> Any:
    """Return (s, q): exp(z + low) = s (1 + q), s a power of two; -LEAST <= z <= 0."""
    n = np.int32(z * _LOG2_E - _HALF)       # towards zero: the nearest
    whole = np.float32(n)
    r = ((z - whole * _LN2_HIGH) - whole * _LN2_LOW) + low
    rest = (((_E[4] * r + _E[3]) * r + _E[2]) * r + _E[1]) * r + _E[0]
    return float_of_bits(np.int32((n + 127) << 23)), r + r * r * rest


@jit
def exponential(z: Any, low: Any) -> Any:
    """Return exp(z + low); -LEAST <= z <= 0."""
    s, q = _parts(z, low)
    return (_ONE + q) * s


@jit
def logistic(a: Any) -> Any:
    """Return 1 / (1 + exp(-a)), to 3 units in the last place."""
    t = abs(a)
    e = exponential(-LEAST if t > LEAST else -t, _ZERO)
    e = _ZERO if t > LEAST else e
    major = _ONE / (_ONE + e)
    return e * major if a < _ZERO else major


@jit
def hyperbolic(a: Any) -> Any:
    """Return tanh(a) = -m / (2 + m), m = exp(-2 |a|) - 1, with a's sign, to 3 units in the last place."""
    t = abs(a)
    s, q = _parts(-_TWO * (_FLAT if t > _FLAT else t), _ZERO)
    m = (s - _ONE) + s * q          # no digit is lost: the difference is exact
    share = m / (_TWO + m)
    return share if a < _ZERO else _ZERO - share


@jit
def squash(x: np.ndarray, tangent: Any, scale: Any, y: Any, first: Any, last: Any) -> None:
    """y = scale * tanh(x) or scale / (1 + exp(-x)) for entries first .. last - 1; y may be x."""
    for start in range(first, last, _CHUNK):
        end = min(last, start + _CHUNK)
        part = y[start:end]
        part[:] = x[start:end]
        if tangent:
            for k in range(part.size):
                part[k] = hyperbolic(part[k]) * scale
        else:
            for k in range(part.size):
                part[k] = logistic(part[k]) * scale


@jit
def exponentials(y: np.ndarray) -> None:
    """y = exp(y), y <= 0; below the smallest normal number 0."""
    for k in range(y.size):
        z = y[k]
        e = exponential(-LEAST if z < -LEAST else z, _ZERO)
        y[k] = _ZERO if z < -LEAST else e


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
def lstm_step(c_before: np.ndarray, cont: Any, gates: Any, c: Any, squashed: Any, h: Any) -> None:
    """One step of an LSTM in place of what its gates get; see `Backend.lstm_step`."""
    units = c.shape[1]
    for n in range(c.shape[0]):
        own = gates[n]
        sigmoids, g = own[:3 * units], own[3 * units:]
        for k in range(sigmoids.size):
            sigmoids[k] = logistic(sigmoids[k])
        for k in range(units):
            g[k] = hyperbolic(g[k])
        i, f, o = own[:units], own[units:2 * units], own[2 * units:3 * units]
        cell, old, go, flat, state = c[n], c_before[n], cont[n, 0], squashed[n], h[n]
        for k in range(units):
            cell[k] = f[k] * (old[k] * go)
        for k in range(units):
            cell[k] += i[k] * g[k]
        flat[:] = cell
        for k in range(units):
            flat[k] = hyperbolic(flat[k])
        for k in range(units):
            state[k] = o[k] * flat[k]


@jit
def lstm_gradient(gates: Any, squashed: Any, c_before: Any, cont: Any, dh: Any, dc: Any, d: Any) -> None:
    """The gradient of an LSTM step, in any precision; see `Backend.lstm_step_gradient`."""
    one, units = gates.dtype.type(1), dc.shape[1]
    for n in range(dc.shape[0]):
        own, to = gates[n], d[n]
        i, f, o, g = own[:units], own[units:2 * units], own[2 * units:3 * units], own[3 * units:]
        di, df, do, dg = to[:units], to[units:2 * units], to[2 * units:3 * units], to[3 * units:]
        s, old, go, upper, cell = squashed[n], c_before[n], cont[n, 0], dh[n], dc[n]
        for k in range(units):
            cell[k] += upper[k] * o[k] * (one - s[k] * s[k])
        for k in range(units):
            do[k] = upper[k] * s[k] * o[k] * (one - o[k])
        for k in range(units):
            di[k] = cell[k] * g[k] * i[k] * (one - i[k])
        for k in range(units):
            dg[k] = cell[k] * i[k] * (one - g[k] * g[k])
        for k in range(units):
            df[k] = cell[k] * (old[k] * go) * f[k] * (one - f[k])
        for k in range(units):
            cell[k] *= f[k] * go
