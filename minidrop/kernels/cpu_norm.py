"""Numba loops that normalize, in one or two passes over memory. Reference: backend/generic/norm.py.

Arrays of channels are (samples, channels, places). Sums are added up in float64, in as many parts as make the
loops vectorise without fastmath: place k of each run of _PARTS places belongs to part k.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit

_PARTS = 128
CHUNK = 256         # places at a time: a window of channels stays in the L1 cache
_LANES = 64         # of the sums over a row: as many as make its loops vectorise


@jit
def channel_moments(x: np.ndarray, mean: Any, variance: Any, first: Any, last: Any) -> None:
    """mean and variance of channels first .. last - 1, from the distances to their first entries."""
    sums, squares = np.empty(_PARTS), np.empty(_PARTS)
    count = x.shape[0] * x.shape[2]
    for c in range(first, last):
        sums[:] = 0
        squares[:] = 0
        # One of the entries, so that the difference of squares below loses little wherever they lie.
        origin = np.float64(x[0, c, 0])
        for n in range(x.shape[0]):
            for start in range(0, x.shape[2], _PARTS):
                run = x[n, c, start:start + _PARTS]
                for k in range(run.size):
                    distance = run[k] - origin
                    sums[k] += distance
                    squares[k] += distance * distance
        middle = sums.sum() / count
        mean[c] = origin + middle
        spread = squares.sum() / count - middle * middle
        variance[c] = 0 if spread < 0 else spread       # NaN stays NaN, so that divergence is noticed


@jit
def channel_products(x: np.ndarray, y: np.ndarray, out: Any, first: Any, last: Any) -> None:
    """out = the sum of x * y of channels first .. last - 1."""
    sums = np.empty(_PARTS)
    for c in range(first, last):
        sums[:] = 0
        for n in range(x.shape[0]):
            for start in range(0, x.shape[2], _PARTS):
                a, b = x[n, c, start:start + _PARTS], y[n, c, start:start + _PARTS]
                for k in range(a.size):
                    sums[k] += np.float64(a[k]) * b[k]
        out[c] = sums.sum()


@jit
def transform_channels(x: np.ndarray, centre: Any, factor: Any, shift: Any, y: Any, first: Any,
                       last: Any) -> None:
    """y = (x - centre) * factor + shift for rows first .. last - 1, each the places of one channel."""
    channels = x.shape[1]
    for row in range(first, last):
        n, c = row // channels, row % channels
        a, b = x[n, c], y[n, c]
        middle, slope, rise = centre[c], factor[c], shift[c]
        for k in range(a.size):
            b[k] = (a[k] - middle) * slope + rise


@jit
def standardize_gradient(gy: Any, y: Any, factor: Any, weight: Any, gx: Any, first: Any, last: Any) -> None:
    """gx = factor * (gy - mean(gy) - weight * y * mean(gy * y)) for channels first .. last - 1."""
    sums, products = np.empty(_PARTS), np.empty(_PARTS)
    count = gy.shape[0] * gy.shape[2]
    for c in range(first, last):
        sums[:] = 0
        products[:] = 0
        for n in range(gy.shape[0]):
            for start in range(0, gy.shape[2], _PARTS):
                g, own = gy[n, c, start:start + _PARTS], y[n, c, start:start + _PARTS]
                for k in range(g.size):
                    entry = np.float64(g[k])
                    sums[k] += entry
                    products[k] += entry * own[k]
        middle = gy.dtype.type(sums.sum() / count)
        slope = gy.dtype.type(products.sum() / count * weight[c])
        scale = factor[c]
        for n in range(gy.shape[0]):
            g, own, out = gy[n, c], y[n, c], gx[n, c]
            for k in range(g.size):
                out[k] = (g[k] - middle - own[k] * slope) * scale


@jit
def standardize_channels(x: np.ndarray, eps: Any, y: Any, mean: Any, variance: Any, factor: Any, first: Any,
                         last: Any) -> None:
    """y = (x - mean) * factor, factor = 1 / sqrt(variance + eps), for channels first .. last - 1."""
    for c in range(first, last):
        channel_moments(x, mean, variance, c, c + 1)
        factor[c] = x.dtype.type(1) / np.sqrt(variance[c] + eps)
        middle, slope = mean[c], factor[c]
        for n in range(x.shape[0]):
            a, b = x[n, c], y[n, c]
            for k in range(a.size):
                b[k] = (a[k] - middle) * slope


@jit
def scale_gradients(gy: np.ndarray, x: np.ndarray, factor: Any, gx: Any, gfactor: Any, gshift: Any,
                    first: Any, last: Any) -> None:
    """gx = gy * factor, gfactor = the sum of gy * x, gshift = that of gy, of channels first .. last - 1."""
    sums, products = np.empty(_PARTS), np.empty(_PARTS)
    for c in range(first, last):
        sums[:] = 0
        products[:] = 0
        slope = factor[c]
        for n in range(gy.shape[0]):
            for start in range(0, gy.shape[2], _PARTS):
                g, own = gy[n, c, start:start + _PARTS], x[n, c, start:start + _PARTS]
                out = gx[n, c, start:start + _PARTS]
                for k in range(g.size):
                    entry = np.float64(g[k])
                    sums[k] += entry
                    products[k] += entry * own[k]
                    out[k] = g[k] * slope
        gfactor[c], gshift[c] = products.sum(), sums.sum()


@jit
def inverse_power(s: Any, beta: Any, power: Any) -> None:
    """power = s^-beta; by roots, which vectorise, for the usual ones."""
    one = s.dtype.type(1)
    if beta == 0.75:
        for i in range(s.size):
            root = one / np.sqrt(s[i])
            power[i] = root * np.sqrt(root)
    elif beta == 0.5:
        for i in range(s.size):
            power[i] = one / np.sqrt(s[i])
    else:
        exponent = -s.dtype.type(beta)
        for i in range(s.size):
            power[i] = s[i] ** exponent


@jit
def channel_window(x: np.ndarray, start: Any, c: Any, half: Any, s: Any) -> None:
    """s = the sums of squares of channels c - half .. c + half of x (channels, places), from `start` on."""
    s[:] = 0
    for near in range(max(0, c - half), min(len(x), c + half + 1)):
        row = x[near, start:start + s.size]
        for i in range(s.size):
            s[i] += row[i] * row[i]


@jit
def lrn_across(x: np.ndarray, half: Any, alpha: Any, beta: Any, k: Any, y: Any, first: Any,
               last: Any) -> None:
    """y = x s^-beta over channels; rows first .. last - 1 are the chunks of places of all samples."""
    places = x.shape[2]
    chunks = -(-places // CHUNK)
    sums, powers = np.empty(CHUNK, x.dtype), np.empty(CHUNK, x.dtype)
    for row in range(first, last):
        n, start = row // chunks, row % chunks * CHUNK
        stop = min(places, start + CHUNK)
        s, power = sums[:stop - start], powers[:stop - start]
        for c in range(x.shape[1]):
            channel_window(x[n], start, c, half, s)
            for i in range(s.size):
                s[i] = s[i] * alpha + k
            inverse_power(s, beta, power)
            own, out = x[n, c, start:stop], y[n, c, start:stop]
            for i in range(s.size):
                out[i] = own[i] * power[i]


@jit
def lrn_across_gradient(gy: Any, x: np.ndarray, half: Any, alpha: Any, beta: Any, k: Any, gx: Any, first: Any,
                        last: Any) -> None:
    """gx = gy s^-beta - 2 alpha beta x (the sum of gy x s^(-beta - 1)); rows as for `lrn_across`."""
    channels, places = x.shape[1:]
    chunks = -(-places // CHUNK)
    sums, powers = np.empty(CHUNK, x.dtype), np.empty(CHUNK, x.dtype)
    ratios = np.empty((channels, CHUNK), x.dtype)
    slope = 2 * alpha * x.dtype.type(beta)
    for row in range(first, last):
        n, start = row // chunks, row % chunks * CHUNK
        stop = min(places, start + CHUNK)
        s, power = sums[:stop - start], powers[:stop - start]
        for c in range(channels):
            channel_window(x[n], start, c, half, s)
            for i in range(s.size):
                s[i] = s[i] * alpha + k
            inverse_power(s, beta, power)
            own, g, out, ratio = x[n, c, start:stop], gy[n, c, start:stop], gx[n, c, start:stop], ratios[c]
            for i in range(s.size):
                scaled = g[i] * power[i]
                out[i] = scaled
                ratio[i] = scaled * own[i] / s[i]
        for c in range(channels):
            s[:] = 0
            for near in range(max(0, c - half), min(channels, c + half + 1)):
                ratio = ratios[near]
                for i in range(s.size):
                    s[i] += ratio[i]
            own, out = x[n, c, start:stop], gx[n, c, start:stop]
            for i in range(s.size):
                out[i] -= slope * own[i] * s[i]


@jit
def square_window(x: np.ndarray, h: Any, half: Any, room: Any, s: Any) -> None:
    """s = the sums of x (height, width) over the squares around the places of row h; room: width + 2 half."""
    width = x.shape[1]
    room[:] = 0
    columns = room[half:half + width]
    for near in range(max(0, h - half), min(len(x), h + half + 1)):
        row = x[near]
        for w in range(width):
            columns[w] += row[w]
    s[:] = 0
    for shift in range(2 * half + 1):
        part = room[shift:shift + width]
        for w in range(width):
            s[w] += part[w]


@jit
def lrn_within(x: np.ndarray, half: Any, alpha: Any, beta: Any, k: Any, y: Any, first: Any,
               last: Any) -> None:
    """y = x s^-beta over the places of planes first .. last - 1 of x (planes, height, width)."""
    height, width = x.shape[1:]
    squares = np.empty((height, width), x.dtype)
    room, s, power = np.empty(width + 2 * half, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    for plane in range(first, last):
        own, out = x[plane], y[plane]
        for h in range(height):
            for w in range(width):
                squares[h, w] = own[h, w] * own[h, w]
        for h in range(height):
            square_window(squares, h, half, room, s)
            for w in range(width):
                s[w] = s[w] * alpha + k
            inverse_power(s, beta, power)
            for w in range(width):
                out[h, w] = own[h, w] * power[w]


@jit
def lrn_within_gradient(gy: Any, x: np.ndarray, half: Any, alpha: Any, beta: Any, k: Any, gx: Any, first: Any,
                        last: Any) -> None:
    """The gradient of `lrn_within`, as `lrn_across_gradient`."""
    height, width = x.shape[1:]
    squares, ratios = np.empty((height, width), x.dtype), np.empty((height, width), x.dtype)
    room, s, power = np.empty(width + 2 * half, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    slope = 2 * alpha * x.dtype.type(beta)
    for plane in range(first, last):
        own, g, out = x[plane], gy[plane], gx[plane]
        for h in range(height):
            for w in range(width):
                squares[h, w] = own[h, w] * own[h, w]
        for h in range(height):
            square_window(squares, h, half, room, s)
            for w in range(width):
                s[w] = s[w] * alpha + k
            inverse_power(s, beta, power)
            for w in range(width):
                scaled = g[h, w] * power[w]
                out[h, w] = scaled
                ratios[h, w] = scaled * own[h, w] / s[w]
        for h in range(height):
            square_window(ratios, h, half, room, s)
            for w in range(width):
                out[h, w] -= slope * own[h, w] * s[w]


@jit
def sum_of_lanes(lanes: Any) -> Any:
    """Return the sum of _LANES numbers, in pairs."""
    width = _LANES // 2
    while width:
        for k in range(width):
            lanes[k] += lanes[k + width]
        width //= 2
    return lanes[0]


@jit
def normalize_rows(x: np.ndarray, weight: Any, bias: Any, eps: Any, centred: Any, y: Any, mean: Any,
                   factor: Any, first: Any, last: Any) -> None:
    """y = (x - mean) * factor * weight + bias of rows first .. last - 1, with their means and factors."""
    columns = x.shape[1]
    share = x.dtype.type(1 / columns)
    lanes = np.empty(_LANES, x.dtype)
    for i in range(first, last):
        row, out = x[i], y[i]
        middle = x.dtype.type(0)
        if centred:
            lanes[:] = 0
            for start in range(0, columns, _LANES):
                part = row[start:start + _LANES]
                for k in range(part.size):
                    lanes[k] += part[k]
            middle = sum_of_lanes(lanes) * share
        lanes[:] = 0
        for start in range(0, columns, _LANES):
            part = row[start:start + _LANES]
            for k in range(part.size):
                lanes[k] += (part[k] - middle) * (part[k] - middle)
        slope = x.dtype.type(1) / np.sqrt(sum_of_lanes(lanes) * share + eps)
        mean[i], factor[i] = middle, slope
        for j in range(columns):
            out[j] = (row[j] - middle) * slope * weight[j] + bias[j]


@jit
def normalize_rows_gradient(gy: Any, x: np.ndarray, mean: Any, factor: Any, weight: Any, centred: Any,
                            gx: Any, gweight: Any, gbias: Any, span: Any, first: Any, last: Any) -> None:
    """gx, and of each block of `span` rows first .. last - 1 its share of the sums gweight and gbias.

    The blocks are rows of gweight and gbias. Several loops over a row, which stays in the L1 cache: of more
    arrays in one the compiler does not ask whether they overlap.
    """
    columns = x.shape[1]
    share = x.dtype.type(1 / columns)
    sums, products = np.empty(_LANES, x.dtype), np.empty(_LANES, x.dtype)
    for block in range(first, last):
        gw, gb = gweight[block], gbias[block]
        gw[:] = 0
        gb[:] = 0
        for i in range(block * span, min(len(x), (block + 1) * span)):
            g, row, out = gy[i], x[i], gx[i]
            middle, slope = mean[i], factor[i]
            for j in range(columns):
                out[j] = (row[j] - middle) * slope
            for j in range(columns):
                gw[j] += g[j] * out[j]
            for j in range(columns):
                gb[j] += g[j]
            sums[:] = 0
            products[:] = 0
            for start in range(0, columns, _LANES):
                a, b, c = g[start:start + _LANES], weight[start:start + _LANES], out[start:start + _LANES]
                for k in range(a.size):
                    products[k] += a[k] * b[k] * c[k]
                if centred:
                    for k in range(a.size):
                        sums[k] += a[k] * b[k]
            lean = sum_of_lanes(products) * share
            shift = sum_of_lanes(sums) * share
            for j in range(columns):
                out[j] = (g[j] * weight[j] - shift - out[j] * lean) * slope
