"""Modules with weights: products, convolutions, vectors for indices, norms.

Weights begin as Caffe's `msra` makes them, N(0, 2 / inputs) (He et al. 2015), and biases as zeros; both can
be given another filler, by name or as a dict: weight_filler={"type": "gaussian", "std": 0.02}.
"""

from __future__ import annotations

from typing import Any

from minidrop.config.numbers import real_number, truth
from minidrop.data.binaryproto import MOST_AXES
from minidrop.errors import ConfigError, ShapeError
from minidrop.nn.layer import Layer
from minidrop.nn.module import Module
from minidrop.nn.sizes import Sizes, sizes_of
from minidrop.nn.symbol import Symbol
from minidrop.nn.trace import current_trace


class Linear(Layer):
    """y = x W^T + b over the last axis of x (..., in_features). A layer InnerProduct.

    `weight` is W (out_features, in_features), `bias` b (out_features,). bias: whether there is one. Fillers
    say how both begin. Further settings are those of inner_product_param. Raises ShapeError, when called, for
    another last axis.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, weight_filler: Any = "msra",
                 bias_filler: Any = None, name: str | None = None, **settings: Any):
        super().__init__("InnerProduct", inputs=[(1, in_features)], num_output=out_features, axis=-1,
                         bias_term=bias, weight_filler=weight_filler, bias_filler=bias_filler, name=name,
                         **settings)
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: Symbol) -> Any:
        _check(self, x, -1, self.in_features, "features on the last axis; put nn.Flatten() before it if they "
               "lie on several")
        return super().forward(x)


class DropConnect(Layer):
    """A Linear of which every weight is dropped on its own, with probability `rate` (Wan et al. 2013)."""

    def __init__(self, in_features: int, out_features: int, rate: float = 0.5, bias: bool = True, *,
                 weight_filler: Any = "msra", name: str | None = None, **settings: Any):
        super().__init__("DropConnect", inputs=[(1, in_features)], num_output=out_features, axis=-1,
                         bias_term=bias, dropout_ratio=rate, weight_filler=weight_filler, name=name,
                         **settings)


class _Sliding(Layer):
    """Base class of convolutions: a window of some axes over channels.

    Raises ShapeError for other axes or channels.
    """

    kind, axes = "Convolution", 2

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1,
                 padding: Sizes = 0, dilation: Sizes = 1, groups: int = 1, bias: bool = True, *,
                 weight_filler: Any = "msra", name: str | None = None, **settings: Any):
        size, apart = (sizes_of(side, given, self.axes) for side, given in (("kernel_size", kernel_size),
                                                                            ("dilation", dilation)))
        reach = [(k - 1) * d + 1 for k, d in zip(size, apart, strict=True)]
        super().__init__(self.kind, inputs=[(1, in_channels, *reach)], num_output=out_channels,
                         kernel_size=kernel_size, stride=sizes_of("stride", stride),
                         pad=sizes_of("padding", padding), dilation=dilation, group=groups,
                         bias_term=bias, weight_filler=weight_filler, name=name, **settings)
        self.in_channels, self.out_channels = in_channels, out_channels

    def forward(self, x: Symbol) -> Any:
        if self.trace.checked(x).ndim != 2 + self.axes:
            raise ShapeError(f"{self.describe()}: expected {2 + self.axes} axes, (N, C) and {self.axes} of "
                             f"places, got {x.shape}")
        _check(self, x, 1, self.in_channels, "channels on axis 1")
        return super().forward(x)


class Conv1d(_Sliding):
    """Convolution of sequences (N, C, L); see Conv2d."""

    axes = 1


class Conv2d(_Sliding):
    """Convolution of images (N, C, H, W) with weights (out_channels, in_channels / groups, *kernel_size)."""


class ConvTranspose2d(_Sliding):
    """The transpose of a Conv2d, Caffe's Deconvolution.

    Weights (in_channels, out_channels / groups, *kernel_size).
    """

    kind = "Deconvolution"


class Embedding(Layer):
    """A vector for each index: x (...) in 0 .. num_embeddings - 1 -> (..., embedding_dim). A layer Embed.

    The vectors begin as N(0, 1), as PyTorch's.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, bias: bool = False, *,
                 weight_filler: Any = "gaussian", name: str | None = None, **settings: Any):
        super().__init__("Embed", inputs=[(1,)], input_dim=num_embeddings, num_output=embedding_dim,
                         bias_term=bias, weight_filler=weight_filler, name=name, **settings)


