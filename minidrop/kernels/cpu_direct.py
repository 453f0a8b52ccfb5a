"""Loops that convolve images where they are; see taps.py. Reference: backend/generic/convolution.py.

The channels of a band of an image are laid out in planes with zeros around. Place (r, w) is number
q = r * pitch + w, and reads at q + offset for each tap of the window, an offset of its own: so the places of
all lines follow each other in vectors. `pitch` counts the zeros on one side alone: those on the right of a
line are those on the left of the next. What is computed for places between the lines is thrown away. With a
stride, what is equally far from a multiple of it on both axes (a phase) lies in a plane of its own.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import inside, jit
from minidrop.kernels.lines import copy_line, finish_line
from minidrop.kernels.taps import add_dots, add_places, add_taps
from minidrop.kernels.vectors import transpose_square

LINES = 16


@jit
def lay_out(x: Any, n: Any, c: Any, channels: Any, top: Any, layout: Any, plane: Any, out: Any,
            lanes: Any) -> None:
    """out[k, phase, r, u] = x[n, c + k] at line (top + r) * stride + phase - pad, and so its columns.

    0 outside of the image. layout: (stride, pad, phases, lines, pitch, ...), the first three int64 (2,) and
    (F, 2); out: flat, `plane` numbers for each plane; those behind its last line are left as they are.
    """
    stride, pad, phases, lines, pitch = layout[:5]
    height, width = x.shape[2:]
    for k in range(channels):
        image = x[n, c + k]
        for f in range(phases.shape[0]):
            shift = phases[f, 1] - pad[1]
            begin, end = inside(shift, stride[1], width, pitch)
            begin = min(begin, pitch)
            end, at = max(begin, end), (k * phases.shape[0] + f) * plane
            for r in range(lines):
                h = (top + r) * stride[0] + phases[f, 0] - pad[0]
                row = out[at:at + pitch]
                at += pitch
                if h < 0 or h >= height or begin == end:
                    row[:] = 0
                    continue
                row[:begin] = 0
                row[end:] = 0
                inner, source = row[begin:end], image[h, begin * stride[1] + shift:]
                if stride[1] == 1 and x.strides[3] == x.itemsize:
                    copy_line(source, inner, lanes)
                else:
                    step = np.uint64(stride[1])
                    for u in range(np.uint64(inner.size)):
                        inner[u] = source[u * step]


@jit
def _multiply(laid: Any, offsets: Any, weights: Any, vectors: Any, sums: Any, zero: Any, rows: Any,
              lanes: Any) -> None:
    """sums[r, q] = the sum of weights[k, r] laid[offsets[k] + q] over k; q as many as `vectors` have."""
    step, v = len(lanes) * sums.itemsize, 0
    while v < vectors:
        left, x, y = vectors - v, laid.ctypes.data + v * step, sums.ctypes.data + v * step
        if left == 3 or left > 4:
            add_taps(x, offsets.ctypes.data, weights.ctypes.data, weights.shape[1], y, sums.shape[1],
                     offsets.size, zero, (rows, (None, None, None), lanes))
            v += 3
        elif left > 1:
            add_taps(x, offsets.ctypes.data, weights.ctypes.data, weights.shape[1], y, sums.shape[1],
                     offsets.size, zero, (rows, (None, None), lanes))
            v += 2
        else:
            add_taps(x, offsets.ctypes.data, weights.ctypes.data, weights.shape[1], y, sums.shape[1],
                     offsets.size, zero, (rows, (None,), lanes))
            v += 1


@jit
def convolve_bands(x: np.ndarray, c: Any, channels: Any, layout: Any, offsets: Any, panels: Any, b: Any,
                   relu: Any, scale: Any, y: np.ndarray, o: Any, laid: Any, sums: Any, zero: Any, form: Any,
                   first: Any, last: Any) -> None:
    """Write scale * f(convolution + b) to bands first .. last - 1 of all images and groups of channels.

    layout: as for `lay_out`, then the lines of places in a band; channels: of x in a group; panels: (groups,
    blocks, taps, rows of a block); b (groups, outputs); relu: f = max(., 0), else nothing; laid, sums: room
    for a band of x, and for a block of its results. form: as long as the rows of a block, those of a smaller
    one that may be the last, and a vector's numbers.
    """
    lines, pitch, band = layout[3:]
    groups, outputs = b.shape
    places, height, bands = y.shape[3], len(form[0]), -(-y.shape[2] // band)
    for unit in range(first, last):
        n, g, top = unit // bands // groups, unit // bands % groups, unit % bands * band
        here = min(band, y.shape[2] - top)
        lay_out(x, n, c + g * channels, channels, top, layout, lines * pitch, laid, form[2])
        vectors = -(-((here - 1) * pitch + places) // len(form[2]))
        for block in range(panels.shape[1]):
            rows = min(height, outputs - block * height)
            if rows > len(form[1]):
                _multiply(laid, offsets, panels[g, block], vectors, sums, zero, form[0], form[2])
            else:
                _multiply(laid, offsets, panels[g, block], vectors, sums, zero, form[1], form[2])
            for r in range(rows):
                own, channel = b[g, block * height + r], o + g * outputs + block * height + r
                for line in range(here):
                    source, target = sums[r, line * pitch:line * pitch + places], y[n, channel, top + line]
                    if y.strides[3] == y.itemsize:
                        finish_line(source, target, own, relu, scale, form[2])
                    else:
                        for w in range(target.size):
                            total = source[w] + own
                            target[w] = scale * (zero if relu and total <= zero else total)


@jit
def transpose_places(gy: Any, n: Any, images: Any, o: Any, outputs: Any, first: Any, count: Any, out: Any,
                zero: Any, lanes: Any) -> None:
    """out[i, q, k] = gy[n + i, o + k, first + q], 0 for k >= outputs; gy (N, O, places)."""
    square = len(lanes)
    for i in range(images):
        for k in range(0, out.shape[2], square):
            there, q = min(square, outputs - k), 0
            if there == square:
                source, to = gy[n + i, o + k:, first:], out[i, :, k:]
                while q + square <= count:
                    transpose_square(source[:, q:].ctypes.data, gy.shape[2], to[q:].ctypes.data, out.shape[2],
                                     zero, lanes)
                    q += square
            for rest in range(q, count):
                for r in range(square):
                    out[i, rest, k + r] = gy[n + i, o + k + r, first + rest] if r < there else zero


@jit
def _add_panel(laid: Any, offsets: Any, pitch: Any, g: Any, gW: Any, column: Any, images: Any, lines: Any,
               places: Any, zero: Any, form: Any) -> None:
    """gW[t, column + v] += what `add_places` says, v < the vectors and numbers of `form`; t: all offsets."""
    for t in range(0, offsets.size, len(form[0])):
        add_places(laid.ctypes.data, offsets[t:].ctypes.data, pitch, laid.shape[1], g.ctypes.data,
                   gW[t, column:].ctypes.data, gW.shape[1], images, lines, places, zero, form)


@jit
def weight_gradient(x: np.ndarray, c: Any, channels: Any, layout: Any, offsets: Any, gy: np.ndarray, o: Any,
                    outputs: Any, panels: Any, gW: Any, laid: Any, g: Any, zero: Any, form: Any, first: Any,
                    last: Any) -> None:
    """gW[t, k] += the sum over bands first .. last - 1 of what tap t reads, from c on, times gy[o + k].

    layout: as for `convolve_bands`; panels: of how many vectors of outputs each; gW, offsets: as many rows as
    blocks have; laid, g: room for some bands of x, (bands, numbers), and for one panel of theirs of gy.
    """
    lines, pitch, band = layout[3:]
    places, bands = gy.shape[3], -(-gy.shape[2] // band)
    planes = gy.reshape(gy.shape[0], gy.shape[1], gy.shape[2] * places)
    for begin in range(first, last, len(laid)):
        images, n, top = min(len(laid), last - begin), begin // bands, begin % bands * band
        here, column = min(band, gy.shape[2] - top), 0
        for i in range(images):
            lay_out(x, n + i, c, channels, top, layout, lines * pitch, laid[i], form[1])
        for vectors in panels:
            width = vectors * len(form[1])
            own = g[:images * here * places * width].reshape(images, here * places, width)
            transpose_places(planes, n, images, o + column, outputs - column, top * places, here * places,
                             own, zero, form[1])
            if vectors == 2:
                _add_panel(laid, offsets, pitch, own, gW, column, images, here, places, zero,
                           (form[0], (None, None), form[1]))
            else:
                _add_panel(laid, offsets, pitch, own, gW, column, images, here, places, zero,
                           (form[0], (None,), form[1]))
            column += width


@jit
def dot_weight_gradient(x: np.ndarray, c: Any, channels: Any, layout: Any, offsets: Any, gy: np.ndarray,
                        o: Any, outputs: Any, flat: Any, gW: Any, laid: Any, g: Any, zero: Any, form: Any,
                        first: Any, last: Any) -> None:
    """gW[k, t] += the sum over bands first .. last - 1 of gy[o + k] times what tap t reads, from c on.

    layout, flat, laid, g: as for `each_weight_gradient`, of all channels and outputs; form: rows, taps and
    numbers of a vector; gW, offsets: as many rows and taps as blocks have.
    """
    lines, pitch, band = layout[3:]
    bands, row = -(-gy.shape[2] // band), g.shape[1] // gW.shape[0]
    vectors = -(-((band - 1) * pitch + gy.shape[3]) // len(form[2]))
    for begin in range(first, last, len(laid)):
        count = min(len(laid), last - begin)
        for i in range(count):
            n, top = (begin + i) // bands, (begin + i) % bands * band
            lay_out(x, n, c, channels, top, layout, lines * pitch, laid[i], form[2])
            lay_out(gy, n, o, outputs, top, flat, row, g[i], form[2])
        for k in range(0, gW.shape[0], len(form[0])):
            for t in range(0, offsets.size, len(form[1])):
                add_dots(g[0, k * row:].ctypes.data, row, g.shape[1], laid.ctypes.data, laid.shape[1],
                         offsets[t:].ctypes.data, gW[k, t:].ctypes.data, offsets.size, count, vectors, zero,
                         form)


@jit
def add_squares(found: Any, squares: Any, gW: Any, first: Any, last: Any) -> None:
    """gW[k + r, t + s] = the sum over parts of found[part, i, s, r], for squares i = (k, t, rows, columns).

    first .. last - 1: lines of LINES rows, of all squares in turn.
    """
    lines = -(-found.shape[3] // LINES)
    for unit in range(first, last):
        square, begin = unit // lines, unit % lines * LINES
        k, t, rows, columns = squares[square]
        for start in range(0, columns, LINES):
            for r in range(begin, min(rows, begin + LINES)):
                to = gW[k + r, t + start:t + min(columns, start + LINES)]
                to[:] = 0
                for part in range(len(found)):
                    own = found[part, square, start:, r]
                    for s in range(to.size):
                        to[s] += own[s]


@jit
def each_weight_gradient(x: np.ndarray, layout: Any, offsets: Any, gy: np.ndarray, flat: Any, gW: Any,
                         laid: Any, g: Any, zero: Any, form: Any, first: Any, last: Any) -> None:
    """gW[k, t] = the sum over all bands of gy[k] times what tap t reads of its channel, first <= k < last.

    layout: as for `convolve_bands`, flat: that of gy, with the same pitch; laid, g: zeros, room for some
    bands of x and of gy, (bands, numbers). Places between the lines are multiplied by zeros.
    """
    lines, pitch, band = layout[3:]
    factor, bands, width = gy.shape[1] // x.shape[1], -(-gy.shape[2] // band), len(form[2])
    vectors = -(-((band - 1) * pitch + gy.shape[3]) // width)
    row, units = max(vectors * width, band * pitch), len(x) * bands
    for k in range(first, last):
        for begin in range(0, units, len(laid)):
            count = min(len(laid), units - begin)
            for i in range(count):
                n, top = (begin + i) // bands, (begin + i) % bands * band
                lay_out(x, n, k // factor, 1, top, layout, lines * pitch, laid[i], form[2])
                lay_out(gy, n, k, 1, top, flat, row, g[i], form[2])
            for t in range(0, offsets.size, len(form[1])):
                add_dots(g.ctypes.data, row, g.shape[1], laid.ctypes.data, laid.shape[1],
                         offsets[t:].ctypes.data, gW[k, t:].ctypes.data, offsets.size, count, vectors, zero,
                         form)
