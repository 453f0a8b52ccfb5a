"""Numba loops that normalize, in one or two passes over memory. Reference: backend/generic/norm.py.

Arrays of channels are (samples, channels, places). Sums are added up in float64, in as many parts as make the
loops vectorise without fastmath: place k of each run of _PARTS places belongs to part k.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit

_PARTS = 128
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
def normalize_channels(x: np.ndarray, eps: Any, weight: Any, bias: Any, relu: Any, scale: Any, zero: Any,
                       y: Any, mean: Any, variance: Any, factor: Any, first: Any, last: Any) -> None:
    """y = scale * f((x - mean) * factor * weight + bias), as `standardize_channels`; relu: f = max(., 0)."""
    for c in range(first, last):
        channel_moments(x, mean, variance, c, c + 1)
        factor[c] = x.dtype.type(1) / np.sqrt(variance[c] + eps)
        middle, slope, own, rise = mean[c], factor[c], weight[c], bias[c]
        for n in range(x.shape[0]):
            a, b = x[n, c], y[n, c]
            if relu:
                for k in range(a.size):
                    value = (a[k] - middle) * slope * own + rise
                    b[k] = scale * (zero if value <= zero else value)
            else:
                for k in range(a.size):
                    b[k] = scale * ((a[k] - middle) * slope * own + rise)


@jit
def normalize_channels_gradient(gy: np.ndarray, x: np.ndarray, y: np.ndarray, relu: Any, mean: Any,
                                factor: Any, weight: Any, scale: Any, zero: Any, gx: Any, gweight: Any,
                                gbias: Any, first: Any, last: Any) -> None:
    """gx, gweight, gbias of channels first .. last - 1; relu: gy counts only where y > 0; scale: of y."""
    sums, products = np.empty(_PARTS), np.empty(_PARTS)
    count = gy.shape[0] * gy.shape[2]
    for c in range(first, last):
        sums[:] = 0
        products[:] = 0
        middle, slope = mean[c], factor[c]
        for n in range(gy.shape[0]):
            for start in range(0, gy.shape[2], _PARTS):
                g, own = gy[n, c, start:start + _PARTS], x[n, c, start:start + _PARTS]
                out = gx[n, c, start:start + _PARTS]
                if relu:
                    above = y[n, c, start:start + _PARTS]
                    for k in range(g.size):
                        out[k] = g[k] * scale if above[k] > zero else zero
                else:
                    for k in range(g.size):
                        out[k] = g[k] * scale
                for k in range(g.size):
                    entry = np.float64(out[k])
                    sums[k] += entry
                    products[k] += entry * ((own[k] - middle) * slope)
        gweight[c], gbias[c] = products.sum(), sums.sum()
        steep = weight[c] * slope
        shift, lean = gx.dtype.type(gbias[c] / count), gx.dtype.type(gweight[c] / count)
        for n in range(gy.shape[0]):
            own, out = x[n, c], gx[n, c]
            for k in range(own.size):
                out[k] = (out[k] - shift - (own[k] - middle) * slope * lean) * steep


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