class Position(Layer):
    """Adds to each step of x (steps, streams, units) a learned vector, or with units=None sines and cosines.

    max_steps: the longest sequence, of learned vectors, which begin as N(0, 0.02^2).
    """

    def __init__(self, max_steps: int | None = None, units: int | None = None, *, weight_filler: Any = None,
                 name: str | None = None, **settings: Any):
        if units is None:
            super().__init__("Position", kind="SINUSOIDAL", name=name, **settings)
            vars(self)["_own"] = {}
        else:
            super().__init__("Position", inputs=[(1, 1, units)], max_steps=max_steps, name=name,
                             weight_filler=weight_filler or {"type": "gaussian", "std": 0.02}, **settings)


class LayerNorm(Layer):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias over the last axes (Ba et al. 2016)."""

    def __init__(self, shape: Sizes, eps: float = 1e-5, affine: bool = True, bias: bool = True, *,
                 name: str | None = None, **settings: Any):
        sizes = sizes_of("shape", shape)
        super().__init__("LayerNorm", inputs=[(1, *sizes)], axis=-len(sizes), eps=eps, weight_term=affine,
                         bias_term=bias, name=name, **settings)


class RMSNorm(Layer):
    """y = x / sqrt(mean of x^2 + eps) * weight over the last axes, of `shape` (Zhang and Sennrich 2019)."""

    def __init__(self, shape: Sizes, eps: float = 1e-6, *, name: str | None = None, **settings: Any):
        sizes = sizes_of("shape", shape)
        super().__init__("RMSNorm", inputs=[(1, *sizes)], axis=-len(sizes), eps=eps, name=name, **settings)


class BatchNorm(Module):
    """y = (x - mean) / sqrt(variance + eps) * factor + bias for each channel, axis 1 of x (N, C, ...).

    In training mean and variance are the batch's, else the stored ones: their mean over the batches seen, the
    newest with weight `momentum`, in [0, 1]. Two layers: `norm`, a BatchNorm as in Caffe, and with `affine`
    `scale`. Raises ConfigError for another momentum.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True):
        momentum = real_number("BatchNorm: momentum", momentum, "a number in [0, 1], what the newest batch "
                               "weighs", lambda number: 0 <= number <= 1)
        self.norm = Layer("BatchNorm", inputs=[(1, channels)], eps=eps, moving_average_fraction=1 - momentum)
        affine = truth("BatchNorm: affine", affine)
        if affine:
            self.scale = Layer("Scale", inputs=[(1, channels)], bias_term=True)
        self.channels, self.affine = channels, affine

    def forward(self, x: Symbol) -> Any:
        _check(self, x, 1, self.channels, "channels on axis 1")
        y = self.norm(x)
        return self.scale(y) if self.affine else y


class PReLU(Layer):
    """y = max(x, 0) + slope * min(x, 0): a learned slope for each channel (axis 1), or one for all."""

    def __init__(self, channels: int | None = None, initial: float = 0.25, *, name: str | None = None):
        super().__init__("PReLU", inputs=[(1, channels or 1)], channel_shared=channels is None,
                         filler={"type": "constant", "value": initial}, name=name)


class Scale(Layer):
    """y = x * factor + bias, learned, for each entry of the axes from `axis` on, which have this `shape`."""

    def __init__(self, shape: Sizes, axis: int = 1, bias: bool = True, *, name: str | None = None,
                 **settings: Any):
        sizes, (axis,) = sizes_of("shape", shape), sizes_of("axis", axis)
        if axis >= MOST_AXES:
            raise ConfigError(f"axis of a Scale should lie below {MOST_AXES}, got {axis}")
        super().__init__("Scale", inputs=[(1,) * max(axis, 0) + sizes], axis=axis, num_axes=len(sizes),
                         bias_term=bias, name=name, **settings)


def _check(module, x, axis, length, what):
    trace = current_trace()
    shape = x.shape if trace is None else trace.checked(x).shape
    if len(shape) < 2 or shape[axis] != length:
        raise ShapeError(f"{module.describe()}: expected {length} {what}; got {shape}")
