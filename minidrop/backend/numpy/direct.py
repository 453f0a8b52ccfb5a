"""Convolutions of images where they are, their sums in registers: sizes and rooms. See kernels/cpu_direct.py.

Each band of an image, or each run of images for the gradient of the weights, is computed by one thread. How
they are cut depends on the shapes alone.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from minidrop.backend.numpy.thin import as_types, packed
from minidrop.backend.window import Window
from minidrop.kernels import threads

# How many rows stay in registers, with three vectors of places each, and how many do for the last ones; for
# the gradient of weights so many taps, with up to two vectors of outputs. It is what the 32 registers of
# AVX-512, the 16 of AVX2 hold.
_ROWS = {512: (8, 4), 256: (4, 2)}
_PRODUCT_TAPS = {512: 12, 256: 6}
_TAPS_ALONE = 9             # of a gradient of one row
_DOTS = {512: (4, 6), 256: (2, 5)}      # rows and taps of one whose vectors lie along the places
_BAND_BYTES = 3 << 17       # of a band that is laid out: within the second cache
_DOT_BYTES = 3 << 16        # of images, and of gradients of theirs, whose products are summed up at once
_DOT_COST = 1.2             # what a number of theirs costs, more than one of vectors of outputs
_LEAST_UNITS = 8            # so many can be shared between cores
_LEAST_SHARE = 0.4          # of a vector's places that are wanted
_SQUARE = 128               # channels of x and of gy whose weights' gradients are computed at once
_FEW_CHANNELS = 8
_MOST_PHASES = 4            # of a gradient of images: each lays out the places' gradient anew
_LEAST_PLACES = 340         # that the gradient of the weights is added up over before parts of a batch are


class Layout(NamedTuple):
    """How the lines of a band are laid out, and where the entries of a window read, from the band's start.

    `numbers` are what the loops take: (stride, pad, phases, lines, pitch, band); plane: numbers of a channel.
    """

    numbers: tuple
    entries: np.ndarray
    plane: int

    def offsets(self, channels: int) -> np.ndarray:
        """Return where each tap reads, in the order (channel, entry)."""
        return (np.arange(channels)[:, None] * self.plane + self.entries).reshape(-1)

    def room(self, channels: int, lanes: int) -> int:
        """Return how many numbers are read of so many channels: past the last line, too."""
        return channels * self.plane + self.numbers[4] + 4 * lanes


@lru_cache(maxsize=256)
def _layout(width: int, window: Window, places: int, band: int) -> Layout:
    """Return the Layout of images of this width."""
    (stride_h, stride), (hole_h, hole) = window.stride, window.dilation
    reach_h, reach = window.reach
    pitch = places + (reach - 1) // stride
    if stride == 1 and pitch <= width + 2 * window.pad[1]:      # zeros on the left do for those on the right
        pitch = max(places, min(pitch, width + window.pad[1]))
    lines = band + (reach_h - 1) // stride_h
    taps = [(i * hole_h, j * hole) for i in range(window.size[0]) for j in range(window.size[1])]
    phases = sorted({(a % stride_h, b % stride) for a, b in taps})
    entries = [(phases.index((a % stride_h, b % stride)) * lines + a // stride_h) * pitch + b // stride
               for a, b in taps]
    numbers = (np.array(window.stride), np.array(window.pad), np.array(phases), lines, pitch, band)
    return Layout(numbers, np.array(entries), len(phases) * lines * pitch)


class Phase(NamedTuple):
    """Every stride-th line and column of an image's gradient: a convolution of the places' gradient.

    first: where they begin; entries: the entries of W that reach them, on each axis; window: those of W,
    turned round, None where there are none.
    """

    first: tuple[int, ...]
    entries: tuple[slice, ...]
    window: Window | None


@lru_cache(maxsize=256)
def phases(window: Window) -> list[Phase] | None:
    """Return the Phases of the gradient of an image, None with both a stride and holes."""
    found = [_phases(*numbers) for numbers in zip(window.size, window.stride, window.pad, window.dilation,
                                                  strict=True)]
    if any(hole > 1 and len(axis) > 1 for axis in found for *_, hole in axis):
        return None
    return [Phase((i, j), (rows, columns),
                  Window((high, wide), (1, 1), (top, left), (hole_h, hole)) if high and wide else None)
            for i, rows, high, top, hole_h in found[0] for j, columns, wide, left, hole in found[1]]


def _phases(size, stride, pad, hole):
    """Return (first line, entries of W, how many, pad, hole) of each phase on one axis.

    Place p and entry i reach line p stride + i - pad, so line first + m stride is reached by every stride-th
    entry from (first + pad) % stride on, the j-th of them from place m + (first + pad) // stride - j.
    """
    if stride == 1:
        return [(0, slice(None), size, hole * (size - 1) - pad, hole)]
    axis = []
    for first in range(stride):
        far, begin = divmod(first + pad, stride)
        count = max(0, -(-(size - begin) // stride))
        axis.append((first, slice(begin, None, stride), count, count - 1 - far if count else 0, hole))
    return axis


def lanes_of(dtype: Any) -> int:
    """Return how many numbers of a type a vector has, 0 where the loops cannot be used."""
    from minidrop.kernels import vectors
    return vectors.lanes(dtype) if dtype.char in "fd" else 0


def convolve(backend: Any, x: np.ndarray, W: np.ndarray, b: np.ndarray | None, window: Window, y: np.ndarray,
             c: int, o: int, relu: bool = False, scale: float = 1.0) -> None:
    """Write scale * f(convolution of x[:, c:] with W + b) to y[:, o:].

    x, y: images; W (groups, outputs, channels, *size): each group reads the next channels, and writes the
    next.
    """
    groups, outputs, channels = W.shape[:3]
    panels = _panels(backend, W.reshape(groups, outputs, channels * window.entries))
    _convolve(backend, x, panels, outputs, channels, b, window, y, c, o, relu, scale)


def image_gradient(backend: Any, W: np.ndarray, gy: np.ndarray, window: Window, gx: np.ndarray, c: int,
                   o: int) -> bool:
    """Write the gradient of x[:, c:] to gx; return whether the loops are faster there, else nothing is done.

    W (groups, outputs, channels, *size) read x for gy[:, o:].
    """
    groups, outputs, channels = W.shape[:3]
    if math.prod(window.stride) > _MOST_PHASES:
        return False
    parts = [(phase, gx[:, :, i::window.stride[0], j::window.stride[1]])
             for phase in phases(window) or () for i, j in (phase.first,)]
    # Few channels do not pay for laying out the places' gradient anew for each phase.
    if len(parts) > 1 and 1 < channels < _FEW_CHANNELS:
        return False
    if not parts or not all(phase.window is None or not to.size or suits(gy, phase.window, to.shape[2:])
                            for phase, to in parts):
        return False
    if any(phase.window is None for phase, _ in parts):      # one run over memory, not one for each of them
        gx[:, c:c + groups * channels] = 0
    for (_, (rows, columns), turned), to in parts:
        if turned is not None and to.size:
            own = W[:, :, :, rows, columns][..., ::-1, ::-1].swapaxes(1, 2)
            panels = _panels(backend, own.reshape(groups, channels, outputs * turned.entries))
            _convolve(backend, gy, panels, channels, outputs, None, turned, to, o, c)
    return True


def _heights(outputs):
    """Return the rows of a block, and those of a smaller one that may be the last."""
    from minidrop.kernels.vectors import BITS
    return _ROWS[BITS] if outputs > 1 else (1, 1)


def _convolve(backend, x, panels, outputs, channels, b, window, y, c, o, relu=False, scale=1.0):
    """`convolve` with W as `_panels` makes it."""
    from minidrop.kernels import cpu_direct
    groups, blocks, depth, height = panels.shape
    dtype, real = panels.dtype, panels.dtype.type
    lanes = lanes_of(dtype)
    band, bands = _bands(channels * x.shape[3] * x.itemsize, window, y.shape[2], len(x) * groups)
    layout = _layout(x.shape[3], window, y.shape[3], band)
    bias = np.zeros(groups * outputs, dtype) if b is None else np.ascontiguousarray(b)
    bias = bias.reshape(groups, outputs)
    form = as_types(*_heights(outputs), lanes)
    offsets = layout.offsets(channels)

    def some(first, last):
        laid = backend.empty((layout.room(channels, lanes),), dtype)
        laid[channels * layout.plane:] = 0
        sums = backend.empty((height, band * layout.numbers[4] + lanes), dtype)
        cpu_direct.convolve_bands(x, c, channels, layout.numbers, offsets, panels, bias, relu, real(scale), y,
                                  o, laid, sums, real(0), form, first, last)

    units = len(x) * groups * bands
    threads.by_rows(some, units, _work(len(x) * groups * y.shape[2] * y.shape[3], depth, outputs))


def _panels(backend, W):
    """Return W (groups, outputs, taps) as (groups, blocks, taps, rows of a block)."""
    groups, outputs, depth = W.shape
    height = _heights(outputs)[0]
    blocks = -(-outputs // height)
    if groups == 1:
        return packed(backend, W[0], height, True)[None]
    rows = np.zeros((groups, blocks * height, depth), W.dtype)
    rows[:, :outputs] = W
    return np.ascontiguousarray(rows.reshape(groups, blocks, height, depth).swapaxes(2, 3))


def weight_gradient(backend: Any, x: np.ndarray, gy: np.ndarray, window: Window, c: int, channels: int,
                    o: int, outputs: int) -> np.ndarray:
    """Return gW (outputs, channels * entries) for channels c .. of x, o .. of gy."""
    dotted = _dotted(backend, x, gy, window, c, channels, o, outputs)
    if dotted is not None:
        return dotted
    from minidrop.kernels import cpu_direct
    from minidrop.kernels.vectors import BITS
    taps, lanes, zero = _PRODUCT_TAPS[BITS], lanes_of(x.dtype), x.dtype.type(0)
    wide, deep = min(channels, _SQUARE), min(outputs, _SQUARE)
    vectors = -(-deep // lanes)
    panels = np.array([2] * (vectors // 2) + [1] * (vectors % 2))
    lines, places = gy.shape[2:]
    band, bands = _bands((wide * x.shape[3] + deep * places) * x.itemsize, window, lines, _LEAST_UNITS)
    layout = _layout(x.shape[3], window, places, band)
    offsets = _padded(layout.offsets(wide), taps)
    squares = np.array([(k, i, min(deep, outputs - k), min(wide, channels - i))
                        for k in range(0, outputs, deep) for i in range(0, channels, wide)])
    parts = _parts(len(x), len(x) * lines * places, len(squares))
    found = backend.zeros((len(parts), len(squares), offsets.size, vectors * lanes), x.dtype)
    room = layout.room(wide, lanes)
    images = 1 if bands > 1 else min(len(x), max(1, _BAND_BYTES // (room * x.itemsize)))

    def some(first, last):
        laid = backend.empty((images, room), x.dtype)
        laid[:, min(squares[:, 3]) * layout.plane:] = 0      # what lies behind the last line is not written
        g = backend.empty((images * band * places * int(panels.max()) * lanes,), x.dtype)
        for unit in range(first, last):
            part, square = divmod(unit, len(squares))
            k, i, rows, columns = squares[square]
            begin, end = (n * bands for n in parts[part])
            cpu_direct.weight_gradient(
                x, c + i, columns, layout.numbers, offsets, gy, o + k, rows, panels, found[part, square],
                laid, g, zero, as_types(taps, lanes), begin, end)

    threads.by_rows(some, len(parts) * len(squares),
                    _work(len(x) * lines * places, channels * window.entries, outputs))
    gW = backend.empty((outputs, channels * window.entries), x.dtype)
    squares[:, [1, 3]] *= window.entries
    units = len(squares) * -(-vectors * lanes // cpu_direct.LINES)
    threads.by_rows(cpu_direct.add_squares, units, found.size, found, squares, gW)
    return gW


def _dotted(backend, x, gy, window, c, channels, o, outputs):
    """Return `weight_gradient` by vectors along the places, None if they do not pay, or it is not finite.

    They do for few outputs, which would fill a vector in part.
    """
    from minidrop.kernels import cpu_direct
    from minidrop.kernels.vectors import BITS
    lanes, (lines, places), (rows, taps) = lanes_of(x.dtype), gy.shape[2:], _DOTS[BITS]
    band, bands = _bands((channels * x.shape[3] + outputs * places) * x.itemsize, window, lines, _LEAST_UNITS)
    layout = _layout(x.shape[3], window, places, band)
    height, depth, row = -(-outputs // rows) * rows, channels * window.entries, _row(layout, places, lanes)
    across = -(-outputs // lanes) * lanes * (depth + -depth % _PRODUCT_TAPS[BITS]) * lines * places
    if height * (depth + -depth % taps) * row * bands * _DOT_COST > across:
        return None
    offsets, flat = _padded(layout.offsets(channels), taps), _flat(layout)
    parts = _parts(len(x), len(x) * lines * places, 1)
    found = backend.zeros((len(parts), height, offsets.size), x.dtype)
    laid, gradient = layout.room(channels, lanes), height * row
    images = max(1, _DOT_BYTES // ((laid + gradient) * x.itemsize))

    def some(first, last):
        a, b = (backend.zeros((images, numbers), x.dtype) for numbers in (laid, gradient))
        for part in range(first, last):
            cpu_direct.dot_weight_gradient(
                x, c, channels, layout.numbers, offsets, gy, o, outputs, flat, found[part], a, b,
                x.dtype.type(0), as_types(rows, taps, lanes), *(n * bands for n in parts[part]))

    threads.by_rows(some, len(parts), _work(len(x) * lines * places, depth, outputs))
    gW = np.ascontiguousarray(np.add.reduce(found, axis=0)[:outputs, :depth])
    # Places between the lines are multiplied by zeros: a NaN there is none of the gradient.
    return gW if np.isfinite(gW).all() else None


def _row(layout, places, lanes):
    """Return the numbers of a channel of outputs' gradients, whose lines lie as those of a Layout."""
    *_, pitch, band = layout.numbers
    vectors = -(-((band - 1) * pitch + places) // lanes)
    return max(vectors * lanes, band * pitch)


def _flat(layout):
    """Return the numbers of a layout of outputs' gradients, see `_row`."""
    *_, pitch, band = layout.numbers
    return np.ones(2, int), np.zeros(2, int), np.zeros((1, 2), int), band, pitch, band


def _parts(images, places, squares):
    """Return the runs of images that are added up by themselves: as many as make work for all cores.

    Their number depends on the shapes alone, so that the sum does not depend on how cores share the parts.
    """
    count = max(1, min(images, -(-_LEAST_UNITS // squares), places // _LEAST_PLACES))
    bounds = [images * part // count for part in range(count + 1)]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def _padded(offsets, taps):
    """Return offsets for whole blocks: the last block reads the last one again, for sums thrown away."""
    return np.pad(offsets, (0, -offsets.size % taps), mode="edge")


def each_weight_gradient(backend: Any, x: np.ndarray, gy: np.ndarray, window: Window) -> np.ndarray:
    """Return gW (outputs, entries) where each output reads one channel of x."""
    from minidrop.kernels import cpu_direct
    lanes, (lines, places) = lanes_of(x.dtype), gy.shape[2:]
    band, bands = _bands((x.shape[3] + places) * x.itemsize, window, lines, _LEAST_UNITS)
    layout = _layout(x.shape[3], window, places, band)
    offsets = _padded(layout.offsets(1), _TAPS_ALONE)
    laid, g, flat = layout.room(1, lanes), _row(layout, places, lanes), _flat(layout)
    images = min(len(x) * bands, max(1, _BAND_BYTES // ((laid + g) * x.itemsize)))
    gW = np.zeros((gy.shape[1], offsets.size), x.dtype)

    def some(first, last):
        rooms = (backend.zeros((images, numbers), x.dtype) for numbers in (laid, g))
        cpu_direct.each_weight_gradient(x, layout.numbers, offsets, gy, flat, gW, *rooms, x.dtype.type(0),
                                        as_types(1, _TAPS_ALONE, lanes), first, last)

    threads.by_rows(some, len(gW), _work(len(x) * lines * places, window.entries, gy.shape[1]))
    return np.ascontiguousarray(gW[:, :window.entries])


def _bands(bytes_of_line, window, lines, images):
    """Return (the lines of places in a band, how many bands there are)."""
    inner = bytes_of_line * window.stride[0]
    band = max(1, (_BAND_BYTES - bytes_of_line * window.reach[0]) // inner)
    band = min(band, lines, max(1, lines * images // _LEAST_UNITS))
    band = -(-lines // -(-lines // band))       # as even as they can be
    return band, -(-lines // band)


def suits(x: np.ndarray, window: Window, places: tuple[int, ...]) -> bool:
    """Return whether the loops are faster than products of windows side by side; places: (lines, columns)."""
    lanes = lanes_of(x.dtype)
    if not lanes or not min(places):
        return False
    numbers = _layout(x.shape[3], window, places[1], places[0]).numbers
    vectors = -(-((places[0] - 1) * numbers[4] + places[1]) // lanes)
    return places[0] * places[1] >= _LEAST_SHARE * vectors * lanes


def _work(places, depth, outputs):
    """Return the amount of work as `threads.by_rows` counts it: 16 multiplications are a streamed element."""
    return places * (depth * outputs // 16 + depth + outputs)
