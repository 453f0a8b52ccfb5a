"""Pooling: one number for each window of each channel of images (N, C, H, W)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function
from minidrop.backend.window import Window
from minidrop.errors import KeptError, ShapeError
from minidrop.functions.checks import Key

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend import Backend


class _Pooling(Function):
    """What all kinds share: the window, the places, and kept channels, which are passed on."""

    __slots__ = ("window", "places", "shape")
    kept_rule = "native"

    def __init__(self, window: Window, places: tuple[int, ...]):
        self.window, self.places = window, places

    def _read(self, x):
        kept, axis = self.input_kept[0]
        if kept is not None and axis % x.ndim > 1:
            raise KeptError(f"pooling would mix the entries of {kept} on axis {axis}; call functions.expand "
                            f"on it first")
        self.output_kept, self.shape = (kept, axis), x.shape


class MaxPooling(_Pooling):
    """y[n, c, p] = the largest entry of the window at p; of equal ones the first gets the gradient.

    With `with_index` a second output says where it lies in its image, h * width + w.
    """

    __slots__ = ("with_index", "index")

    def __init__(self, window: Window, places: tuple[int, ...], with_index: bool = False):
        super().__init__(window, places)
        self.with_index = with_index

    def forward(self, backend: Backend, x: np.ndarray) -> Any:
        self._read(x)
        y, self.index = self._pool(backend, x)
        return (y, self.index.astype(x.dtype)) if self.with_index else y

    def _pool(self, backend, x):
        return backend.max_pool(x, self.window, self.places)

    def backward(self, backend: Backend, gy: Any, wanted: Sequence[bool]) -> np.ndarray | None:
        gy = gy[0] if self.with_index else gy
        return None if gy is None else backend.max_pool_gradient(gy, self.index, self.window, self.shape)


class StochasticPooling(MaxPooling):
    """y[n, c, p] = an entry of the window at p, drawn with probability x / (sum of the window).

    key: of the random numbers. x should not be negative. Source: Zeiler and Fergus, arXiv 1301.3557.
    """

    __slots__ = ("key",)

    def __init__(self, window: Window, places: tuple[int, ...], key: int, with_index: bool = False):
        super().__init__(window, places, with_index)
        self.key = key

    def _pool(self, backend, x):
        return backend.draw_pool(x, self.window, self.places, self.key)


class MeanPooling(_Pooling):
    """y[n, c, p] = the sum of the window at p divided by the size of its part inside of the padded image."""

    __slots__ = ()

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self._read(x)
        return backend.mean_pool(x, self.window, self.places)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.mean_pool_gradient(gy, self.window, self.shape)


class WeightedPooling(_Pooling):
    """y[n, c, p] = sum x^2 / sum x of the window at p: the mean of `StochasticPooling`. No gradient."""

    __slots__ = ()

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self._read(x)
        return backend.weighted_pool(x, self.window, self.places)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> None:
        return None


def pooled_places(spatial: Sequence[int], window: Window, ceil: bool = True) -> tuple[int, ...]:
    """Return how many windows there are on each axis; `ceil`: a last one may reach over the end.

    It has to begin inside of the image or of the padding before it, as in Caffe; also without padding, where
    Caffe keeps one that has no entry.
    """
    places = []
    for n, k, s, p in zip(spatial, window.size, window.stride, window.pad, strict=True):
        count = (math.ceil if ceil else math.floor)((n + 2 * p - k) / s) + 1
        places.append(count - 1 if (count - 1) * s >= n + p else count)
    return tuple(places)


def _places(x, window, ceil):
    if x.ndim != 2 + len(window.size):
        raise ShapeError(f"pooling: a window of {len(window.size)} axes slides over x (N, C, *spatial), got "
                         f"x of shape {x.shape}")
    if any(p >= k for p, k in zip(window.pad, window.size, strict=True) if p):
        raise ShapeError(f"pooling: pad {window.pad} must be smaller than the window, {window.size}: one "
                         f"that lies in the padding alone has no entry")
    if any(hole != 1 for hole in window.dilation):
        raise ShapeError(f"pooling: a window has no holes, got dilation {window.dilation}")
    return window.fitting(x.shape[2:], pooled_places(x.shape[2:], window, ceil))


def max_pooling(x: Tensor, window: Window, ceil: bool = True, with_index: bool = False) -> Any:
    """Return the largest entry of each window of x (N, C, H, W); see `MaxPooling`, `pooled_places`."""
    return MaxPooling(window, _places(x, window, ceil), with_index).apply(x)


def mean_pooling(x: Tensor, window: Window, ceil: bool = True) -> Tensor:
    """Return the mean of each window of x (N, C, H, W); see `MeanPooling`, `pooled_places`."""
    return MeanPooling(window, _places(x, window, ceil)).apply(x)


def stochastic_pooling(x: Tensor, window: Window, key: Key, ceil: bool = True,
                       with_index: bool = False) -> Any:
    """Return an entry of each window of x (N, C, H, W), drawn by its value; key None: what is expected.

    See `StochasticPooling`, `WeightedPooling`, `pooled_places`.
    """
    places = _places(x, window, ceil)
    if key is None:
        return WeightedPooling(window, places).apply(x)
    return StochasticPooling(window, places, key, with_index).apply(x)
