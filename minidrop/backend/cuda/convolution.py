"""Convolution on a CUDA device: what surrounds the products, which are those of linear layers, by kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidrop.backend.cuda.launches import KernelLaunches, is_real, window_numbers
from minidrop.backend.window import Window
from minidrop.kernels import cuda


class CudaConvolutions(KernelLaunches):
    """Overrides columns, and what follows their products, for one and two spatial axes.

    Images are read and written in place where each lies in one piece: a range of channels of a batch does.
    """

    # Of 3 x 3 windows of 256 channels these are 29,000 columns: a product with 256 outputs has some 450 tiles
    # of 128 x 128, several for each processor of a large device. More would take memory and gain nothing.
    column_bytes = 1 << 28

    def columns(self, x: np.ndarray, window: Window) -> np.ndarray:
        if not _has_kernel(window, x):
            return super().columns(x, window)
        places = window.places(x.shape[2:])
        out = self.empty((x.shape[1], window.entries, len(x), *_two(places)), x.dtype)
        self._run(cuda.columns, x=self._whole(x), out=out, **window_numbers(window))
        return out.reshape(x.shape[1] * window.entries, len(x) * math.prod(places))

    def add_columns(self, columns: np.ndarray, window: Window, out: np.ndarray) -> None:
        if not _has_kernel(window, out, columns) or not columns.size or not _is_whole(out):
            super().add_columns(columns, window, out)
            return
        shape = (out.shape[1], window.entries, len(out), *_two(window.places(out.shape[2:])))
        self._run(cuda.add_columns, x=self.xp.ascontiguousarray(columns).reshape(shape), out=_planes(out),
                  **window_numbers(window))

    def put_outputs(self, product: np.ndarray, out: np.ndarray, b: np.ndarray | None = None,
                    relu: bool = False, scale: float = 1.0) -> None:
        given = (product, out) if b is None else (product, out, b)
        if not _same_reals(*given) or not _is_whole(out):
            super().put_outputs(product, out, b, relu, scale)
            return
        places = math.prod(out.shape[2:])
        self._run(cuda.put_outputs, {"ACTIVATION": cuda.ACTIVATIONS.index("relu" if relu else "none")},
                  x=self.xp.ascontiguousarray(product).reshape(out.shape[1], len(out), places),
                  b=b if b is None else self._rows(b, b.shape), y=out.reshape(*out.shape[:2], places),
                  scale=scale)

    # -- each channel ----------------------------------------------------------------------------------------
    def convolve_each(self, x: np.ndarray, W: np.ndarray, window: Window, out: np.ndarray) -> None:
        if not _has_kernel(window, x, W, out) or not _is_whole(out):
            super().convolve_each(x, W, window, out)
            return
        self._run(cuda.convolve_each, x=self._whole(x), W=self._filters(W, window), y=_planes(out),
                  **window_numbers(window))

    def convolve_each_image_gradient(self, W: np.ndarray, gy: np.ndarray, window: Window,
                                     gx: np.ndarray) -> None:
        if not _has_kernel(window, W, gy, gx) or not gy.size or not _is_whole(gx):
            super().convolve_each_image_gradient(W, gy, window, gx)
            return
        self._run(cuda.convolve_each_image_gradient, W=self._filters(W, window), gy=self._whole(gy),
                  gx=_planes(gx), **window_numbers(window))

    def convolve_each_weight_gradient(self, x: np.ndarray, gy: np.ndarray, window: Window) -> np.ndarray:
        if not _has_kernel(window, x, gy) or not gy.size:
            return super().convolve_each_weight_gradient(x, gy, window)
        gW = self.empty((gy.shape[1], window.entries), x.dtype)
        self._run(cuda.convolve_each_weight_gradient, x=self._whole(x), gy=self._whole(gy), gW=gW,
                  **window_numbers(window))
        return gW

    def _whole(self, x):
        """Return images (N, C, H, W) each of which lies in one piece, copied if necessary."""
        return _planes(x if _is_whole(x) else self.xp.ascontiguousarray(x))

    def _filters(self, W, window):
        return self.xp.ascontiguousarray(W).reshape(len(W), window.entries)


def _same_reals(*arrays: Any) -> bool:
    return is_real(arrays[0]) and all(x.dtype == arrays[0].dtype for x in arrays)


def _has_kernel(window: Window, *arrays: Any) -> bool:
    """Whether kernels compute with a window of these axes, and with these arrays."""
    return len(window.size) <= 2 and _same_reals(*arrays)


def _is_whole(x: np.ndarray) -> bool:
    """Whether each image of a batch lies in one piece."""
    return not x.size or x.strides[0] >= 0 and x[0].flags.c_contiguous


def _planes(x: np.ndarray) -> np.ndarray:
    """Return images with one or two spatial axes as (N, C, H, W), a view."""
    return x if x.ndim == 4 else x[:, :, None]


def _two(places: tuple[int, ...]) -> tuple[int, ...]:
    return places if len(places) == 2 else (1, *places)
