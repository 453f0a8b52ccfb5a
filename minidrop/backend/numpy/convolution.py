"""Convolutions on the CPU: windows of some images, or of a band of one, are gathered and multiplied.

Each part of a batch has a core, with BLAS on one thread, and buffers of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minidrop.backend.generic.convolution import Convolutions as Generic
from minidrop.backend.generic.convolution import Range
from minidrop.backend.numpy import direct
from minidrop.backend.window import Window
from minidrop.kernels import threads

# The windows that are multiplied at once: enough rows for BLAS to be fast, within the cache.
_CHUNK_ROWS, _LEAST_BYTES, _MOST_BYTES = 384, 1 << 19, 1 << 22
_FEW_OUTPUTS = 128
# The gradient of the weights is added up over so many places before the parts of a batch are added: their
# number depends on the shapes alone, so that the sum does not depend on how cores share the parts.
_LEAST_PLACES = 340
_MOST_PARTS = 8


class _Chunk(NamedTuple):
    """Windows that are multiplied at once: of images first .. last - 1, at lines top .. end - 1 of places."""

    first: int
    last: int
    top: int
    end: int


class Convolutions(Generic):
    """Convolution of images with one or two spatial axes by Numba loops and BLAS; others as everywhere."""

    def convolve(self, x: np.ndarray, W: np.ndarray, b: np.ndarray | None, window: Window,
                 out: np.ndarray, channels: Range | None = None, outs: Range | None = None,
                 relu: bool = False, scale: float = 1.0) -> None:
        if not _is_flat(x, W, out):
            super().convolve(x, W, b, window, out, channels, outs, relu, scale)
            return
        x, out, window = _as_images(x), _as_images(out), _as_window(window)
        if not window.is_point and direct.suits(x, window, out.shape[2:]):
            c, o = (bounds[0] if bounds else 0 for bounds in (channels, outs))
            direct.convolve(self, x, _in_groups(W, 1, window), b, window, out, c, o, relu, scale)
            return
        work = _Convolution(self, x.shape, out.shape, len(W), W.dtype, window, channels, outs)
        bias = np.zeros(len(W), W.dtype) if b is None else np.ascontiguousarray(b)
        finish = bias, relu, W.dtype.type(scale)
        if window.is_point:
            work.run(len(x), lambda first, last: work.multiply(x, work.matrix(W), out, finish, first, last))
            return
        filters, chunks = work.filters(W), list(work.chunks(0, len(x)))
        work.run(len(chunks), lambda first, last: work.forward(x, filters, out, finish, chunks[first:last]))

    def convolve_gradients(self, x: Any, W: np.ndarray, gy: np.ndarray, window: Window,
                           gx: np.ndarray | None = None, channels: Range | None = None,
                           outs: Range | None = None, wanted: bool = True) -> np.ndarray | None:
        image = x if gx is None else gx
        if image is None or not _is_flat(image, W, gy):
            return super().convolve_gradients(x, W, gy, window, gx, channels, outs, wanted)
        x, gx = (None if a is None else _as_images(a) for a in (x, gx))
        gy = _as_images(gy)
        window = _as_window(window)
        shape = (x if gx is None else gx).shape
        work = _Convolution(self, shape, gy.shape, len(W), W.dtype, window, channels, outs)
        gW = None
        if gx is not None and not window.is_point and direct.image_gradient(
                self, _in_groups(W, 1, window), gy, window, gx, work.c, work.o):
            gx = None
        if wanted and not window.is_point and direct.suits(x, window, gy.shape[2:]):
            gW = direct.weight_gradient(self, x, gy, window, work.c, work.channels, work.o, work.outputs)
            wanted = False
        if gx is None and not wanted:
            return gW
        parts = work.parts(wanted)
        sums = [None] * len(parts)
        weights = work.matrix(W) if window.is_point else work.filters(W)
        backward = work.point_gradients if window.is_point else work.gradients

        def some(first, last):
            for part in range(first, last):
                sums[part] = backward(x if wanted else None, weights, gy, gx, *parts[part])

        work.run(len(parts), some)
        if not wanted:
            return gW
        gW = np.ascontiguousarray(sums[0])
        for more in sums[1:]:
            gW += more
        return gW if window.is_point else work.unswapped(gW)

    def convolve_each(self, x: np.ndarray, W: np.ndarray, window: Window, out: np.ndarray) -> None:
        if not _is_flat(x, W, out):
            super().convolve_each(x, W, window, out)
            return
        from minidrop.kernels import cpu_conv
        x, out, planes = _as_images(x), _as_images(out), out.shape[0] * out.shape[1]
        own = _as_window(window)
        if not own.is_point and direct.suits(x, own, out.shape[2:]):
            direct.convolve(self, x, _in_groups(W, x.shape[1], own), None, own, out, 0, 0)
            return
        threads.by_rows(cpu_conv.convolve_planes, planes, out.size * window.entries, x, *_filters(W, window),
                        out)

    def convolve_each_image_gradient(self, W: np.ndarray, gy: np.ndarray, window: Window,
                                     gx: np.ndarray) -> None:
        if not _is_flat(gx, W, gy):
            super().convolve_each_image_gradient(W, gy, window, gx)
            return
        from minidrop.kernels import cpu_conv
        weights, *numbers = _filters(W, window)
        gy, gx, planes = _as_images(gy), _as_images(gx), gx.shape[0] * gx.shape[1]
        own = _as_window(window)
        if not own.is_point and direct.image_gradient(self, _in_groups(W, gx.shape[1], own), gy, own, gx, 0,
                                                      0):
            return
        threads.by_rows(cpu_conv.spread_planes, planes, gy.size * window.entries, weights, gy, *numbers,
                        gx)

    def convolve_each_weight_gradient(self, x: np.ndarray, gy: np.ndarray, window: Window) -> np.ndarray:
        if not _is_flat(x, x, gy):
            return super().convolve_each_weight_gradient(x, gy, window)
        from minidrop.kernels import cpu_conv
        x, gy = _as_images(x), _as_images(gy)
        if not window.is_point and direct.suits(x, _as_window(window), gy.shape[2:]):
            gW = direct.each_weight_gradient(self, x, gy, _as_window(window))
            # Places between the lines are multiplied by zeros: a NaN there is none of the gradient.
            if np.isfinite(gW).all():
                return gW
        gW = np.empty((gy.shape[1], window.entries), x.dtype)
        threads.by_rows(cpu_conv.plane_weights, len(gW), gy.size * window.entries, x, gy, *_numbers(window),
                        gW)
        return gW


def _is_flat(x, W, y):
    """Return whether the loops can do it: one or two spatial axes, something to read, nothing strided."""
    return (x.ndim in (3, 4) and x.size and W.size and y.size and x.flags.c_contiguous
            and y.flags.c_contiguous and x.dtype == W.dtype == y.dtype)


def _as_images(x):
    """Return x (N, C, W) as (N, C, 1, W); images as they are."""
    return x if x.ndim == 4 else x[:, :, None]


def _as_window(window):
    return window if len(window.size) == 2 else window.with_axis()


def _numbers(window):
    """Return the numbers of a window as the loops take them."""
    window = _as_window(window)
    return window.size, window.stride, window.pad, window.dilation


def _filters(W, window):
    """Return W (C m, 1, *size) as a matrix, and the numbers of its window."""
    return np.ascontiguousarray(W).reshape(len(W), window.entries), *_numbers(window)


def _in_groups(W, groups, window):
    """Return filters (O, C, ...) as (groups, O / groups, C, *size)."""
    return np.ascontiguousarray(W).reshape(groups, len(W) // groups, W.shape[1], *window.size)


class _Convolution:
    """The sizes of one convolution, and the loops over its chunks."""

    def __init__(self, backend: Any, x_shape: tuple, y_shape: tuple, outputs: int, dtype: Any, window: Window,
                 channels: Range | None, outs: Range | None):
        self.backend, self.window, self.dtype = backend, window, dtype
        self.numbers = np.array([window.size, window.stride, window.pad, window.dilation])
        self.images, _, self.height, self.width = x_shape
        self.lines, self.places = y_shape[2:]
        self.c, last = channels or (0, x_shape[1])
        self.channels, self.outputs = last - self.c, outputs
        self.o = outs[0] if outs else 0
        self.depth = self.channels * window.entries

    def run(self, parts, work):
        """Call work(first, last) for the parts of the batch, as many at once as there are cores."""
        rows = self.images * self.lines * self.places
        # Eight multiplications cost about as much as a streamed element, and a gathered one as two.
        each = self.depth * self.outputs // 8 + 2 * (self.depth + self.outputs)
        threads.by_parts(work, parts, rows * each)

    def matrix(self, W):
        """Return W (O, C, ...) as (O, C * entries)."""
        return np.ascontiguousarray(W).reshape(len(W), self.depth)

    def filters(self, W):
        """Return W (O, C, entries) as a matrix in the order of the gathered windows: (O, entries * C)."""
        return self._swapped(self.matrix(W).reshape(len(W), self.channels, self.window.entries))

    def unswapped(self, gW):
        """Return a matrix in the order of gathered windows in that of W."""
        return self._swapped(gW.reshape(len(gW), self.window.entries, self.channels))

    def _swapped(self, x):
        from minidrop.kernels import cpu_conv
        out = self.backend.empty((len(x), x.shape[2], x.shape[1]), x.dtype)
        threads.by_rows(cpu_conv.swap_inner, len(x), 4 * x.size, x, out)
        return out.reshape(len(x), self.depth)

    def chunks(self, first: int, last: int) -> Iterator[_Chunk]:
        """Yield the Chunks of images first .. last - 1: several images each, or a band of one."""
        row = self.depth * self.dtype.itemsize
        room = min(_MOST_BYTES, max(_LEAST_BYTES, _CHUNK_ROWS * row)) // (row * self.places)
        images = room // self.lines
        lines = self.lines if images else max(1, room)
        for n in range(first, last, max(1, images)):
            for top in range(0, self.lines, lines):
                yield _Chunk(n, min(last, n + max(1, images)), top, min(self.lines, top + lines))

    def parts(self, wanted: bool) -> list[Range]:
        """Return the runs of images whose gradients are computed one after the other."""
        count = self.images
        if wanted:
            count = min(count, _MOST_PARTS, max(1, self.images * self.lines * self.places // _LEAST_PLACES))
        bounds = [self.images * part // count for part in range(count + 1)]
        return list(zip(bounds[:-1], bounds[1:], strict=True))

    def forward(self, x, filters, out, finish, chunks):
        """Write the results of some chunks."""
        from minidrop.kernels import cpu_conv
        columns, rows, band = self._room(chunks)
        for chunk in chunks:
            count = self._rows_of(chunk)
            self._gather(x, chunk, band, columns)
            np.dot(columns[:count], filters.T, out=rows[:count])
            cpu_conv.put_outputs(rows, out, chunk.first, chunk.last, self.o, chunk.top, chunk.end, *finish)

    def gradients(self, x, filters, gy, gx, first, last):
        """Write the gradient of images first .. last - 1 to gx, unless it is None; return their gW."""
        from minidrop.kernels import cpu_conv
        window, chunks = self.window, list(self.chunks(first, last))
        columns, rows, band = self._room(chunks)
        # OpenBLAS is fast where the longer side of a small result comes first.
        turned = self.outputs <= _FEW_OUTPUTS
        if x is not None:
            gW = np.zeros(filters.T.shape if turned else filters.shape, self.dtype)
            product = self._empty(*gW.shape)
        if gx is not None:
            padded = self._empty(self.height + 2 * window.pad[0], self.width + 2 * window.pad[1],
                                 self.channels)
        for chunk in chunks:
            count = self._rows_of(chunk)
            cpu_conv.output_rows(gy, chunk.first, chunk.last, self.o, chunk.top, chunk.end, rows)
            if x is not None:
                self._gather(x, chunk, band, columns)
                pair = (columns[:count], rows[:count]) if turned else (rows[:count], columns[:count])
                np.dot(pair[0].T, pair[1], out=product)
                gW += product
            if gx is not None:
                np.dot(rows[:count], filters, out=columns[:count])
                cpu_conv.scatter_windows(columns, chunk.first, chunk.last, self.c, self.numbers, chunk.top,
                                         chunk.end, self.places, self.lines, padded, gx)
        if x is None:
            return None
        return gW.T if turned else gW

    def multiply(self, x, matrix, out, finish, first, last):
        """Write the results of a window of one entry for images first .. last - 1: a product for each."""
        bias, relu, scale = finish
        for n in range(first, last):
            y = out[n, self.o:self.o + self.outputs].reshape(self.outputs, -1)
            np.dot(matrix, self._pixels(x, n), out=y)
            y += bias[:, None]
            if relu:
                np.maximum(y, 0, out=y)
            if scale != 1:
                y *= scale

    def point_gradients(self, x, matrix, gy, gx, first, last):
        """As `gradients`, for a window of one entry."""
        if x is not None:
            gW, product = np.zeros(matrix.shape, self.dtype), self._empty(*matrix.shape)
        for n in range(first, last):
            part = gy[n, self.o:self.o + self.outputs].reshape(self.outputs, -1)
            if x is not None:
                np.dot(part, self._pixels(x, n).T, out=product)
                gW += product
            if gx is not None:
                np.dot(matrix.T, part, out=self._pixels(gx, n))
        return gW if x is not None else None

    def _pixels(self, x, n):
        """Return the channels of image n as a matrix (channels, places), a view."""
        return x[n, self.c:self.c + self.channels].reshape(self.channels, -1)

    def _rows_of(self, chunk):
        return (chunk.last - chunk.first) * (chunk.end - chunk.top) * self.places

    def _room(self, chunks):
        """Return arrays for the windows of a chunk, their products, and the lines of an image they read."""
        count = max(self._rows_of(chunk) for chunk in chunks)
        lines = max(self._band(chunk) for chunk in chunks)
        return (self._empty(count, self.depth), self._empty(count, self.outputs),
                self._empty(lines, self.width + 2 * self.window.pad[1], self.channels))

    def _band(self, chunk):
        """Return the number of lines of the padded image that a chunk reads of each of its images."""
        return (chunk.end - chunk.top - 1) * self.window.stride[0] + self.window.reach[0]

    def _empty(self, *shape):
        return self.backend.empty(shape, self.dtype)

    def _gather(self, x, chunk, band, columns):
        """Gather the windows of a chunk into the rows of `columns`."""
        from minidrop.kernels import cpu_conv
        cpu_conv.gather_windows(x, chunk.first, chunk.last, self.c, self.numbers, chunk.top, chunk.end,
                                self.places, band[:self._band(chunk)], columns)
