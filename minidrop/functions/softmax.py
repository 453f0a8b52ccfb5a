"""Softmax and the loss built on it."""

import math

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import DataError, ShapeError


def _softmax(xp, x, axis):
    y = x - x.max(axis=axis, keepdims=True)
    xp.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


class Softmax(Function):
    """y_i = exp(x_i) / sum_j exp(x_j) along `axis`."""

    def __init__(self, axis=1):
        self.axis = axis

    def forward(self, backend, x):
        self.y = _softmax(backend.xp, x, self.axis)
        return self.y

    def backward(self, backend, gy, wanted):
        product = gy * self.y
        return product - self.y * product.sum(axis=self.axis, keepdims=True)


class SoftmaxCrossEntropy(Function):
    """loss = - sum over places of log softmax(x)[label] / normaliser.

    x (outer..., classes at `axis`, inner...), label: one whole number for every place. Places whose label is
    `ignore_label` count nothing. normalization: "VALID" divides by the places that count, "FULL" by all places,
    "BATCH_SIZE" by the size of the outer axes (of axis 0 as a rule), "NONE" by 1. Raises DataError for a label out of range
    (naming its place).
    """

    def __init__(self, axis=1, ignore_label=None, normalization="VALID"):
        self.axis, self.ignore_label, self.normalization = axis, ignore_label, normalization

    def forward(self, backend, x, label):
        xp = backend.xp
        self.axis = self.axis % x.ndim
        moved = x if self.axis == x.ndim - 1 else xp.moveaxis(x, self.axis, -1)
        self.moved = moved.shape
        rows = moved.reshape(-1, moved.shape[-1])
        self.label, self.valid = checked_labels(backend, label, rows, self.ignore_label)
        self.places = xp.arange(rows.shape[0])
        self.normaliser = x.dtype.type(normaliser(self.normalization, rows.shape[0], self.valid,
                                                  math.prod(x.shape[:self.axis])))
        self.probability = _softmax(xp, rows, 1)
        chosen = self.probability[self.places, self.label]
        losses = xp.log(xp.maximum(chosen, np.finfo(x.dtype).tiny))
        if self.valid is not None:
            losses *= self.valid
        return (losses.sum() / -self.normaliser).reshape(())

    def backward(self, backend, gy, wanted):
        gx = self.probability
        gx[self.places, self.label] -= 1
        if self.valid is not None:
            gx *= self.valid[:, None]
        gx *= gy / self.normaliser
        gx = gx.reshape(self.moved)
        return gx if self.axis == gx.ndim - 1 else backend.xp.moveaxis(gx, -1, self.axis), None


def batch_size(x):
    """The length of axis 0 of an array; 1 for a single number."""
    return max(1, x.shape[0]) if x.ndim else 1


def normaliser(mode, places, valid, batch_size):
    """What a summed loss is divided by; never less than 1, as a batch may hold no valid place."""
    if mode == "VALID" and valid is not None:
        places = valid.sum()
    return max(1.0, float({"VALID": places, "FULL": places, "BATCH_SIZE": batch_size, "NONE": 1}[mode]))


def checked_labels(backend, label, rows, ignore_label=None):
    """Return (labels as int64 (places,), 0/1 array of valid places or None where all are).

    Raises ShapeError for a wrong number of labels, DataError for one that is no whole number of 0 .. classes-1.
    """
    xp = backend.xp
    places, classes = rows.shape
    if label.size != places:
        raise ShapeError(f"expected {places} labels, one for every row of scores, got an array of shape {label.shape}")
    flat = label.reshape(-1)
    with np.errstate(invalid="ignore"):      # NaN and infinities become some integer, unlike themselves
        whole = flat.astype(np.int64)
    wrong = whole.view(np.uint64) >= classes         # a negative number is a huge one
    if flat.dtype.kind == "f":
        wrong |= whole != flat
    valid = None
    if ignore_label is not None:
        ignored = flat == ignore_label
        wrong &= ~ignored
        if bool(ignored.any()):
            valid = (~ignored).astype(rows.dtype)
            whole = xp.where(ignored, 0, whole)
    if bool(wrong.any()):
        place = int(wrong.argmax())
        error = DataError(f"label {float(flat[place]):g} at place {place} of the batch is out of range: expected a whole "
                        f"number of 0..{classes - 1} (the scores have {classes} classes)")
        error.place = place       # so that a net can name the record
        raise error
    return whole, valid


def softmax(x, axis=1):
    """Return exp(x) / sum exp(x) along `axis`."""
    return Softmax(axis).apply(x)


def softmax_cross_entropy(x, label, axis=1, ignore_label=None, normalization="VALID"):
    """Return the mean negative log-likelihood of `label` under softmax(x); see `SoftmaxCrossEntropy`."""
    return SoftmaxCrossEntropy(axis, ignore_label, normalization).apply(x, label)
