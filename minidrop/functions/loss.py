"""Losses on real-valued targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import DataError, ShapeError
from minidrop.functions.softmax import batch_size, normaliser

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class EuclideanLoss(Function):
    """loss = sum (a - b)^2 / (2 N), N = length of axis 0, as in Caffe."""

    __slots__ = ("shape_of_b", "batch_size", "difference")

    def forward(self, backend: Backend, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.shape != b.shape and a.size != b.size:
            raise ShapeError(f"euclidean loss: shapes {a.shape} and {b.shape} differ")
        self.shape_of_b, self.batch_size = b.shape, batch_size(a)
        self.difference = a - b.reshape(a.shape).astype(a.dtype, copy=False)
        return ((self.difference ** 2).sum() / a.dtype.type(2 * self.batch_size)).reshape(())

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> Any:
        g = self.difference * (gy / gy.dtype.type(self.batch_size))
        return g if wanted[0] else None, -g.reshape(self.shape_of_b) if wanted[1] else None


class SigmoidCrossEntropy(Function):
    """loss = - sum [t log s(x) + (1 - t) log(1 - s(x))] / normaliser, s the sigmoid, t in [0, 1].

    Evaluated as max(x, 0) - x t + log(1 + exp(-|x|)), which cannot overflow. `normalization` as in
    `SoftmaxCrossEntropy`; Caffe's default here is BATCH_SIZE. No gradient for t. Raises DataError for a
    target outside 0..1, with its place, unless it is the `ignore_label`.
    """

    __slots__ = ("ignore_label", "normalization", "valid", "difference", "normaliser")

    def __init__(self, ignore_label: int | None = None, normalization: str = "BATCH_SIZE"):
        self.ignore_label, self.normalization = ignore_label, normalization

    def forward(self, backend: Backend, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        xp = backend.xp
        if x.size != target.size:
            raise ShapeError(f"sigmoid cross-entropy: shapes {x.shape} and {target.shape} differ")
        target = target.reshape(x.shape).astype(x.dtype, copy=False)
        self.valid = None if self.ignore_label is None else (target != self.ignore_label).astype(x.dtype)
        wrong = ~((target >= 0) & (target <= 1))        # true for NaN
        if self.valid is not None:
            wrong &= target != self.ignore_label
        backend.refuse(wrong, lambda: _no_target(target.reshape(-1), wrong))
        losses = xp.maximum(x, 0) - x * target + xp.log1p(xp.exp(-xp.abs(x)))
        half = x.dtype.type(0.5)
        self.difference = xp.tanh(x * half) * half + half - target
        if self.valid is not None:
            losses, self.difference = losses * self.valid, self.difference * self.valid
        self.normaliser = normaliser(backend, self.normalization, x.size, self.valid, batch_size(x), x.dtype)
        return (losses.sum() / self.normaliser).reshape(())

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple[np.ndarray, None]:
        return self.difference * (gy / self.normaliser), None


def _no_target(target, wrong):
    place = int(wrong.reshape(-1).argmax())
    return DataError(f"target {float(target[place]):g} at place {place} of the batch is out of range: "
                     f"expected a number of 0..1, or the ignore_label", place)


def euclidean_loss(a: Tensor, b: Tensor) -> Tensor:
    """Return sum (a - b)^2 / (2 N) of tensors (N, ...) of one shape."""
    return EuclideanLoss().apply(a, b)


def sigmoid_cross_entropy(x: Tensor, target: Tensor | np.ndarray, ignore_label: int | None = None,
                          normalization: str = "BATCH_SIZE") -> Tensor:
    """Return the cross-entropy of targets in [0, 1] under sigmoid(x); see `SigmoidCrossEntropy`."""
    return SigmoidCrossEntropy(ignore_label, normalization).apply(x, target)
