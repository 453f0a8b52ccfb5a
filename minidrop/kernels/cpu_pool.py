"""Numba loops for pooling: a plane (image, channel) at a time. Reference: backend/generic/pooling.py."""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit

U = np.uint64


@jit
def max_planes(x: Any, size: Any, stride: Any, pad: Any, y: Any, index: Any, first: Any, last: Any) -> None:
    """y, index = the largest entry of each window and its place in the plane; x (planes, H, W)."""
    height, width = x.shape[1:]
    for plane in range(first, last):
        image = x[plane]
        for r in range(y.shape[1]):
            top = r * stride[0] - pad[0]
            begin, end = max(top, 0), min(top + size[0], height)
            for c in range(y.shape[2]):
                left = c * stride[1] - pad[1]
                start, stop = U(max(left, 0)), U(min(left + size[1], width))
                best, at = image[begin, start], U(begin * width) + start
                for h in range(begin, end):
                    line, base = image[h], U(h * width)
                    for w in range(start, stop):
                        if line[w] > best or line[w] != line[w] and best == best:
                            best, at = line[w], base + w
                y[plane, r, c] = best
                index[plane, r, c] = at


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
