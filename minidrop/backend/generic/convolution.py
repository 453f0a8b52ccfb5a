"""Convolution as products of matrices: the columns of an image's windows, and what is added back to them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidrop.backend.generic.products import Products
from minidrop.backend.window import Window

Range = tuple[int, int]


class Convolutions(Products):
    """Convolution of images (N, C, *spatial) with any number of spatial axes, for a range of channels.

    `channels` and `outs` say which channels of x and which of y a product reads and writes (None: all): the
    groups of a grouped convolution are ranges.
    """

    column_bytes = 1 << 26      # the most that the columns of some images may take; at least one image

    def columns(self, x: np.ndarray, window: Window) -> np.ndarray:
        """Return the windows of x (N, C, *spatial) as a matrix (C * entries, N * places).

            columns[(c, k), (n, p)] = x[n, c, p * stride + k * dilation - pad], 0 outside of the image
        """
        places = window.places(x.shape[2:])
        padded = self._surrounded_by_zeros(x, window)
        item = padded.strides
        shape = (x.shape[1], *window.size, x.shape[0], *places)
        strides = (item[1], *(s * d for s, d in zip(item[2:], window.dilation, strict=True)),
                   item[0], *(s * t for s, t in zip(item[2:], window.stride, strict=True)))
        view = self.xp.lib.stride_tricks.as_strided(padded, shape, strides)
        out = self.empty(shape, x.dtype)
        out[...] = view
        return out.reshape(x.shape[1] * window.entries, x.shape[0] * math.prod(places))

    def add_columns(self, columns: np.ndarray, window: Window, out: np.ndarray) -> None:
        """out (N, C, *spatial) = the sum of what columns, shaped as those of `out`, hold for each entry."""
        places = window.places(out.shape[2:])
        parts = columns.reshape(out.shape[1], window.entries, out.shape[0], *places)
        padded = self.zeros((*out.shape[:2], *_around(out.shape[2:], window)), out.dtype)
        for k, at in self._entries(window, places):
            padded[at] += self.xp.moveaxis(parts[:, k], 0, 1)
        out[...] = padded[(slice(None), slice(None), *_inner(out.shape[2:], window.pad))]

    def convolve(self, x: np.ndarray, W: np.ndarray, b: np.ndarray | None, window: Window,
                 out: np.ndarray, channels: Range | None = None, outs: Range | None = None,
                 relu: bool = False, scale: float = 1.0) -> None:
        """Write the convolution of x (N, C, *spatial) with W (O, C, *size) to out (N, O, *places).

            out[n, o, p] = scale f(b[o] + sum over c, k of W[o, c, k]
                                          x[n, c, p * stride + k * dilation - pad])

        b: (O,) or None. f: max(., 0) with `relu`, else nothing.
        """
        x, y = _range(x, channels), _range(out, outs)
        matrix = self.operand(W.reshape(len(W), math.prod(W.shape[1:])))
        for first, last in self._images(x, window):
            product = self.gemm(matrix, self.operand(self.columns(x[first:last], window)))
            self.put_outputs(product, y[first:last], b, relu, scale)

    def put_outputs(self, product: np.ndarray, out: np.ndarray, b: np.ndarray | None = None,
                    relu: bool = False, scale: float = 1.0) -> None:
        """Write a product (O, N * places) as images (N, O, *places).

            out[n, o, p] = scale f(product[o, (n, p)] + b[o])
        """
        shape = len(product), len(out), *out.shape[2:]
        out[...] = self.xp.moveaxis(product.reshape(shape), 0, 1)
        if b is not None:
            out += b.reshape(-1, *(1,) * (out.ndim - 2))
        if relu:
            self.xp.maximum(out, 0, out=out)
        if scale != 1:
            out *= out.dtype.type(scale)

    def convolve_gradients(self, x: Any, W: np.ndarray, gy: np.ndarray, window: Window,
                           gx: np.ndarray | None = None, channels: Range | None = None,
                           outs: Range | None = None, wanted: bool = True) -> np.ndarray | None:
        """Write the gradient of x to gx, unless it is None; return that of W, a matrix, if it is `wanted`.

            gx[n, c, i] = sum over o and all k, p with i = p * stride + k * dilation - pad of
                          W[o, c, k] gy[n, o, p]
            gW[o, (c, k)] = sum over n, p of gy[n, o, p] x[n, c, p * stride + k * dilation - pad]

        x is read for the gradient of W alone.
        """
        gy = _range(gy, outs)
        image = x if gx is None else gx
        if image is None:
            return None
        image = _range(image, channels)
        matrix = self.operand(W.reshape(len(W), math.prod(W.shape[1:])))
        gW = self.zeros((len(W), math.prod(W.shape[1:])), gy.dtype) if wanted else None
        for first, last in self._images(image, window):
            part = self.xp.ascontiguousarray(self.xp.moveaxis(gy[first:last], 1, 0))
            part = self.operand(part.reshape(len(W), math.prod(part.shape[1:])))
            if wanted:
                columns = self.columns(_range(x, channels)[first:last], window)
                gW += self.gemm(part, self.operand(columns), trans_b=True)
            if gx is not None:
                self.add_columns(self.gemm(matrix, part, trans_a=True), window, image[first:last])
        return gW

    def convolve_each(self, x: np.ndarray, W: np.ndarray, window: Window, out: np.ndarray) -> None:
        """Write the convolution of each channel of x (N, C, *spatial) with m filters of its own to out.

            out[n, c m + i, p] = sum over k of W[c m + i, 0, k] x[n, c, p * stride + k * dilation - pad]
        """
        padded, factor = self._surrounded_by_zeros(x, window), len(W) // max(1, x.shape[1])
        y = out.reshape(*x.shape[:2], factor, *out.shape[2:])
        y.fill(0)
        for k, at in self._entries(window, out.shape[2:]):
            weights = _per_channel(W, x.shape[1], k, y.ndim)
            y += weights * padded[at][:, :, None]

    def convolve_each_image_gradient(self, W: np.ndarray, gy: np.ndarray, window: Window,
                                     gx: np.ndarray) -> None:
        """Write the gradient of the x of `convolve_each` to gx."""
        channels, factor = gx.shape[1], len(W) // max(1, gx.shape[1])
        gy = gy.reshape(len(gy), channels, factor, *gy.shape[2:])
        padded = self.zeros((*gx.shape[:2], *_around(gx.shape[2:], window)), gx.dtype)
        for k, at in self._entries(window, gy.shape[3:]):
            padded[at] += (_per_channel(W, channels, k, gy.ndim) * gy).sum(axis=2)
        gx[...] = padded[(slice(None), slice(None), *_inner(gx.shape[2:], window.pad))]

    def convolve_each_weight_gradient(self, x: np.ndarray, gy: np.ndarray, window: Window) -> np.ndarray:
        """Return the gradient of the W of `convolve_each` as a matrix (C m, entries)."""
        channels, outputs = x.shape[1], gy.shape[1]
        padded, factor = self._surrounded_by_zeros(x, window), outputs // max(1, channels)
        gy = gy.reshape(len(gy), channels, factor, *gy.shape[2:])
        gW = self.empty((outputs, window.entries), x.dtype)
        others = (0, *range(3, gy.ndim))
        for k, at in self._entries(window, gy.shape[3:]):
            gW[:, k] = (padded[at][:, :, None] * gy).sum(axis=others).reshape(outputs)
        return gW

    def _surrounded_by_zeros(self, x, window):
        """Return x with zeros around, or x itself."""
        if not any(window.pad):
            return x
        padded = self.zeros((*x.shape[:2], *_around(x.shape[2:], window)), x.dtype)
        padded[(slice(None), slice(None), *_inner(x.shape[2:], window.pad))] = x
        return padded

    def _entries(self, window, places) -> Iterator[tuple[int, tuple[slice, ...]]]:
        """Yield (k, what entry k of the window reads of padded images at all places, an index)."""
        for k, entry in enumerate(itertools.product(*map(range, window.size))):
            yield k, (slice(None), slice(None), *(
                slice(e * d, e * d + (n - 1) * s + 1, s) for e, d, n, s
                in zip(entry, window.dilation, places, window.stride, strict=True)))

    def _images(self, x, window) -> Iterator[Range]:
        """Yield (first, last) of runs of images whose columns fit into `column_bytes`."""
        one = x.shape[1] * window.entries * math.prod(window.places(x.shape[2:])) * x.dtype.itemsize
        step = max(1, self.column_bytes // max(1, one))
        for first in range(0, len(x), step):
            yield first, min(len(x), first + step)


def _range(x: Any, bounds: Range | None) -> Any:
    """Return the channels `bounds` of x, a view; None: all."""
    return x if bounds is None else x[:, slice(*bounds)]


def _per_channel(W, channels, k, ndim):
    """Return entry k of the filters (C m, 1, *size) as (C, m, 1, ...), for arrays of `ndim` axes."""
    entry = W.reshape(len(W), math.prod(W.shape[1:]))[:, k]
    return entry.reshape(channels, len(W) // max(1, channels), *(1,) * (ndim - 3))


def _around(spatial, window):
    """Return the spatial axes of padded images."""
    return tuple(n + 2 * p for n, p in zip(spatial, window.pad, strict=True))


def _inner(spatial, pad):
    """Return the index of an image in itself with zeros around."""
    return tuple(slice(p, p + n) for n, p in zip(spatial, pad, strict=True))
