"""Losses of labels under probabilities, besides the softmax loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import ShapeError
from minidrop.functions.softmax import batch_size, checked_labels, normaliser, records

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend

LEAST_PROBABILITY = 1e-20       # Caffe's kLOG_THRESHOLD: smaller ones count as this


class MultinomialLogisticLoss(Function):
    """loss = - sum log max(p[label], 1e-20) / N for probabilities p (N, ...).

    All axes but the first count classes; one label for each record. Raises DataError for a label out of
    range, with its place.
    """

    __slots__ = ("shape", "label", "own", "batch_size")

    def forward(self, backend: Backend, p: np.ndarray, label: np.ndarray) -> np.ndarray:
        xp, number = backend.xp, p.dtype.type
        rows, self.shape, self.batch_size = records(p), p.shape, number(batch_size(p))
        label, _ = checked_labels(backend, label, rows.shape, p.dtype)
        self.label = label[:, None]
        self.own = xp.maximum(xp.take_along_axis(rows, self.label, axis=1), number(LEAST_PROBABILITY))
        return (xp.log(self.own).sum() / -self.batch_size).reshape(())

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple[np.ndarray, None]:
        classes = backend.xp.arange(math.prod(self.shape[1:]))
        gx = (self.label == classes) * (-gy / self.batch_size / self.own)
        return gx.reshape(self.shape), None


class InfogainLoss(Function):
    """loss = - sum over places of sum_j H[label, j] log max(softmax(x)_j, 1e-20) / normaliser.

    x (outer..., classes at `axis`, inner...), label: one integer per place, H (classes, classes). Labels,
    `ignore_label` and `normalization` as in `SoftmaxCrossEntropy`, which this is for the identity H. No
    gradient for H. As in Caffe the gradient does not know the bound 1e-20.
    """

    __slots__ = ("axis", "ignore_label", "normalization", "moved", "weights", "probability", "valid",
                 "normaliser")

    def __init__(self, axis: int = 1, ignore_label: int | None = None, normalization: str = "VALID"):
        self.axis, self.ignore_label, self.normalization = axis, ignore_label, normalization

    def forward(self, backend: Backend, x: np.ndarray, label: np.ndarray, H: np.ndarray) -> np.ndarray:
        xp, number = backend.xp, x.dtype.type
        moved = xp.moveaxis(x, self.axis, -1)
        places, classes = shape = math.prod(moved.shape[:-1]), moved.shape[-1]
        if H.size != classes ** 2:
            raise ShapeError(f"expected an infogain matrix of {classes} x {classes} entries, got an array of "
                             f"shape {H.shape}")
        label, self.valid = checked_labels(backend, label, shape, x.dtype, self.ignore_label)
        self.normaliser = normaliser(backend, self.normalization, places, self.valid,
                                     math.prod(x.shape[:self.axis % x.ndim]), x.dtype)
        scores = moved.reshape(shape)
        scores = scores - scores.max(axis=1, keepdims=True)
        log_p = scores - xp.log(xp.exp(scores).sum(axis=1, keepdims=True))
        self.moved, self.probability = moved.shape, xp.exp(log_p)
        self.weights = H.reshape(classes, classes).astype(x.dtype, copy=False)[label]
        if self.valid is not None:
            self.weights *= self.valid[:, None]
        losses = self.weights * xp.maximum(log_p, number(math.log(LEAST_PROBABILITY)))
        return (losses.sum() / -self.normaliser).reshape(())

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        gx = self.probability * self.weights.sum(axis=1, keepdims=True) - self.weights
        gx *= gy / self.normaliser
        return backend.xp.moveaxis(gx.reshape(self.moved), -1, self.axis), None, None


def multinomial_logistic_loss(p: Tensor, label: Tensor | np.ndarray) -> Tensor:
    """Return the mean over records of - log p[label]; see `MultinomialLogisticLoss`."""
    return MultinomialLogisticLoss().apply(p, label)


def infogain_loss(x: Tensor, label: Tensor | np.ndarray, H: Tensor | np.ndarray, axis: int = 1,
                  ignore_label: int | None = None, normalization: str = "VALID") -> Tensor:
    """Return the mean log-likelihood of all classes, weighted by the label's row of H (classes, classes).

    x (N, classes, ...): scores; see `InfogainLoss`.
    """
    return InfogainLoss(axis, ignore_label, normalization).apply(x, label, H)
