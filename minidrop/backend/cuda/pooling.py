"""Pooling on a CUDA device: one pass over the images, where the generic methods need one for each entry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minidrop.backend.cuda.launches import KernelLaunches, is_real, window_numbers
from minidrop.backend.window import Window
from minidrop.kernels import cuda


class CudaPooling(KernelLaunches):
    """Overrides the largest entries and the means of windows, and their gradients."""

    def max_pool(self, x: np.ndarray, window: Window,
                 places: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        if not is_real(x) or not x.size:
            return super().max_pool(x, window, places)
        shape = *x.shape[:2], *places
        y, index = self.empty(shape, x.dtype), self.empty(shape, np.int32)
        self._pool(cuda.max_pool, window, x=x, y=y, index=index)
        return y, index

    def max_pool_gradient(self, gy: np.ndarray, index: np.ndarray, window: Window,
                          shape: tuple[int, ...]) -> np.ndarray:
        if not is_real(gy) or not gy.size:
            return super().max_pool_gradient(gy, index, window, shape)
        gx = self.empty(shape, gy.dtype)
        self._pool(cuda.max_pool_gradient, window, gy=gy, index=index, gx=gx)
        return gx

    def mean_pool(self, x: np.ndarray, window: Window, places: tuple[int, ...]) -> np.ndarray:
        if not is_real(x) or not x.size:
            return super().mean_pool(x, window, places)
        y = self.empty((*x.shape[:2], *places), x.dtype)
        self._pool(cuda.mean_pool, window, x=x, y=y)
        return y

    def mean_pool_gradient(self, gy: np.ndarray, window: Window, shape: tuple[int, ...]) -> np.ndarray:
        if not is_real(gy) or not gy.size:
            return super().mean_pool_gradient(gy, window, shape)
        gx = self.empty(shape, gy.dtype)
        self._pool(cuda.mean_pool_gradient, window, gy=gy, gx=gx)
        return gx

    def _pool(self, kernel, window, **arrays):
        """Run a kernel on arrays (N, C, H, W), which it is given as (N * C, H, W)."""
        self._run(kernel, **{name: self.xp.ascontiguousarray(x).reshape(x.shape[0] * x.shape[1], *x.shape[2:])
                             for name, x in arrays.items()},
                  **window_numbers(replace(window, dilation=(1, 1))))
