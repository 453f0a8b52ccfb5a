"""Pooling: one number for each window of each channel of images (N, C, H, W)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidrop.backend.generic.random import Random
from minidrop.backend.window import Window


class Pooling(Random):
    """Largest entries, means and draws of windows. A window may reach over the end of the padded image.

    `places` (2,) says how many windows there are on each axis. An entry outside of the image is never the
    largest, and never drawn.
    """

    def max_pool(self, x: np.ndarray, window: Window,
                 places: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return (y, index): the largest entry of each window, and where it lies in its image: h * width + w.

        Of equal entries the first; NaN counts as the largest. index: int32.
        """
        xp, padded = self.xp, self._surrounded(x, window, places, -np.inf)
        y = xp.full((*x.shape[:2], *places), -np.inf, x.dtype)
        index = xp.full(y.shape, -1, np.int32)
        for entry, at in self._pooled(window, places):
            value, inside = padded[at], self._inside(window, places, entry, x.shape)
            better = inside & ((index < 0) | (value > y) | ((value != value) & (y == y)))
            y = xp.where(better, value, y)
            index = xp.where(better, self._place(window, places, entry, x.shape[3]), index)
        return y, index

    def max_pool_gradient(self, gy: np.ndarray, index: np.ndarray, window: Window,
                          shape: tuple[int, ...]) -> np.ndarray:
        """Return the gradient of x (shape): gy added up where `index` points to."""
        places = gy.shape[2:]
        gx = self._surrounded(self.zeros(shape, gy.dtype), window, places, 0)
        for entry, at in self._pooled(window, places):
            hit = self._inside(window, places, entry, shape) & (
                index == self._place(window, places, entry, shape[3]))
            gx[at] += self.xp.where(hit, gy, gy.dtype.type(0))
        return self._inner_image(gx, window, shape)

    def mean_pool(self, x: np.ndarray, window: Window, places: tuple[int, ...]) -> np.ndarray:
        """Return the sum of each window divided by the size of its part inside of the padded image."""
        padded = self._surrounded(x, window, places, 0)
        y = self.zeros((*x.shape[:2], *places), x.dtype)
        for _, at in self._pooled(window, places):
            y += padded[at]
        y /= self._window_sizes(x.shape, window, places, x.dtype)
        return y

    def mean_pool_gradient(self, gy: np.ndarray, window: Window, shape: tuple[int, ...]) -> np.ndarray:
        """Return the gradient of the x (shape) of `mean_pool`."""
        places = gy.shape[2:]
        gx = self._surrounded(self.zeros(shape, gy.dtype), window, places, 0)
        share = gy / self._window_sizes(shape, window, places, gy.dtype)
        for _, at in self._pooled(window, places):
            gx[at] += share
        return self._inner_image(gx, window, shape)

    def draw_pool(self, x: np.ndarray, window: Window, places: tuple[int, ...],
                  key: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (y, index): an entry of each window, drawn with probability x / (sum of the window).

        The first whose running sum reaches u times the sum, u uniform in (0, 1], of the window's number and
        `key` alone. x should not be negative. Source: Zeiler and Fergus, arXiv 1301.3557.
        """
        xp, padded = self.xp, self._surrounded(x, window, places, 0)
        total = self.zeros((*x.shape[:2], *places), x.dtype)
        for _, at in self._pooled(window, places):
            total += padded[at]
        threshold = total * self.uniform(total.shape, x.dtype, key)
        y, index = xp.zeros_like(total), xp.zeros(total.shape, np.int32)
        running, open_ = xp.zeros_like(total), xp.ones(total.shape, bool)
        for entry, at in self._pooled(window, places):
            inside = self._inside(window, places, entry, x.shape)
            running += padded[at]
            taken = open_ & inside          # the last one inside is kept, should rounding leave none
            y = xp.where(taken, padded[at], y)
            index = xp.where(taken, self._place(window, places, entry, x.shape[3]), index)
            open_ = open_ & ~(inside & (running >= threshold))
        return y, index

    def weighted_pool(self, x: np.ndarray, window: Window, places: tuple[int, ...]) -> np.ndarray:
        """Return sum x^2 / sum x of each window, 0 where the sum is not positive: the mean of `draw_pool`."""
        padded = self._surrounded(x, window, places, 0)
        total = self.zeros((*x.shape[:2], *places), x.dtype)
        squares = self.zeros(total.shape, x.dtype)
        for _, at in self._pooled(window, places):
            total += padded[at]
            squares += padded[at] * padded[at]
        nothing = total <= 0            # not where it is NaN, so that divergence is noticed
        return self.xp.where(nothing, 0, squares / self.xp.where(nothing, 1, total)).astype(x.dtype)

    def _surrounded(self, x, window, places, value):
        """Return x with `value` around, up to where the last window ends."""
        ends = [max(n + 2 * p, (m - 1) * s + k) for n, p, m, s, k
                in zip(x.shape[2:], window.pad, places, window.stride, window.size, strict=True)]
        padded = self.empty((*x.shape[:2], *ends), x.dtype)
        padded.fill(value)
        padded[_image(window, x.shape)] = x
        return padded

    def _inner_image(self, padded, window, shape):
        return self.xp.ascontiguousarray(padded[_image(window, shape)])

    def _pooled(self, window, places) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Yield (entry of the window, what it reads of surrounded images at all places, an index)."""
        for entry in itertools.product(*map(range, window.size)):
            yield entry, (slice(None), slice(None), *(slice(e, e + (m - 1) * s + 1, s) for e, m, s
                                                      in zip(entry, places, window.stride, strict=True)))

    def _lines(self, window, places, entry):
        """Return the line (places, 1) and column (1, places) that an entry of the window reads."""
        found = [self.xp.arange(m, dtype=np.int32) * s + (e - p) for e, m, s, p
                 in zip(entry, places, window.stride, window.pad, strict=True)]
        return found[0][:, None], found[1][None, :]

    def _place(self, window, places, entry, width):
        h, w = self._lines(window, places, entry)
        return h * width + w

    def _inside(self, window, places, entry, shape):
        h, w = self._lines(window, places, entry)
        return (h >= 0) & (h < shape[2]) & (w >= 0) & (w < shape[3])

    def _window_sizes(self, shape: tuple[int, ...], window: Window, places: Any, dtype: Any) -> np.ndarray:
        """Return the number of entries of each window inside of the padded image, (places)."""
        sizes = []
        for m, s, k, n, p in zip(places, window.stride, window.size, shape[2:], window.pad, strict=True):
            first = self.xp.arange(m) * s
            sizes.append(self.xp.minimum(first + k, n + 2 * p) - first)
        return (sizes[0][:, None] * sizes[1][None, :]).astype(dtype)


def _image(window, shape):
    """Return the index of the images in themselves with something around."""
    return (slice(None), slice(None), *(slice(p, p + n) for p, n in zip(window.pad, shape[2:], strict=True)))
