"""Numba loops for convolutions of images (N, C, H, W). Reference: backend/generic/convolution.py.

A product of matrices wants the entries of a window side by side, and images have the channels farthest apart.
So a band of an image is turned into rows (height, width, channels) first: then a line of a window, all its
channels, is one run of memory. Indices are unsigned: for signed ones Numba checks whether they count from the
end, and does not vectorise the loop.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit

U = np.uint64


@jit
def image_rows(x: Any, n: Any, c: Any, top: Any, pad: Any, out: Any) -> None:
    """out[h, w, k] = x[n, c + k, top + h, w - pad], 0 outside of the image; out (height, width, channels)."""
    height, width = x.shape[2:]
    channels = U(out.shape[2])
    flat = out.reshape(-1)
    for i in range(out.shape[0]):
        h = top + i
        if h < 0 or h >= height:
            out[i] = 0
            continue
        out[i, :pad] = 0
        out[i, pad + width:] = 0
        first = U((i * out.shape[1] + pad) * out.shape[2])
        for w in range(0, width, 8):
            run = U(min(8, width - w))
            for k in range(channels):
                line = x[n, U(c) + k, h]
                at = first + U(w) * channels + k
                if run == 8:
                    for j in range(U(8)):
                        flat[at + j * channels] = line[U(w) + j]
                else:
                    for j in range(run):
                        flat[at + j * channels] = line[U(w) + j]


@jit
def put_image_rows(rows: Any, pad_h: Any, pad_w: Any, x: Any, n: Any, c: Any) -> None:
    """x[n, c + k, h, w] = rows[h + pad_h, w + pad_w, k]; rows (height, width, channels) of the padded image."""
    height, width = x.shape[2:]
    channels = U(rows.shape[2])
    flat = rows.reshape(-1)
    for h in range(height):
        first = U(((h + pad_h) * rows.shape[1] + pad_w) * rows.shape[2])
        for w in range(0, width, 8):
            run = U(min(8, width - w))
            for k in range(channels):
                line = x[n, U(c) + k, h]
                at = first + U(w) * channels + k
                if run == 8:
                    for j in range(U(8)):
                        line[U(w) + j] = flat[at + j * channels]
                else:
                    for j in range(run):
                        line[U(w) + j] = flat[at + j * channels]


@jit
def gather_windows(rows: Any, skipped: Any, size: Any, stride: Any, dilation: Any, width: Any, first: Any,
                   last: Any, out: Any, at: Any) -> None:
    """Copy the windows at places (r, w) for first <= r < last, w < width, to the rows of `out` from `at` on.

    rows (height, width, channels): the padded image without its first `skipped` lines. size, stride,
    dilation: of the window, two numbers each. A row of `out` has the order (line, column, channel).
    """
    channels = rows.shape[2]
    source, target = rows.reshape(-1), out.reshape(-1)
    runs, run = (1, U(size[1] * channels)) if dilation[1] == 1 else (size[1], U(channels))
    q = U(at * out.shape[1])
    for r in range(first, last):
        for w in range(width):
            for i in range(size[0]):
                line = (r * stride[0] + i * dilation[0] - skipped) * rows.shape[1] + w * stride[1]
                for j in range(runs):
                    p = U((line + j * dilation[1]) * channels)
                    for k in range(run):
                        target[q + k] = source[p + k]
                    q += run


@jit
def scatter_windows(columns: Any, at: Any, size: Any, stride: Any, dilation: Any, width: Any, first: Any,
                    last: Any, rows: Any) -> None:
    """Add the windows in the rows of `columns` from `at` on to where `gather_windows` reads them."""
    channels = rows.shape[2]
    source, target = columns.reshape(-1), rows.reshape(-1)
    runs, run = (1, U(size[1] * channels)) if dilation[1] == 1 else (size[1], U(channels))
    q = U(at * columns.shape[1])
    for r in range(first, last):
        for w in range(width):
            for i in range(size[0]):
                line = (r * stride[0] + i * dilation[0]) * rows.shape[1] + w * stride[1]
                for j in range(runs):
                    p = U((line + j * dilation[1]) * channels)
                    for k in range(run):
                        target[p + k] += source[q + k]
                    q += run


@jit
def put_outputs(rows: Any, at: Any, count: Any, y: Any, n: Any, o: Any, place: Any, b: Any, relu: Any,
                scale: Any) -> None:
    """y[n, o + k, place + p] = scale * f(rows[at + p, k] + b[k]) for p < count; f: max(., 0) with relu."""
    outputs, zero = U(rows.shape[1]), rows.dtype.type(0)
    flat = rows.reshape(-1)
    for p in range(0, count, 8):
        run = U(min(8, count - p))
        first, to = U((at + p) * rows.shape[1]), U(place + p)
        for k in range(outputs):
            line, own = y[n, U(o) + k], b[k]
            if run == 8:
                for j in range(U(8)):
                    value = flat[first + j * outputs + k] + own
                    line[to + j] = scale * (zero if relu and value <= zero else value)
            else:
                for j in range(run):
                    value = flat[first + j * outputs + k] + own
                    line[to + j] = scale * (zero if relu and value <= zero else value)


@jit
def swap_inner(x: Any, out: Any, first: Any, last: Any) -> None:
    """out[i, k, j] = x[i, j, k] for first <= i < last: filters (O, C, entries) <-> (O, entries, C)."""
    rows, columns = U(x.shape[1]), U(x.shape[2])
    for i in range(first, last):
        source, target = x[i].reshape(-1), out[i].reshape(-1)
        for j in range(rows):
            for k in range(columns):
                target[k * rows + j] = source[j * columns + k]
