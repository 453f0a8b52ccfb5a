"""Softmax and the loss built on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.errors import ShapeError
from minidrop.functions.checks import check_name, check_smoothing, checked_axis
from minidrop.functions.indices import refuse, whole_numbers
from minidrop.functions.operands import AXIS, chosen_axis, real_operand

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


def _below_largest(x, axis):
    """Return x minus its largest entry along an axis, as a new array; of no entries there are none."""
    return x - x.max(axis=axis, keepdims=True) if x.size else x.copy()


class Softmax(Function):
    """y_i = exp(x_i) / sum_j exp(x_j) along `axis`."""

    __slots__ = ("axis", "y")

    def __init__(self, axis: int = 1):
        self.axis = axis

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        xp = backend.xp
        y = _below_largest(x, self.axis)
        xp.exp(y, out=y)
        y /= y.sum(axis=self.axis, keepdims=True)
        self.y = y
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        product = gy * self.y
        return product - self.y * product.sum(axis=self.axis, keepdims=True)


class LogSoftmax(Function):
    """y_i = x_i - log sum_j exp(x_j) along `axis`."""

    __slots__ = ("axis", "y")

    def __init__(self, axis: int = 1):
        self.axis = axis

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        xp = backend.xp
        y = _below_largest(x, self.axis)
        if y.size:
            y -= xp.log(xp.exp(y).sum(axis=self.axis, keepdims=True))
        self.y = y
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy - backend.xp.exp(self.y) * gy.sum(axis=self.axis, keepdims=True)


class SoftmaxCrossEntropy(Function):
    """loss = - sum over places of log softmax(x)[label] / normaliser.

    x (outer..., classes at `axis`, inner...), label: one integer per place. Places whose label is
    `ignore_label` do not count. normalization: "VALID" divides by the number of places that count, "FULL" by
    that of all places, "BATCH_SIZE" by the size of the outer axes (usually axis 0), "NONE" by 1. smoothing:
    the share of a place's loss that is the mean of - log softmax(x) over all classes (Szegedy et al. 2016).
    class_weight: (classes,), by which - log softmax(x) of each class is multiplied, in that mean too; then
    "VALID" divides by the sum of the weights of the labels that count. Raises DataError for a label out of
    range, with its place, ShapeError for another number of weights.

    A label's probability below the smallest normal number counts as that, as in Caffe: of float32 the loss of
    a place is at most 87.3. exact: not so, log softmax(x) is what it is.

    With 10,000 classes the scores are the largest array of a net. So only one other array of their size is
    made: it holds the probabilities, and backward turns them into the gradient.
    """

    __slots__ = ("axis", "ignore_label", "normalization", "smoothing", "class_weight", "exact", "weight",
                 "moved", "label", "valid", "normaliser", "probability")

    def __init__(self, axis: int = 1, ignore_label: int | None = None, normalization: str = "VALID",
                 smoothing: float = 0.0, class_weight: np.ndarray | Sequence[float] | None = None,
                 exact: bool = False):
        self.exact = exact
        self.axis, self.ignore_label, self.normalization = axis, ignore_label, normalization
        self.smoothing, self.class_weight = smoothing, class_weight

    def forward(self, backend: Backend, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        xp = backend.xp
        self.axis = self.axis % x.ndim
        moved = x if self.axis == x.ndim - 1 else xp.moveaxis(x, self.axis, -1)
        self.moved = moved.shape
        rows = math.prod(moved.shape[:-1]), moved.shape[-1]
        self.label, self.valid = checked_labels(backend, label, rows, x.dtype, self.ignore_label)
        self.weight = weight = self._weights(backend, rows[1], x.dtype)
        self.normaliser: np.ndarray | np.floating
        if weight is not None and self.normalization == "VALID":
            self.normaliser = weight_of_labels(weight, self.label, self.valid)
            self.normaliser = xp.where(self.normaliser > 0, self.normaliser, x.dtype.type(1))
        else:
            self.normaliser = normaliser(backend, self.normalization, rows[0], self.valid,
                                         math.prod(x.shape[:self.axis]), x.dtype)
        self.probability = probability = backend.empty(rows, x.dtype)
        if moved.flags.c_contiguous:
            source = moved.reshape(rows)
        else:
            probability.reshape(moved.shape)[...] = moved
            source = probability
        losses = backend.cross_entropy(source, self.label, probability, self.smoothing, weight)
        if self.exact:
            self._correct(backend, losses, moved)
        if self.valid is not None:
            losses *= self.valid
        # + 0: without a place that counts the loss is 0, not -0.
        return (losses.sum() / -self.normaliser + x.dtype.type(0)).reshape(())

    def _correct(self, backend, losses, scores):
        """Let the logarithms of probabilities that are 0 to rounding be those of the scores."""
        xp, number, smallest = backend.xp, losses.dtype.type, np.finfo(losses.dtype).tiny
        places = xp.arange(len(losses))
        low = self.probability[places, self.label] < smallest
        if self.valid is not None:
            low &= self.valid != 0
        if not backend.capturing and not bool(low.any()):
            return
        scores = scores.reshape(self.probability.shape)
        largest = self.probability.max(axis=1)              # 1 / sum_j exp(x_j - the largest score)
        with np.errstate(invalid="ignore"):                 # of a row whose scores are infinite, not in `low`
            exact = scores[places, self.label] - scores.max(axis=1) + xp.log(largest)
        weight = number(1 - self.smoothing) * (1 if self.weight is None else self.weight[self.label])
        losses += xp.where(low, weight * (exact - number(math.log(smallest))), number(0))

    def _weights(self, backend, classes, dtype):
        """Return class_weight on the device, None for none."""
        if self.class_weight is None:
            return None
        weight = backend.asarray(self.class_weight, dtype)
        if weight.shape != (classes,):
            raise ShapeError(f"expected a class_weight for each of the {classes} classes of the scores, got "
                             f"an array of shape {weight.shape}")
        return weight

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple[np.ndarray, None]:
        factor = gy / self.normaliser
        if self.valid is not None:
            factor = (self.valid * factor)[:, None]
        gx = self.probability
        backend.cross_entropy_gradient(gx, self.label, factor, self.smoothing, self.weight)
        gx = gx.reshape(self.moved)
        return gx if self.axis == gx.ndim - 1 else backend.xp.moveaxis(gx, -1, self.axis), None


def batch_size(x: np.ndarray) -> int:
    """Return the length of axis 0, at least 1; 1 for a scalar."""
    return max(1, x.shape[0]) if x.ndim else 1


def records(x: np.ndarray) -> np.ndarray:
    """Return x as a matrix with a row for each record; ShapeError for a scalar, which has none."""
    if not x.ndim:
        raise ShapeError("expected an array with a batch axis, got a single number")
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def normaliser(backend: Backend, mode: str, places: int, valid: np.ndarray | None, batch_size: int,
               dtype: np.dtype) -> np.ndarray | np.floating:
    """Return the divisor of a summed loss, of `dtype`: at least 1, as a batch may have no valid place.

    `valid`: 0/1 array of `dtype`, or None. It is summed on the device, without a transfer to the host.
    """
    if mode == "VALID" and valid is not None:
        return backend.xp.maximum(valid.sum(), dtype.type(1))
    divisors = {"VALID": places, "FULL": places, "BATCH_SIZE": batch_size, "NONE": 1}
    check_name("normalization", mode, tuple(divisors))
    return dtype.type(max(1.0, float(divisors[mode])))


def weight_of_labels(weight: np.ndarray, label: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Return the sum of weight[label] over the labels that are valid, an array () on the device."""
    weights = weight[label]
    return weights.sum() if valid is None else (weights * valid).sum()


