"""Softmax and the loss built on it."""

import numpy as np

from minidrop.autograd import Function
from minidrop.errors import DataError, ShapeError


def _softmax(xp, x, axis):
    y = xp.exp(x - x.max(axis=axis, keepdims=True))
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
    "BATCH_SIZE" by the length of axis 0, "NONE" by 1. Raises DataError for a label out of range (naming its place).
    """

    def __init__(self, axis=1, ignore_label=None, normalization="VALID"):
        self.axis, self.ignore_label, self.normalization = axis, ignore_label, normalization

    def forward(self, backend, x, label):
        xp = backend.xp
        axis = self.axis % x.ndim
        self.moved = xp.moveaxis(x, axis, -1).shape
        rows = xp.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
        label, valid = checked_labels(backend, label, rows, self.ignore_label)
        self.axis = axis
        self.probability = _softmax(xp, rows, 1)
        self.label, self.valid = label, valid
        self.normaliser = normaliser(self.normalization, rows.shape[0], valid, batch_size(x))
        chosen = self.probability[xp.arange(rows.shape[0]), label]
        losses = -xp.log(xp.maximum(chosen, np.finfo(x.dtype).tiny))
        if valid is not None:
            losses = losses * valid
        return (losses.sum() / x.dtype.type(self.normaliser)).reshape(())

    def backward(self, backend, gy, wanted):
        xp = backend.xp
        gx = self.probability
        gx[xp.arange(gx.shape[0]), self.label] -= 1
        if self.valid is not None:
            gx *= self.valid[:, None]
        gx *= gy / gx.dtype.type(self.normaliser)
        return xp.moveaxis(gx.reshape(self.moved), -1, self.axis), None


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
    wrong = (whole < 0) | (whole >= classes)
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
