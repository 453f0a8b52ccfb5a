"""Pooling on the CPU: one Numba loop over the planes of a batch."""

from __future__ import annotations

import math

import numpy as np

from minidrop.backend.generic.pooling import Pooling as Generic
from minidrop.backend.numpy.thin import as_types
from minidrop.backend.window import Window
from minidrop.kernels import threads

_FEW_PLACES = 3         # of a line that are not worth a vector


class Pooling(Generic):
    """Windows of one plane after the other."""

    def max_pool(self, x: np.ndarray, window: Window,
                 places: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        from minidrop.kernels import cpu_pool
        shape = *x.shape[:2], *places
        y, index = self.empty(shape, x.dtype), self.empty(shape, np.int32)
        form = _form(x.dtype, window, places)
        self._by_planes(cpu_pool.max_lines if form else cpu_pool.max_planes, y, window, _planes(x),
                        *_numbers(window), _planes(y), _planes(index), *form)
        return y, index

    def max_pool_gradient(self, gy: np.ndarray, index: np.ndarray, window: Window,
                          shape: tuple[int, ...]) -> np.ndarray:
        from minidrop.kernels import cpu_pool
        gx = self.empty(shape, gy.dtype)
        flat = [np.ascontiguousarray(a).reshape(shape[0] * shape[1], math.prod(a.shape[2:]))
                for a in (gy, index, gx)]
        threads.by_rows(cpu_pool.add_at_places, len(flat[2]), gx.size + 2 * gy.size, *flat)
        return gx

    def mean_pool(self, x: np.ndarray, window: Window, places: tuple[int, ...]) -> np.ndarray:
        from minidrop.kernels import cpu_pool
        y = self.empty((*x.shape[:2], *places), x.dtype)
        form = _form(x.dtype, window, places)
        self._by_planes(cpu_pool.mean_lines if form else cpu_pool.mean_planes, y, window, _planes(x),
                        *_numbers(window), _planes(y), *form)
        return y

    def mean_pool_gradient(self, gy: np.ndarray, window: Window, shape: tuple[int, ...]) -> np.ndarray:
        from minidrop.kernels import cpu_pool
        gx = self.empty(shape, gy.dtype)
        self._by_planes(cpu_pool.spread_means, gy, window, _planes(gy), *_numbers(window), _planes(gx))
        return gx

    def _by_planes(self, kernel, places, window, *args):
        # A comparison or a sum of one entry costs about as much as four streamed elements.
        threads.by_rows(kernel, places.shape[0] * places.shape[1], 4 * places.size * window.entries, *args)


def _form(dtype, window, places):
    """Return what the loops over vectors of places take besides, () where they cannot be used."""
    from minidrop.kernels import slides, vectors
    lanes = vectors.lanes(dtype) if dtype.char in "fd" else 0
    if not lanes or places[1] < _FEW_PLACES or window.stride[1] > slides.STEPS:
        return ()
    return dtype.type(0), *as_types(window.stride[1], lanes)


def _planes(x):
    """Return x (N, C, H, W) as (N * C, H, W)."""
    return np.ascontiguousarray(x).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _numbers(window):
    return window.size, window.stride, window.pad
