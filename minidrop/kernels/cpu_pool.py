"""Numba loops for pooling: a plane (image, channel) at a time. Reference: backend/generic/pooling.py."""

from typing import Any

import numba
import numpy as np

from minidrop.kernels.cpu import inside, jit

U = np.uint64


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
