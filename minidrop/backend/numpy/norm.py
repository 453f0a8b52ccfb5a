"""Normalization on the CPU: one or two passes over memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from minidrop.backend.generic.norm import Normalization as Generic
from minidrop.kernels import threads

_FEW_PLACES = 4             # with fewer in a channel NumPy's passes over whole arrays are faster
# Sums over rows are added up in blocks of rows: their number depends on the shape alone, so that the sum does
# not depend on how cores share them.
_LEAST_ROWS, _MOST_BLOCKS = 16, 64


class Normalization(Generic):
    """Overrides of backend/generic/norm.py."""

    def channel_sums(self, x: np.ndarray) -> np.ndarray:
        if not _fit(x):
            return super().channel_sums(x)
        samples, channels, places = x.shape
        rows, sums = x.reshape(samples * channels, places), self.empty((samples * channels,), x.dtype)

        def some(first, last):
            np.add.reduce(rows[first:last], axis=1, out=sums[first:last])

        threads.by_rows(some, len(rows), x.size)
        return self.column_sums(sums.reshape(samples, channels))

    def channel_products(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if not _fit(x, y):
            return super().channel_products(x, y)
        from minidrop.kernels import cpu_norm
        out = self.empty(x.shape[1:2], x.dtype)
        threads.by_rows(cpu_norm.channel_products, x.shape[1], 2 * x.size, x, y, out)
        return out

    def channel_moments(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if not _fit(x) or not x.size:
            return super().channel_moments(x)
        from minidrop.kernels import cpu_norm
        mean, variance = (self.empty(x.shape[1:2], x.dtype) for _ in range(2))
        threads.by_rows(cpu_norm.channel_moments, x.shape[1], 2 * x.size, x, mean, variance)
        return mean, variance

    def transform_channels(self, x: np.ndarray, centre: np.ndarray | None = None,
                           factor: np.ndarray | None = None, shift: np.ndarray | None = None) -> np.ndarray:
        if not _fit(x) or all(numbers is None for numbers in (centre, factor, shift)):
            return super().transform_channels(x, centre, factor, shift)
        from minidrop.kernels import cpu_norm
        y = self.empty(x.shape, x.dtype)
        steps = [_each(numbers, neutral, x) for numbers, neutral in ((centre, 0), (factor, 1), (shift, 0))]
        threads.by_rows(cpu_norm.transform_channels, x.shape[0] * x.shape[1], x.size, x, *steps, y)
        return y

    def standardize_channels(self, x: np.ndarray, eps: float) -> tuple[np.ndarray, ...]:
        if not _fit(x) or not x.size:
            return super().standardize_channels(x, eps)
        from minidrop.kernels import cpu_norm
        y, *numbers = self.empty(x.shape, x.dtype), *(self.empty(x.shape[1:2], x.dtype) for _ in range(3))
        threads.by_rows(cpu_norm.standardize_channels, x.shape[1], 3 * x.size, x, x.dtype.type(eps), y,
                        *numbers)
        return y, *numbers

    def scale_gradients(self, gy: np.ndarray, x: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, ...]:
        if not _fit(gy, x):
            return super().scale_gradients(gy, x, factor)
        from minidrop.kernels import cpu_norm
        gx, *sums = self.empty(x.shape, x.dtype), *(self.empty(x.shape[1:2], x.dtype) for _ in range(2))
        threads.by_rows(cpu_norm.scale_gradients, x.shape[1], 3 * x.size, gy, x, _each(factor, 1, x), gx,
                        *sums)
        return gx, *sums

    def standardize_gradient(self, gy: np.ndarray, y: np.ndarray, factor: np.ndarray,
                             weight: np.ndarray | None = None) -> np.ndarray:
        if not _fit(gy, y):
            return super().standardize_gradient(gy, y, factor, weight)
        from minidrop.kernels import cpu_norm
        gx = self.empty(gy.shape, gy.dtype)
        threads.by_rows(cpu_norm.standardize_gradient, gy.shape[1], 4 * gy.size, gy, y, _each(factor, 1, gy),
                        _each(weight, 1, gy), gx)
        return gx

    def normalize_channels(self, x: np.ndarray, eps: float, weight: np.ndarray, bias: np.ndarray | None,
                           relu: bool, scale: float = 1.0) -> tuple[np.ndarray, ...]:
        if not _fit(x) or not x.size:
            return super().normalize_channels(x, eps, weight, bias, relu, scale)
        from minidrop.kernels import cpu_norm
        y, *numbers = self.empty(x.shape, x.dtype), *(self.empty(x.shape[1:2], x.dtype) for _ in range(3))
        threads.by_rows(cpu_norm.normalize_channels, x.shape[1], 3 * x.size, x, x.dtype.type(eps),
                        _each(weight, 1, x), _each(bias, 0, x), relu, x.dtype.type(scale), x.dtype.type(0), y,
                        *numbers)
        return y, *numbers

    def normalize_channels_gradient(self, gy: np.ndarray, x: np.ndarray, y: np.ndarray | None,
                                    mean: np.ndarray, factor: np.ndarray, weight: np.ndarray,
                                    scale: float = 1.0) -> tuple[np.ndarray, ...]:
        if not _fit(gy, x):
            return super().normalize_channels_gradient(gy, x, y, mean, factor, weight, scale)
        from minidrop.kernels import cpu_norm
        gx, *sums = self.empty(x.shape, x.dtype), *(self.empty(x.shape[1:2], x.dtype) for _ in range(2))
        threads.by_rows(cpu_norm.normalize_channels_gradient, x.shape[1], 4 * x.size, gy, x,
                        x if y is None else y, y is not None, mean, factor, _each(weight, 1, x),
                        x.dtype.type(scale), x.dtype.type(0), gx, *sums)
        return gx, *sums

    def normalize_rows(self, x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None,
                       eps: float, centred: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not _are_rows(x):
            return super().normalize_rows(x, weight, bias, eps, centred)
        from minidrop.kernels import cpu_norm
        y, mean, factor = self.empty(x.shape, x.dtype), *(self.empty(x.shape[:1], x.dtype) for _ in range(2))
        threads.by_rows(cpu_norm.normalize_rows, len(x), 6 * x.size, x, _each(weight, 1, x),
                        _each(bias, 0, x), x.dtype.type(eps), centred, y, mean, factor)
        return y, mean, factor

    def normalize_rows_gradient(self, gy: np.ndarray, x: np.ndarray, mean: np.ndarray, factor: np.ndarray,
                                weight: np.ndarray | None, centred: bool) -> tuple[np.ndarray, ...]:
        if not _are_rows(gy, x):
            return super().normalize_rows_gradient(gy, x, mean, factor, weight, centred)
        from minidrop.kernels import cpu_norm
        span = max(_LEAST_ROWS, -(-len(x) // _MOST_BLOCKS))
        blocks = -(-len(x) // span)
        gx, *sums = self.empty(x.shape, x.dtype), *(self.empty((blocks, x.shape[1]), x.dtype)
                                                    for _ in range(2))
        threads.by_rows(cpu_norm.normalize_rows_gradient, blocks, 10 * x.size, gy, x, mean, factor,
                        _each(weight, 1, x), centred, gx, *sums, span)
        return gx, *(self.column_sums(parts) for parts in sums)

    def lrn(self, x: np.ndarray, axes: Sequence[int], size: int, alpha: float, beta: float,
            k: float) -> np.ndarray:
        found = _lrn_form(x, x, axes)
        if found is None:
            return super().lrn(x, axes, size, alpha, beta, k)
        from minidrop.kernels import cpu_lrn
        y, (shape, rows, across) = self.empty(x.shape, x.dtype), found
        threads.by_rows(cpu_lrn.lrn_across if across else cpu_lrn.lrn_within, rows, (size + 8) * x.size,
                        x.reshape(shape), size // 2, x.dtype.type(alpha), beta, x.dtype.type(k),
                        y.reshape(shape))
        return y

    def lrn_gradient(self, gy: np.ndarray, x: np.ndarray, axes: Sequence[int], size: int, alpha: float,
                     beta: float, k: float) -> np.ndarray:
        found = _lrn_form(gy, x, axes)
        if found is None:
            return super().lrn_gradient(gy, x, axes, size, alpha, beta, k)
        from minidrop.kernels import cpu_lrn
        gx, (shape, rows, across) = self.empty(x.shape, x.dtype), found
        threads.by_rows(cpu_lrn.lrn_across_gradient if across else cpu_lrn.lrn_within_gradient, rows,
                        2 * (size + 8) * x.size, gy.reshape(shape), x.reshape(shape), size // 2,
                        x.dtype.type(alpha), beta, x.dtype.type(k), gx.reshape(shape))
        return gx


def _fit(*arrays):
    """Return whether the kernels read arrays of channels, and pay."""
    return arrays[0].shape[2] >= _FEW_PLACES and all(
        x.flags.c_contiguous and x.dtype == arrays[0].dtype and x.dtype.kind == "f" for x in arrays)


def _are_rows(*arrays):
    """Return whether the kernels read matrices row by row."""
    return arrays[0].size and all(x.flags.c_contiguous and x.dtype == arrays[0].dtype and x.dtype.kind == "f"
                                  for x in arrays)


def _each(numbers, neutral, x):
    """Return the numbers of the channels (columns) of x as kernels read them; `neutral` ones for None."""
    return (np.full(x.shape[1], neutral, x.dtype) if numbers is None
            else np.ascontiguousarray(numbers, x.dtype))


def _lrn_form(gy, x, axes):
    """Return (shape of x for a kernel, its rows, whether over channels); None if no kernel reads it."""
    shape = x.shape
    if not all(array.flags.c_contiguous and array.dtype.kind == "f" for array in (gy, x)):
        return None
    if tuple(axes) == (1,) and (places := math.prod(shape[2:])) >= _FEW_PLACES:
        from minidrop.kernels.cpu_lrn import CHUNK
        return (*shape[:2], places), shape[0] * -(-places // CHUNK), True
    if tuple(axes) == (2, 3) and x.ndim == 4:
        return (shape[0] * shape[1], *shape[2:]), shape[0] * shape[1], False
    return None
