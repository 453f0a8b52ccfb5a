"""Convolutions of images where they are, their sums in registers: sizes and rooms. See kernels/cpu_direct.py.

Each band of an image, or each run of images for the gradient of the weights, is computed by one thread. How
they are cut depends on the shapes alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from minidrop.backend.numpy.thin import as_types, packed
from minidrop.backend.window import Window
from minidrop.kernels import threads

# How many rows stay in registers, with three vectors of places each, and how many do for the last ones; for
# the gradient of weights so many rows and taps. It is what the 32 registers of AVX-512, the 16 of AVX2 hold.
_ROWS = {512: (8, 4), 256: (4, 2)}
_DOTS = {512: (4, 6), 256: (4, 3)}
_TAPS_ALONE = 9             # of a gradient of one row
_BAND_BYTES = 3 << 17       # of a band that is laid out: within the second cache
_LEAST_UNITS = 8            # so many can be shared between cores
_LEAST_SHARE = 0.4          # of a vector's places that are wanted
_CHANNELS = 64              # of x and of gy whose weights' gradients are computed at once


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


def turned(window: Window) -> Window | None:
    """Return the window that reads the places' gradient for that of the image, None if there is none.

    Its entries are those of `window` from its end. (With a stride there are several, each of few entries: no
    faster than products.)
    """
    pad = tuple(r - 1 - p for r, p in zip(window.reach, window.pad, strict=True))
    if any(s != 1 for s in window.stride) or min(pad) < 0:
        return None
    return Window(window.size, window.stride, pad, window.dilation)


def lanes_of(dtype: Any) -> int:
    """Return how many numbers of a type a vector has, 0 where the loops cannot be used."""
    from minidrop.kernels import vectors
    return vectors.lanes(dtype) if dtype.char in "fd" else 0


def convolve(backend: Any, x: np.ndarray, W: np.ndarray, b: np.ndarray | None, window: Window, y: np.ndarray,
             c: int, o: int, relu: bool = False, scale: float = 1.0) -> None:
    """Write scale * f(convolution of x[:, c:] with W + b) to y[:, o:].

    x, y: images; W (groups, outputs, channels, entries): each group reads the next channels, and writes the
    next.
    """
    groups, outputs, channels, entries = W.shape
    panels = _panels(backend, W.reshape(groups, outputs, channels * entries))
    _convolve(backend, x, panels, outputs, channels, b, window, y, c, o, relu, scale)


def image_gradient(backend: Any, W: np.ndarray, gy: np.ndarray, window: Window, gx: np.ndarray, c: int,
                   o: int) -> None:
    """Write the gradient of x[:, c:] to gx. W (groups, outputs, channels, entries) read it for gy[:, o:].

    window: what `turned` makes of that of W.
    """
    groups, outputs, channels, entries = W.shape
    panels = _panels(backend, W[..., ::-1].swapaxes(1, 2).reshape(groups, channels, outputs * entries))
    _convolve(backend, gy, panels, channels, outputs, None, window, gx, o, c)


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
                    o: int, outputs: int, parts: list) -> np.ndarray:
    """Return gW (outputs, channels * entries) for channels c .. of x, o .. of gy; parts: runs of images."""
    from minidrop.kernels import cpu_direct
    from minidrop.kernels.vectors import BITS
    height, taps = _DOTS[BITS]
    entries, lanes, zero = window.entries, lanes_of(x.dtype), x.dtype.type(0)
    wide, deep = min(channels, _CHANNELS), min(outputs, _CHANNELS)
    gradient = _WeightGradient(x, gy, window, wide, -(-deep // height) * height, taps)
    form = as_types(height, taps, lanes)
    squares = [(k, i) for k in range(0, outputs, deep) for i in range(0, channels, wide)]
    found = backend.zeros((len(parts), len(squares), gradient.rows, gradient.offsets.size), x.dtype)

    def some(first, last):
        laid, g = gradient.rooms(backend)
        for unit in range(first, last):
            part, square = divmod(unit, len(squares))
            k, i = squares[square]
            begin, end = (n * gradient.bands for n in parts[part])
            cpu_direct.weight_gradient(
                x, c + i, min(wide, channels - i), gradient.layout.numbers, gradient.offsets, gy, o + k,
                min(deep, outputs - k), gradient.flat, found[part, square], laid, g, zero, form, begin, end)

    threads.by_rows(some, len(parts) * len(squares),
                    _work(len(x) * gy.shape[2] * gy.shape[3], channels * entries, outputs))
    total = found[0]
    for more in found[1:]:
        total += more
    gW = backend.empty((outputs, channels * entries), x.dtype)
    for (k, i), own in zip(squares, total, strict=True):
        to = gW[k:k + deep, i * entries:(i + wide) * entries]
        to[:] = own[:to.shape[0], :to.shape[1]]
    return gW


def each_weight_gradient(backend: Any, x: np.ndarray, gy: np.ndarray, window: Window) -> np.ndarray:
    """Return gW (outputs, entries) where each output reads one channel of x."""
    from minidrop.kernels import cpu_direct
    lanes = lanes_of(x.dtype)
    gradient = _WeightGradient(x, gy, window, 1, 1, _TAPS_ALONE)
    form = as_types(1, _TAPS_ALONE, lanes)
    gW = np.zeros((gy.shape[1], gradient.offsets.size), x.dtype)

    def some(first, last):
        cpu_direct.each_weight_gradient(x, gradient.layout.numbers, gradient.offsets, gy, gradient.flat, gW,
                                        *gradient.rooms(backend), x.dtype.type(0), form, first, last)

    threads.by_rows(some, len(gW), _work(len(x) * gy.shape[2] * gy.shape[3], window.entries, gy.shape[1]))
    return np.ascontiguousarray(gW[:, :window.entries])


class _WeightGradient:
    """The sizes of a gradient of weights, of some channels of x and some rows of gy."""

    def __init__(self, x, gy, window, channels, rows, taps):
        self.dtype, self.rows, self.lanes = x.dtype, rows, lanes_of(x.dtype)
        lines, places = gy.shape[2:]
        bytes_of_line = (channels * x.shape[3] + rows * places) * x.itemsize
        band, self.bands = _bands(bytes_of_line, window, lines, _LEAST_UNITS)
        self.layout = _layout(x.shape[3], window, places, band)
        pitch = self.layout.numbers[4]
        self.flat = (np.ones(2, int), np.zeros(2, int), np.zeros((1, 2), int), band, pitch, band)
        # The last block of taps reads the last offset again, for sums that are thrown away.
        offsets = self.layout.offsets(channels)
        self.offsets = np.pad(offsets, (0, -offsets.size % taps), mode="edge")
        self.laid = self.layout.room(channels, self.lanes)
        self.g = rows * (band * pitch + self.lanes) + self.lanes
        own = (self.laid + self.g) * x.itemsize
        self.images = min(len(x) * self.bands, max(1, _BAND_BYTES // own))

    def rooms(self, backend):
        """Return zeros for the bands that are added up together, of x and of gy."""
        return tuple(backend.zeros((self.images, numbers), self.dtype) for numbers in (self.laid, self.g))


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
    if not lanes or window.is_point or not min(places):
        return False
    numbers = _layout(x.shape[3], window, places[1], places[0]).numbers
    vectors = -(-((places[0] - 1) * numbers[4] + places[1]) // lanes)
    return places[0] * places[1] >= _LEAST_SHARE * vectors * lanes


def _work(places, depth, outputs):
    """Return the amount of work as `threads.by_rows` counts it: 16 multiplications are a streamed element."""
    return places * (depth * outputs // 16 + depth + outputs)
