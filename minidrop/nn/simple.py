"""Modules without weights: activations, pooling, drops, shapes."""

from __future__ import annotations

from typing import Any

from minidrop.config.numbers import truth
from minidrop.errors import ConfigError, in_short
from minidrop.nn.layer import Layer
from minidrop.nn.module import Module
from minidrop.nn.sizes import Sizes, sizes_of
from minidrop.nn.symbol import Symbol


# -- activations ---------------------------------------------------------------------------------------------
class ReLU(Layer):
    """y = max(x, 0) + negative_slope * min(x, 0)."""

    def __init__(self, negative_slope: float | None = None, *, name: str | None = None):
        super().__init__("ReLU", negative_slope=negative_slope, name=name)


class GELU(Layer):
    """y = x Phi(x), with the normal distribution function Phi; approximate="tanh": by a tanh.

    Raises ConfigError for another `approximate`.
    """

    def __init__(self, approximate: str = "none", *, name: str | None = None):
        if approximate not in ("none", "tanh"):
            raise ConfigError(f"GELU: approximate should be 'none' or 'tanh', got {in_short(approximate)}")
        super().__init__("GELU", approximate="TANH" if approximate == "tanh" else None, name=name)


class SiLU(Layer):
    """y = x / (1 + exp(-x))."""

    def __init__(self, *, name: str | None = None):
        super().__init__("SiLU", name=name)


class Swish(Layer):
    """y = x / (1 + exp(-beta x))."""

    def __init__(self, beta: float = 1.0, *, name: str | None = None):
        super().__init__("Swish", beta=beta, name=name)


class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x))."""

    def __init__(self, *, name: str | None = None):
        super().__init__("Sigmoid", name=name)


class Tanh(Layer):
    """y = tanh(x)."""

    def __init__(self, *, name: str | None = None):
        super().__init__("TanH", name=name)


class ELU(Layer):
    """y = x above zero, alpha (exp(x) - 1) below."""

    def __init__(self, alpha: float = 1.0, *, name: str | None = None):
        super().__init__("ELU", alpha=alpha, name=name)


class Softplus(Layer):
    """y = log(1 + exp(x)). A layer BNLL."""

    def __init__(self, *, name: str | None = None):
        super().__init__("BNLL", name=name)


class Softmax(Layer):
    """y = exp(x) / sum of exp(x) along an axis."""

    def __init__(self, axis: int = -1, *, name: str | None = None):
        super().__init__("Softmax", axis=axis, name=name)


class LRN(Layer):
    """y = x / (k + alpha / n * sum of n neighbouring squares) ^ beta: local response normalization."""

    def __init__(self, local_size: int = 5, alpha: float = 1.0, beta: float = 0.75, k: float = 1.0, *,
                 name: str | None = None, **settings: Any):
        super().__init__("LRN", local_size=local_size, alpha=alpha, beta=beta, k=k, name=name, **settings)


# -- pooling -------------------------------------------------------------------------------------------------
class _Pool2d(Layer):
    """Base class of pooling; kernel_size None: the whole image."""

    method = "MAX"

    def __init__(self, kernel_size: Sizes | None, stride: Sizes | None = None, padding: Sizes = 0,
                 ceil_mode: bool = False, *, name: str | None = None):
        if kernel_size is None:
            super().__init__("Pooling", pool=self.method, global_pooling=True, name=name)
            return
        steps = kernel_size if stride is None else stride
        settings = (_sides("kernel", "kernel_size", kernel_size) | _sides("stride", "stride", steps)
                    | _sides("pad", "padding", padding))
        rounded = "CEIL" if truth(f"{type(self).__name__}: ceil_mode", ceil_mode) else "FLOOR"
        super().__init__("Pooling", pool=self.method, round_mode=rounded, name=name, **settings)


class MaxPool2d(_Pool2d):
    """The largest entry of each window of each channel of images (N, C, H, W).

    The number of windows is rounded down, as in PyTorch; with ceil_mode up, as in Caffe. stride: by default
    the kernel's size.
    """


class AvgPool2d(_Pool2d):
    """The mean of each window; kernel_size=None: of the whole image. Rounding as for MaxPool2d."""

    method = "AVE"


def _sides(what, name, sizes):
    """Return the settings of one side for both axes, or of two sides."""
    height, width = sizes_of(name, sizes, 2)
    if height == width:
        return {{"kernel": "kernel_size"}.get(what, what): height}
    return {f"{what}_h": height, f"{what}_w": width}


# -- drops ---------------------------------------------------------------------------------------------------
class ApproxDropout(Layer):
    """Dropout by regular patterns: the products above and below it are computed on what is kept alone.

    rate: the share that is dropped. Further settings are those of approx_dropout_param: pattern="TILE",
    groups, time="STEP", axis, heads, ... A Solver alone permutes units, so that with reshuffle_interval the
    module is trained by Solver.of; called in training it raises ConfigError.
    """

    def __init__(self, rate: float = 0.5, *, name: str | None = None, **settings: Any):
        super().__init__("ApproxDropout", dropout_ratio=rate, name=name, **settings)


class Dropout(Layer):
    """Dropout of each entry on its own, or with one mask along `axes`. No product becomes smaller."""

    def __init__(self, rate: float = 0.5, *, axes: Any = None, name: str | None = None):
        super().__init__("Dropout", dropout_ratio=rate, axes=axes, name=name)


class GaussianDropout(Layer):
    """y = x * n, n ~ N(1, rate / (1 - rate)) for each entry (Srivastava et al. 2014)."""

    def __init__(self, rate: float = 0.5, *, name: str | None = None):
        super().__init__("GaussianDropout", dropout_ratio=rate, name=name)


# -- shapes --------------------------------------------------------------------------------------------------
class Flatten(Layer):
    """The axes `axis` .. `end_axis` as one."""

    def __init__(self, axis: int = 1, end_axis: int = -1, *, name: str | None = None):
        super().__init__("Flatten", axis=axis, end_axis=end_axis, name=name)


class Reshape(Layer):
    """The same entries in another shape; 0 copies a length, one -1 takes what is left.

    Called with a second input, module(x, reference), a 0 copies a length of that; no gradient reaches it.
    """

    def __init__(self, *shape: int, name: str | None = None):
        super().__init__("Reshape", shape={"dim": list(shape)}, name=name)


class Permute(Layer):
    """The axes in another order: axis order[i] becomes axis i."""

    def __init__(self, *order: int, name: str | None = None):
        super().__init__("Permute", order=list(order), name=name)


class Identity(Module):
    """What it reads, as it is."""

    def forward(self, x: Symbol) -> Symbol:
        return x
