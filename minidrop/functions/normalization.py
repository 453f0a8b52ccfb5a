"""Normalization by means and variances: of channels over a batch, and of single records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import KeptError, ShapeError
from minidrop.functions.along import Along, carried, each_group
from minidrop.functions.checks import check_shapes
from minidrop.functions.operands import real_operand
from minidrop.kept import KeptByGroup

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend
    from minidrop.kept import Kept


class Stored:
    """Running statistics as Caffe stores them: decayed sums of means and variances, and of their weights.

    means, variances (channels,) and weight (1,) are arrays, all zeros at first. Each batch changes them to

        sums * fraction + statistic       weight * fraction + 1

    and the statistics are sums / weight, 0 where the weight is 0.
    """

    def __init__(self, means: np.ndarray, variances: np.ndarray, weight: np.ndarray, fraction: float = 0.999):
        self.means, self.variances, self.weight, self.fraction = means, variances, weight, fraction

    def read(self, backend: Backend) -> tuple[np.ndarray, np.ndarray]:
        """Return (mean, variance) of each channel."""
        share = (self.weight != 0) / self._divisor(backend)
        return self.means * share, self.variances * share

    def add(self, backend: Backend, mean: np.ndarray, variance: np.ndarray, count: int,
            kept: Kept | None) -> None:
        """Add the statistics of a batch with `count` numbers in each channel; kept: the channels it has.

        The statistics of other channels stay as they are, so their sums grow with the weight. A channel that
        had none, as it was dropped in every batch before, takes those of this one; until then its variance is
        -0.0, which tells it from a channel of zeros. Raises ShapeError.
        """
        channels = len(mean) if kept is None else kept.total
        if self.means.shape != (channels,):
            raise ShapeError(f"batch_norm: statistics of {channels} channels expected, got shape "
                             f"{self.means.shape}")
        weight = self.weight * self.weight.dtype.type(self.fraction) + 1
        is_new = backend.xp.signbit(backend.take(self.variances, kept, 0))
        if count > 1:
            variance = variance * variance.dtype.type(count / (count - 1))
        for sums, new, unknown in ((self.means, mean, 0.0), (self.variances, variance, -0.0)):
            number = sums.dtype.type(self.fraction)
            own = backend.xp.where(is_new, new * weight, backend.take(sums, kept, 0) * number + new)
            if kept is not None:
                grown = backend.xp.where(self.weight == 0, sums.dtype.type(unknown),
                                         sums * (weight / self._divisor(backend)))
                backend.put_columns(grown[None], kept, own[None])
                own = grown
            backend.keep_if_well(sums, own)
        backend.keep_if_well(self.weight, weight)

    def _divisor(self, backend):
        return backend.xp.where(self.weight == 0, 1, self.weight)


class BatchNorm(Function):
    """y = (x - mean) / sqrt(variance + eps), both over all samples and places of each channel (axis 1).

    x (samples, channels, ...); a vector is one channel. `stored`: a Stored to which they are added, the
    variance as the unbiased one. A compact x on axis 1 is normalized as if nothing were missing; groups of
    samples with other channels each raise KeptError. Source: Ioffe and Szegedy 2015.
    """

    __slots__ = ("eps", "stored", "y", "factor")
    kept_rule = "native"

    def __init__(self, eps: float = 1e-5, stored: Stored | None = None):
        self.eps, self.stored = eps, stored

    def forward(self, backend: Backend, x: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
        kept, _ = self.output_kept = carried(self, x.ndim, range(1, 2), "takes its means over all other axes")
        if isinstance(kept, KeptByGroup):
            raise KeptError(f"BatchNorm takes its means over all samples, but they keep other channels each: "
                            f"{kept}; call functions.expand on it first")
        shape, x = x.shape, x.reshape(_channels(x.shape))
        y, mean, variance, self.factor = self._normalize(backend, x, *parameters)
        if self.stored is not None and x.shape[0] * x.shape[2]:     # no sample says nothing
            self.stored.add(backend, mean, variance, x.shape[0] * x.shape[2], kept)
        return y.reshape(shape)

    def _normalize(self, backend, x):
        self.y, *numbers = backend.standardize_channels(x, self.eps)
        return self.y, *numbers

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> Any:
        return backend.standardize_gradient(gy.reshape(self.y.shape), self.y, self.factor).reshape(gy.shape)


class ScaledBatchNorm(BatchNorm):
    """y = scale * f((x - mean) / sqrt(variance + eps) * weight + bias): `BatchNorm`, and what is below it.

    weight, bias (channels,): dense; the bias may be missing. f: max(., 0) with `relu`, else nothing; scale:
    a positive number.
    """

    __slots__ = ("relu", "scale", "x", "mean", "weight", "along")

    def __init__(self, eps: float = 1e-5, stored: Stored | None = None, relu: bool = False,
                 scale: float = 1.0):
        super().__init__(eps, stored)
        self.relu, self.scale = relu, scale

    def _normalize(self, backend, x, weight, bias=None):
        kept = [kept for kept, _ in self.input_kept]
        if any(one is not None for one in kept[1:]):
            raise KeptError("batch_norm needs all of weight and bias; call functions.expand on them first")
        self.along, self.x = Along(x.shape, 1, weight.shape, kept[0]), x
        self.weight, bias = (None if one is None else self.along.take(backend, one) for one in (weight, bias))
        y, *numbers = backend.normalize_channels(x, self.eps, self.weight, bias, self.relu, self.scale)
        self.mean, self.y = numbers[0], y if self.relu else None
        return y, *numbers

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> Any:
        gx, *own = backend.normalize_channels_gradient(gy.reshape(self.x.shape), self.x, self.y, self.mean,
                                                       self.factor, self.weight, self.scale)
        return gx.reshape(gy.shape), *(self.along.gradient(backend, g) for g in own[:len(wanted) - 1])


class StoredNorm(Function):
    """y = (x - mean) / sqrt(variance + eps) with the constant statistics of a `Stored`.

    x as for `BatchNorm`; it may be compact on any axis.
    """

    __slots__ = ("stored", "eps", "view", "factor")
    kept_rule = "native"

    def __init__(self, stored: Stored, eps: float = 1e-5):
        self.stored, self.eps = stored, eps

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.output_kept = self.input_kept[0]
        mean, variance = self.stored.read(backend)
        # Of a vector the one channel is no axis.
        own = Along(x.shape, 1, mean.shape if x.ndim > 1 else (), *self.input_kept[0])
        self.view = own.view
        self.factor = own.take(backend, _inverse_deviation(backend, variance, self.eps))
        return backend.transform_channels(x.reshape(own.view), own.take(backend, mean),
                                          self.factor).reshape(x.shape)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return backend.transform_channels(gy.reshape(self.view), None, self.factor).reshape(gy.shape)


class MVN(Function):
    """y = (x - mean) / (deviation + eps) over the places of each channel of each record, or over all of it.

    x (samples, channels, ...). across: over the channels, too. scaled: False only subtracts the mean. A
    compact x may lack samples and, unless `across`, channels; KeptError otherwise.
    """

    __slots__ = ("across", "scaled", "eps", "y", "factor", "weight")
    kept_rule = "native"

    def __init__(self, across: bool = False, scaled: bool = True, eps: float = 1e-9):
        self.across, self.scaled, self.eps = across, scaled, eps

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        xp, eps, own = backend.xp, x.dtype.type(self.eps), 1 if self.across else 2
        self.output_kept = carried(self, x.ndim, range(own), f"takes its means over the axes from {own} on")
        rows = x.reshape(1, math.prod(x.shape[:own]), math.prod(x.shape[own:]))
        mean, variance = backend.channel_moments(rows)
        self.factor: Any = None
        if self.scaled:
            deviation = xp.sqrt(variance)
            self.factor = 1 / (deviation + eps)
            # Where nothing deviates y is 0, whatever its weight.
            self.weight = 1 + eps / xp.where(deviation == 0, 1, deviation)
        self.y = backend.transform_channels(rows, mean, self.factor)
        return self.y.reshape(x.shape)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        g = gy.reshape(self.y.shape)
        if self.scaled:
            return backend.standardize_gradient(g, self.y, self.factor, self.weight).reshape(gy.shape)
        mean = backend.channel_sums(g) / g.dtype.type(max(1, self.y.shape[2]))
        return backend.transform_channels(g, mean).reshape(gy.shape)


def _channels(shape):
    """Return a shape as (samples, channels, places)."""
    return *(*shape, 1)[:2], math.prod(shape[2:])


def _inverse_deviation(backend, variance, eps):
    return 1 / backend.xp.sqrt(variance + variance.dtype.type(eps))


def batch_norm(x: Tensor, stored: Stored | None = None, eps: float = 1e-5, weight: Tensor | None = None,
               bias: Tensor | None = None, relu: bool = False, scale: float = 1.0) -> Any:
    """Return x normalized by the mean and variance of its channels, added to `stored`: see `BatchNorm`.

    weight, bias (channels,): what it is multiplied by then, and what is added, see `ScaledBatchNorm`. relu:
    max(., 0) of that, and scale: that times a positive number; both and the bias come with a weight. Raises
    ShapeError, KeptError.
    """
    if weight is not None:
        check_shapes("batch_norm", weight=(weight.shape, x.shape[1:2]))
        return ScaledBatchNorm(eps, stored, relu, scale).apply(x, weight, *[] if bias is None else [bias])
    if bias is not None or relu or scale != 1:
        raise ShapeError("batch_norm: a bias, relu and a scale come with a weight, got none")
    return BatchNorm(eps, stored).apply(x)


def stored_norm(x: Tensor, stored: Stored, eps: float = 1e-5, carry: bool = False) -> Tensor:
    """Return x normalized by the stored mean and variance of its channels: see `StoredNorm`, and
    `real_operand` for carry."""
    x = real_operand(x, False, carry)
    return each_group(lambda part: StoredNorm(stored, eps).apply(part), x, 1, 1)


def mvn(x: Tensor, across: bool = False, scaled: bool = True, eps: float = 1e-9) -> Any:
    """Return x with mean 0 and, if `scaled`, deviation 1 for each channel of each record; see `MVN`."""
    return MVN(across, scaled, eps).apply(x)
