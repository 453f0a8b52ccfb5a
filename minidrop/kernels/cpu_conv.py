"""Numba loops for convolutions of images (N, C, H, W). Reference: backend/generic/convolution.py.

A product of matrices wants the entries of a window side by side, and images have the channels farthest apart.
So a band of an image is turned into rows (height, width, channels) first: then a line of a window, all its
channels, is one run of memory. Indices are unsigned: for signed ones Numba checks whether they count from the
end, and does not vectorise the loop.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import inside, jit

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
    """x[n, c + k, h, w] = rows[h + pad_h, w + pad_w, k]: the image inside of padded rows."""
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
def gather_windows(x: Any, first: Any, last: Any, c: Any, window: Any, top: Any, end: Any, places: Any,
                   band: Any, out: Any) -> None:
    """Copy the windows of images first .. last - 1 at lines top .. end - 1 of places to the rows of `out`.

    window: its size, stride, pad and dilation, int64 (4, 2). places: on a line. A row of `out` has the order
    (line of the window, its column, channel). band: room for the lines that an image's windows read, (lines,
    width with its padding, channels).
    """
    size, stride, pad, dilation = window
    skipped, width, channels = top * stride[0], band.shape[1], band.shape[2]
    source, target = band.reshape(-1), out.reshape(-1)
    runs, run = (1, U(size[1] * channels)) if dilation[1] == 1 else (size[1], U(channels))
    q = U(0)
    for n in range(first, last):
        image_rows(x, n, c, skipped - pad[0], pad[1], band)
        for r in range(top, end):
            for w in range(places):
                for i in range(size[0]):
                    line = (r * stride[0] + i * dilation[0] - skipped) * width + w * stride[1]
                    for j in range(runs):
                        p = U((line + j * dilation[1]) * channels)
                        for k in range(run):
                            target[q + k] = source[p + k]
                        q += run


@jit
def scatter_windows(columns: Any, first: Any, last: Any, c: Any, window: Any, top: Any, end: Any,
                    places: Any, lines: Any, padded: Any, x: Any) -> None:
    """Add the rows of `columns` up where `gather_windows` reads them, and write finished images to x.

    padded: room for an image with its padding, (height, width, channels); it is kept between the bands of an
    image, which has `lines` of places.
    """
    size, stride, pad, dilation = window
    width, channels = padded.shape[1], padded.shape[2]
    source, target = columns.reshape(-1), padded.reshape(-1)
    runs, run = (1, U(size[1] * channels)) if dilation[1] == 1 else (size[1], U(channels))
    q = U(0)
    for n in range(first, last):
        if top == 0:
            padded[:] = 0
        for r in range(top, end):
            for w in range(places):
                for i in range(size[0]):
                    line = (r * stride[0] + i * dilation[0]) * width + w * stride[1]
                    for j in range(runs):
                        p = U((line + j * dilation[1]) * channels)
                        for k in range(run):
                            target[p + k] += source[q + k]
                        q += run
        if end == lines:
            put_image_rows(padded, pad[0], pad[1], x, n, c)


@jit
def output_rows(y: Any, first: Any, last: Any, o: Any, top: Any, end: Any, out: Any) -> None:
    """Copy lines top .. end - 1 of images first .. last - 1 to the rows of `out`, a channel a column."""
    lines, places = end - top, y.shape[3]
    for i in range(last - first):
        own = out[i * lines * places:(i + 1) * lines * places]
        image_rows(y, first + i, o, top, 0, own.reshape(lines, places, out.shape[1]))


@jit
def put_outputs(rows: Any, y: Any, first: Any, last: Any, o: Any, top: Any, end: Any, b: Any, relu: Any,
                scale: Any) -> None:
    """Write scale * f(rows + b) to lines top .. end - 1 of images first .. last - 1; relu: f = max(., 0)."""
    outputs, zero, count = U(rows.shape[1]), rows.dtype.type(0), (end - top) * y.shape[3]
    flat, target, plane = rows.reshape(-1), y.reshape(-1), U(y.shape[2] * y.shape[3])
    for n in range(first, last):
        base = U(((n * y.shape[1] + o) * y.shape[2] + top) * y.shape[3])
        for p in range(0, count, 8):
            run = U(min(8, count - p))
            at = U(((n - first) * count + p) * rows.shape[1])
            for k in range(outputs):
                own, to = b[k], base + k * plane + U(p)
                if run == 8:
                    for j in range(U(8)):
                        value = flat[at + j * outputs + k] + own
                        target[to + j] = scale * (zero if relu and value <= zero else value)
                else:
                    for j in range(run):
                        value = flat[at + j * outputs + k] + own
                        target[to + j] = scale * (zero if relu and value <= zero else value)


@jit
def swap_inner(x: Any, out: Any, first: Any, last: Any) -> None:
    """out[i, k, j] = x[i, j, k] for first <= i < last: filters (O, C, entries) <-> (O, entries, C)."""
    rows, columns = U(x.shape[1]), U(x.shape[2])
    for i in range(first, last):
        source, target = x[i].reshape(-1), out[i].reshape(-1)
        for j in range(rows):
            for k in range(columns):
                target[k * rows + j] = source[j * columns + k]


@jit
def convolve_planes(x: Any, W: Any, size: Any, stride: Any, pad: Any, dilation: Any, y: Any, first: Any,
                    last: Any) -> None:
    """y[n, o] = the convolution of x[n, o // m] with W[o], for first <= n * outputs + o < last."""
    outputs, factor = y.shape[1], y.shape[1] // x.shape[1]
    for plane in range(first, last):
        n, o = plane // outputs, plane % outputs
        image, weights, target = x[n, o // factor], W[o], y[n, o]
        target[:] = 0
        for r in range(y.shape[2]):
            line = target[r]
            for i in range(size[0]):
                h = r * stride[0] + i * dilation[0] - pad[0]
                if h < 0 or h >= x.shape[2]:
                    continue
                for j in range(size[1]):
                    shift = j * dilation[1] - pad[1]
                    begin, end = inside(shift, stride[1], x.shape[3], line.size)
                    if begin >= end:
                        continue
                    weight, at, step = weights[i * size[1] + j], U(begin), U(stride[1])
                    source = image[h, begin * stride[1] + shift:]
                    if step == 1:
                        for k in range(U(end - begin)):
                            line[at + k] += weight * source[k]
                    else:
                        for k in range(U(end - begin)):
                            line[at + k] += weight * source[k * step]


@jit
def spread_planes(W: Any, gy: Any, size: Any, stride: Any, pad: Any, dilation: Any, gx: Any, first: Any,
                  last: Any) -> None:
    """The gradient of the x of `convolve_planes`, for first <= n * channels + c < last."""
    channels, factor = gx.shape[1], gy.shape[1] // gx.shape[1]
    for plane in range(first, last):
        n, c = plane // channels, plane % channels
        image = gx[n, c]
        image[:] = 0
        for o in range(c * factor, (c + 1) * factor):
            weights, source = W[o], gy[n, o]
            for r in range(gy.shape[2]):
                line = source[r]
                for i in range(size[0]):
                    h = r * stride[0] + i * dilation[0] - pad[0]
                    if h < 0 or h >= gx.shape[2]:
                        continue
                    for j in range(size[1]):
                        shift = j * dilation[1] - pad[1]
                        begin, end = inside(shift, stride[1], gx.shape[3], line.size)
                        if begin >= end:
                            continue
                        weight, at, step = weights[i * size[1] + j], U(begin), U(stride[1])
                        target = image[h, begin * stride[1] + shift:]
                        if step == 1:
                            for k in range(U(end - begin)):
                                target[k] += weight * line[at + k]
                        else:
                            for k in range(U(end - begin)):
                                target[k * step] += weight * line[at + k]


@jit
def plane_weights(x: Any, gy: Any, size: Any, stride: Any, pad: Any, dilation: Any, gW: Any, first: Any,
                  last: Any) -> None:
    """gW[o, k] = the gradient of the W of `convolve_planes`, for first <= o < last; images in order."""
    factor = gy.shape[1] // x.shape[1]
    sums = np.empty(8, gW.dtype)        # as many independent sums as the processor can keep going
    for o in range(first, last):
        for i in range(size[0]):
            for j in range(size[1]):
                shift = j * dilation[1] - pad[1]
                begin, end = inside(shift, stride[1], x.shape[3], gy.shape[3])
                sums[:] = 0
                if begin < end:
                    at, step, count = U(begin), U(stride[1]), U(end - begin)
                    whole = count - count % U(8)
                    for n in range(x.shape[0]):
                        for r in range(gy.shape[2]):
                            h = r * stride[0] + i * dilation[0] - pad[0]
                            if h < 0 or h >= x.shape[2]:
                                continue
                            line = gy[n, o, r]
                            source = x[n, o // factor, h, begin * stride[1] + shift:]
                            for k in range(U(0), whole, U(8)):
                                for lane in range(U(8)):
                                    sums[lane] += line[at + k + lane] * source[(k + lane) * step]
                            for k in range(whole, count):
                                sums[k - whole] += line[at + k] * source[k * step]
                gW[o, i * size[1] + j] = sums.sum()
