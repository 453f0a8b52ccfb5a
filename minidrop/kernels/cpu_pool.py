"""Numba loops for pooling: a plane (image, channel) at a time. Reference: backend/generic/pooling.py."""

from typing import Any

import numba
import numpy as np

from minidrop.kernels.cpu import inside, jit
from minidrop.kernels.slides import largest_taps, sum_taps

U = np.uint64


@jit
def surround(image: Any, pad: Any, edge: Any, out: Any) -> None:
    """out = the plane with `edge` around it, from (pad[0], pad[1]) on; what does not fit is left out."""
    height, width = image.shape
    begin, end = pad[1], min(out.shape[1], pad[1] + width)
    for r in range(out.shape[0]):
        line, h = out[r], r - pad[0]
        if h < 0 or h >= height:
            line[:] = edge
            continue
        line[:begin] = edge
        line[end:] = edge
        source = image[h]
        for w in range(end - begin):
            line[begin + w] = source[w]


@jit
def max_lines(x: Any, size: Any, stride: Any, pad: Any, y: Any, index: Any, zero: Any, step: Any, lanes: Any,
              first: Any, last: Any) -> None:
    """What `max_planes` writes, by vectors of places; step, lanes: tuples as long as stride[1] and as one."""
    height, width = x.shape[1:]
    lines, places, many = y.shape[1], y.shape[2], len(lanes)
    reach = -(-places // many) * many * stride[1] + size[1]
    laid = np.empty(((lines - 1) * stride[0] + size[0], reach), x.dtype)
    offsets, shifts = np.empty(size[0] * size[1], np.int64), np.empty(size[0] * size[1], np.int64)
    for i in range(size[0]):
        for j in range(size[1]):
            offsets[i * size[1] + j], shifts[i * size[1] + j] = i * reach + j, i * width + j
    best, at = np.empty(many, x.dtype), np.empty(many, np.int32)
    size_of = x.itemsize
    for plane in range(first, last):
        surround(x[plane], pad, x.dtype.type(-np.inf), laid)
        for r in range(lines):
            top, row = r * stride[0] - pad[0], (plane * lines + r) * places
            for c in range(0, places, many):
                source = laid.ctypes.data + (r * stride[0] * reach + c * stride[1]) * size_of
                line, inner, left = top * width, max(top, 0) * width, c * stride[1] - pad[1]
                if c + many <= places:
                    to, where = y.ctypes.data + (row + c) * size_of, index.ctypes.data + (row + c) * 4
                    largest_taps(source, offsets.ctypes.data, shifts.ctypes.data, offsets.size, line, inner,
                                 left, to, where, zero, step, lanes)
                    continue
                largest_taps(source, offsets.ctypes.data, shifts.ctypes.data, offsets.size, line, inner, left,
                             best.ctypes.data, at.ctypes.data, zero, step, lanes)
                for k in range(places - c):
                    y[plane, r, c + k], index[plane, r, c + k] = best[k], at[k]


@jit
def mean_lines(x: Any, size: Any, stride: Any, pad: Any, y: Any, zero: Any, step: Any, lanes: Any, first: Any,
               last: Any) -> None:
    """What `mean_planes` writes, by vectors of places; arguments as those of `max_lines`."""
    height, width = x.shape[1:]
    lines, places, many = y.shape[1], y.shape[2], len(lanes)
    whole = -(-places // many) * many
    laid = np.empty(((lines - 1) * stride[0] + size[0], whole * stride[1] + size[1]), x.dtype)
    offsets = np.empty(size[0] * size[1], np.int64)
    for i in range(size[0]):
        for j in range(size[1]):
            offsets[i * size[1] + j] = i * laid.shape[1] + j
    columns, total = np.empty(places, x.dtype), np.empty(whole, x.dtype)
    for c in range(places):
        left = c * stride[1] - pad[1]
        columns[c] = min(left + size[1], width + pad[1]) - left
    for plane in range(first, last):
        surround(x[plane], pad, zero, laid)
        for r in range(lines):
            top, to = r * stride[0] - pad[0], y[plane, r]
            for c in range(0, whole, many):
                source = r * stride[0] * laid.shape[1] + c * stride[1]
                sum_taps(laid.ctypes.data + source * x.itemsize, offsets.ctypes.data, offsets.size,
                         total.ctypes.data + c * x.itemsize, zero, step, lanes)
            rows = x.dtype.type(min(top + size[0], height + pad[0]) - top)
            for c in range(places):
                to[c] = total[c] / (rows * columns[c])


@numba.njit(inline="always")         # with `step` as a constant: a call would not vectorise
def take_larger(image: Any, base: Any, step: Any, start: Any, stop: Any, best: Any, at: Any) -> None:
    """best[c], at[c] = image[i], i with i = base + c step, where that is larger or the first NaN."""
    for c in range(start, stop):
        place = base + step * c
        value = image[U(place)]
        larger = (value > best[U(c)]) | ((value != value) & (best[U(c)] == best[U(c)]))
        best[U(c)] = value if larger else best[U(c)]
        at[U(c)] = np.int32(place) if larger else at[U(c)]


@jit
def max_planes(x: Any, size: Any, stride: Any, pad: Any, y: Any, index: Any, first: Any, last: Any) -> None:
    """y, index = the largest entry of each window and its place in the plane; x (planes, H, W).

    A line of results at a time, one entry of the window after the other: such loops vectorise, for the usual
    steps, which are constants in them.
    """
    height, width = x.shape[1:]
    for plane in range(first, last):
        image = x[plane].reshape(-1)
        for r in range(y.shape[1]):
            best, at = y[plane, r], index[plane, r]
            top = r * stride[0] - pad[0]
            begin, end = max(top, 0), min(top + size[0], height)
            for c in range(best.size):
                place = begin * width + max(c * stride[1] - pad[1], 0)
                best[c], at[c] = image[place], place
            for h in range(begin, end):
                for j in range(size[1]):
                    shift = j - pad[1]
                    start, stop = inside(shift, stride[1], width, best.size)
                    base = h * width + shift
                    if stride[1] == 1:
                        take_larger(image, base, 1, start, stop, best, at)
                    elif stride[1] == 2:
                        take_larger(image, base, 2, start, stop, best, at)
                    else:
                        take_larger(image, base, stride[1], start, stop, best, at)


@jit
def add_at_places(gy: Any, index: Any, gx: Any, first: Any, last: Any) -> None:
    """gx[plane, index] += gy for the places of a plane, in order; gx (planes, H * W)."""
    for plane in range(first, last):
        target, source, places = gx[plane], gy[plane], index[plane]
        target[:] = 0
        for i in range(source.size):
            target[U(places[i])] += source[i]


@jit
def mean_planes(x: Any, size: Any, stride: Any, pad: Any, y: Any, first: Any, last: Any) -> None:
    """y = the sum of each window divided by the size of its part inside of the padded image."""
    height, width = x.shape[1:]
    for plane in range(first, last):
        image = x[plane]
        for r in range(y.shape[1]):
            top = r * stride[0] - pad[0]
            rows = min(top + size[0], height + pad[0]) - top
            for c in range(y.shape[2]):
                left = c * stride[1] - pad[1]
                columns = min(left + size[1], width + pad[1]) - left
                total = y.dtype.type(0)
                for h in range(max(top, 0), min(top + size[0], height)):
                    line = image[h]
                    for w in range(U(max(left, 0)), U(min(left + size[1], width))):
                        total += line[w]
                y[plane, r, c] = total / y.dtype.type(rows * columns)


@jit
def spread_means(gy: Any, size: Any, stride: Any, pad: Any, gx: Any, first: Any, last: Any) -> None:
    """The gradient of the x of `mean_planes`; gx (planes, H, W)."""
    height, width = gx.shape[1:]
    for plane in range(first, last):
        image = gx[plane]
        image[:] = 0
        for r in range(gy.shape[1]):
            top = r * stride[0] - pad[0]
            rows = min(top + size[0], height + pad[0]) - top
            for c in range(gy.shape[2]):
                left = c * stride[1] - pad[1]
                columns = min(left + size[1], width + pad[1]) - left
                share = gy[plane, r, c] / gy.dtype.type(rows * columns)
                for h in range(max(top, 0), min(top + size[0], height)):
                    line = image[h]
                    for w in range(U(max(left, 0)), U(min(left + size[1], width))):
                        line[w] += share
