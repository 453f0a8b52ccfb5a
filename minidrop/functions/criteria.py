"""Losses under PyTorch's names, arguments and defaults.

`reduction` is "mean", "sum" or "none", which gives the loss of each entry. Where a loss of labels counts no
place at all, its mean is 0, where PyTorch's is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.errors import DataError, ShapeError, TensorError, in_short, nearest
from minidrop.functions import reductions
from minidrop.functions.axes import moveaxis, reshaped
from minidrop.functions.binary import divide, multiply, subtract
from minidrop.functions.checks import check_smoothing
from minidrop.functions.choices import where
from minidrop.functions.elementwise import absval, bnll, exp
from minidrop.functions.indexing import gather_rows
from minidrop.functions.loss import sigmoid_cross_entropy
from minidrop.functions.operands import as_tensor, values_of
from minidrop.functions.softmax import checked_labels, log_softmax, softmax_cross_entropy
from minidrop.functions.unary import square, unary

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend

REDUCTIONS = ("mean", "sum", "none")


class Huber(Function):
    """y = x^2 / 2 where |x| <= delta, delta (|x| - delta / 2) elsewhere (Huber 1964)."""

    __slots__ = ("delta", "x")
    kept_rule = "same"

    def __init__(self, delta: float):
        self.delta = delta

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        xp, delta, half = backend.xp, x.dtype.type(self.delta), x.dtype.type(0.5)
        self.x, size = x, xp.abs(x)
        return xp.where(size <= delta, half * x * x, delta * (size - half * delta))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        delta = gy.dtype.type(self.delta)
        return gy * backend.xp.minimum(backend.xp.maximum(self.x, -delta), delta)


class BinaryCrossEntropy(Function):
    """y = - t log p - (1 - t) log(1 - p), where a logarithm is at least -100. No gradient for t.

    The derivative (p - t) / (p (1 - p)) has its divisor raised to 1e-12, as in PyTorch.
    """

    __slots__ = ("p", "target")

    def forward(self, backend: Backend, p: np.ndarray, target: np.ndarray) -> np.ndarray:
        xp, number = backend.xp, p.dtype.type
        for what, x in (("probability", p), ("target", target)):
            backend.refuse(~((x >= 0) & (x <= 1)), lambda what=what: DataError(
                f"binary_cross_entropy: a {what} lies outside 0..1; scores go to "
                f"binary_cross_entropy_with_logits"))
        self.p, self.target = p, target.astype(p.dtype, copy=False)
        with np.errstate(divide="ignore"):
            inside, outside = (xp.maximum(xp.log(q), number(-100)) for q in (p, number(1) - p))
        return -(self.target * inside + (number(1) - self.target) * outside)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple[np.ndarray, None]:
        number = gy.dtype.type
        slope = backend.xp.maximum(self.p * (number(1) - self.p), number(1e-12))
        return gy * (self.p - self.target) / slope, None


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Return the squared differences of two tensors of one shape."""
    return _reduced(square(_difference("mse_loss", input, target)), reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Tensor:
    """Return the absolute differences of two tensors of one shape."""
    return _reduced(absval(_difference("l1_loss", input, target)), reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Return d^2 / 2 where |d| <= delta, delta (|d| - delta / 2) elsewhere, of differences d.

    Raises ShapeError for two shapes, and for a delta of 0 or below.
    """
    if not delta > 0:
        raise ShapeError(f"huber_loss: delta must be above 0, got {delta:g}")
    return _reduced(Huber(delta).apply(_difference("huber_loss", input, target)), reduction)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Return d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere, of differences d; beta 0: |d|.

    Raises ShapeError for two shapes, and for a beta below 0.
    """
    if not beta >= 0:
        raise ShapeError(f"smooth_l1_loss: beta must not be below 0, got {beta:g}")
    if beta == 0:
        return l1_loss(input, target, reduction)
    return _reduced(divide(Huber(beta).apply(_difference("smooth_l1_loss", input, target)), beta), reduction)


def cross_entropy(input: Any, target: Any, weight: Any = None, ignore_index: int = -100,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Return - log softmax(input)[target], classes on axis 1 (of a single record, on its only axis).

    target: whole numbers of 0 .. classes - 1 or `ignore_index`, one for each place; or probabilities, in the
    shape of `input`. weight: one number for each class; the mean divides by the sum of those of the targets.
    Raises DataError for a target out of range, with its place.
    """
    input = values_of(input)
    target = values_of(as_tensor(target, input))
    axis = min(1, input.ndim - 1)
    if target.shape == input.shape and target.dtype.kind == "f":
        places = math.prod(input.shape) // input.shape[axis]
        return _of_probabilities(input, target, weight, label_smoothing, axis, places, reduction)
    _check_reduction(reduction)
    check_smoothing("cross_entropy", label_smoothing)
    if weight is None and reduction != "none":
        return softmax_cross_entropy(input, target, axis, ignore_index,
                                     "VALID" if reduction == "mean" else "NONE", label_smoothing, exact=True)
    log_p = log_softmax(input, axis)
    losses, weights = _of_labels(log_p, target, weight, ignore_index, axis)
    if label_smoothing:
        rows = _rows_of(log_p if weight is None else multiply(log_p, _along(weight, input, axis)), axis)
        counted = Tensor((target.data.reshape(-1) != ignore_index).astype(input.dtype), backend=input.backend)
        spread = multiply(reductions.sum(rows, 1), counted * (-label_smoothing / rows.shape[1]))
        losses = losses * (1 - label_smoothing) + reshaped(spread, losses.shape)
    return _weighted(losses, weights, reduction)


def nll_loss(input: Any, target: Any, weight: Any = None, ignore_index: int = -100,
             reduction: str = "mean") -> Tensor:
    """Return - input[target], input (N, classes, ...) being logarithms; arguments as in `cross_entropy`."""
    _check_reduction(reduction)
    input = values_of(input)
    target = values_of(as_tensor(target, input))
    losses, weights = _of_labels(input, target, weight, ignore_index, min(1, input.ndim - 1))
    return _weighted(losses, weights, reduction)


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Tensor:
    """Return - t log p - (1 - t) log(1 - p), p the probabilities `input`, for targets in 0..1 of that shape.

    Raises DataError for a number outside 0..1.
    """
    p, target = _pair("binary_cross_entropy", input, target)
    losses = BinaryCrossEntropy().apply(p, target)
    return _reduced(losses if weight is None else multiply(losses, weight), reduction)


def binary_cross_entropy_with_logits(input: Any, target: Any, weight: Any = None, reduction: str = "mean",
                                     pos_weight: Any = None) -> Tensor:
    """Return `binary_cross_entropy` of sigmoid(input), which cannot overflow, for tensors of one shape.

    pos_weight: by what the losses of positive targets are multiplied, broadcast to the targets.
    """
    x, target = _pair("binary_cross_entropy_with_logits", input, target)
    if weight is None and pos_weight is None and _check_reduction(reduction) != "none":
        return sigmoid_cross_entropy(x, target, normalization="FULL" if reduction == "mean" else "NONE")
    if pos_weight is None:
        losses = subtract(bnll(x), multiply(x, target))
    else:       # - p t log s(x) - (1 - t) log s(-x), with log s(x) = x - log(1 + exp(x))
        balance = multiply(target, subtract(pos_weight, 1)) + 1
        losses = multiply(balance, bnll(-x)) + multiply(x, subtract(1, target))
    return _reduced(losses if weight is None else multiply(losses, weight), reduction)


def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """Return t (log t - input) for logarithms of probabilities `input` and probabilities t, 0 where t is 0.

    log_target: the targets are logarithms, too. reduction: also "batchmean", the sum divided by the length
    of axis 0: the divergence of Kullback and Leibler, which the mean over all entries is not.
    """
    x, target = _pair("kl_div", input, target)
    losses = (multiply(exp(target), subtract(target, x)) if log_target
              else subtract(unary("x log x", target), multiply(target, x)))
    if reduction == "batchmean":
        return divide(reductions.sum(losses), max(1, x.shape[0]) if x.ndim else 1)
    return _reduced(losses, reduction)


# -- what they share -----------------------------------------------------------------------------------------
def _check_reduction(reduction):
    if reduction not in REDUCTIONS:
        raise TensorError(f"unknown reduction {in_short(reduction)}{nearest(reduction, REDUCTIONS)} (known: "
                          f"{', '.join(REDUCTIONS)})")
    return reduction


def _reduced(losses, reduction):
    _check_reduction(reduction)
    return (losses if reduction == "none" else
            reductions.mean(losses) if reduction == "mean" else reductions.sum(losses))


def _pair(what, input, target):
    """Return two dense tensors of one shape; ShapeError if they are of two, which broadcasting would hide."""
    input = values_of(as_tensor(input, target if isinstance(target, Tensor) else None))
    target = values_of(as_tensor(target, input))
    if input.shape != target.shape:
        raise ShapeError(f"{what}: input and target need one shape, got {input.shape} and {target.shape}")
    return input, target


def _difference(what, input, target):
    return subtract(*_pair(what, input, target))


def _rows_of(x, axis):
    """Return x as a matrix (places, classes)."""
    moved = moveaxis(x, axis, -1)
    return reshaped(moved, (math.prod(moved.shape[:-1]), moved.shape[-1]))


def _along(weight, input, axis):
    """Return the weights of classes as a tensor that broadcasts along the axis of classes."""
    weight = values_of(as_tensor(weight, input))
    if weight.shape != (input.shape[axis],):
        raise ShapeError(f"weight of shape {weight.shape}: expected one number for each of the "
                         f"{input.shape[axis]} classes")
    return reshaped(weight, tuple([-1 if i == axis else 1 for i in range(input.ndim)]))


def _of_labels(log_p, target, weight, ignore_index, axis):
    """Return (the losses of the places, what each weighs), in the shape of `target`."""
    rows = _rows_of(log_p, axis)
    labels, valid = checked_labels(log_p.backend, target.data, rows.shape, log_p.dtype, ignore_index)
    xp = log_p.backend.xp
    weights = xp.ones(labels.shape, log_p.dtype) if valid is None else valid
    if weight is not None:
        weights = weights * _along(weight, log_p, axis).data.reshape(-1)[labels].astype(log_p.dtype)
    weights = Tensor(weights, backend=log_p.backend)
    own = gather_rows(rows, Tensor(labels, backend=log_p.backend))
    if valid is not None:       # an ignored place, which reads class 0, may find -inf there
        own = where(Tensor(valid, backend=log_p.backend), own, 0.0)
    losses = multiply(own, -weights)
    return reshaped(losses, target.shape), weights


def _weighted(losses, weights, reduction):
    """Reduce losses; the mean divides by the sum of the weights, or by 1 where that is 0."""
    if reduction != "mean":
        return _reduced(losses, reduction)
    total = weights.data.sum()
    return divide(reductions.sum(losses), Tensor(total + (total == 0).astype(total.dtype),
                                                 backend=losses.backend))


def _of_probabilities(input, target, weight, smoothing, axis, places, reduction):
    """The cross-entropy of targets that are probabilities of all classes."""
    check_smoothing("cross_entropy", smoothing)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / input.shape[axis]
    if weight is not None:
        target = multiply(target, _along(weight, input, axis))
    losses = reductions.sum(multiply(log_softmax(input, axis), target), axis) * -1.0
    if _check_reduction(reduction) != "mean":
        return _reduced(losses, reduction)
    return divide(reductions.sum(losses), max(1, places))