def checked_labels(backend: Backend, label: np.ndarray, shape: tuple[int, int], dtype: np.dtype,
                   ignore_label: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (labels as int64 (places,), 0/1 array of `dtype` (places,) of the valid ones; None if all are).

    shape: (places, classes) of the scores. Raises ShapeError for a wrong number of labels, DataError for a
    label that is not an integer in 0 .. classes-1.
    """
    xp = backend.xp
    places, classes = shape
    if label.size != places:
        raise ShapeError(f"expected {places} labels, one for every row of scores, got an array of shape "
                         f"{label.shape}")
    flat = label.reshape(-1)
    whole, wrong = whole_numbers(flat, classes)
    valid = None
    if ignore_label is not None:
        ignored = flat == ignore_label
        wrong &= ~ignored
        if backend.capturing or bool(ignored.any()):
            valid = (~ignored).astype(dtype)
            whole = xp.where(ignored, 0, whole)
    return refuse(backend, whole, flat, wrong, "label", classes, f"the scores have {classes} classes"), valid


def softmax(x: Any, axis: int = 1, *, dim: int = AXIS) -> Tensor:
    """Return exp(x) / sum exp(x) along `axis`."""
    x, axis = real_operand(x), chosen_axis("softmax", axis, dim, 1)
    return Softmax(checked_axis(axis, x.ndim)).apply(x)


def log_softmax(x: Any, axis: int = 1, *, dim: int = AXIS) -> Tensor:
    """Return log softmax(x) along `axis`, exact also where softmax(x) is 0 to rounding."""
    x, axis = real_operand(x), chosen_axis("log_softmax", axis, dim, 1)
    return LogSoftmax(checked_axis(axis, x.ndim)).apply(x)


def softmax_cross_entropy(x: Tensor, label: Tensor | np.ndarray, axis: int = 1,
                          ignore_label: int | None = None, normalization: str = "VALID",
                          smoothing: float = 0.0,
                          class_weight: np.ndarray | Sequence[float] | None = None,
                          exact: bool = False) -> Tensor:
    """Return the mean negative log-likelihood of `label` under softmax(x); see `SoftmaxCrossEntropy`."""
    if not isinstance(x, Tensor) or x.dtype.kind != "f":
        x = real_operand(x)
    checked_axis(axis, x.ndim)
    check_smoothing("softmax_cross_entropy", smoothing)
    loss = SoftmaxCrossEntropy(axis, ignore_label, normalization, smoothing, class_weight, exact)
    return loss.apply(x, label)
