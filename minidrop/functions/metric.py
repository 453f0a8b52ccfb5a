"""Metrics without a gradient, computed on chunks of the scores that stay in cache."""

import math
from typing import Any

import numpy as np

from minidrop.autograd import Tensor
from minidrop.functions.checks import checked_axis
from minidrop.functions.dropout import expand
from minidrop.functions.operands import as_tensor
from minidrop.functions.softmax import checked_labels


def accuracy(x: Tensor, label: Any, top_k: int = 1, axis: int = 1, ignore_label: Any = None,
             per_class: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Return the share of places whose label is among the `top_k` highest scores, without gradient.

    x (outer..., classes at `axis`, inner...). As in Caffe a score equal to the label's counts as higher: a
    net that gives all classes the same score is never right, unless top_k includes all of them. With
    `per_class` also return the accuracies of the classes, (classes,), 0 for a class that does not occur.
    """
    backend, xp = x.backend, x.backend.xp
    rows, label = _rows(x, axis), as_tensor(label, x).data
    label, valid = checked_labels(backend, label, rows.shape, np.dtype(np.float64), ignore_label)
    hit, classes = xp.empty(len(rows), np.float64), xp.arange(rows.shape[1])

    def count(first, last):
        scores, labels = rows[first:last], label[first:last, None]
        own = xp.take_along_axis(scores, labels, axis=1)
        ahead = (scores >= own).sum(axis=1) - 1         # not the label's own
        # A row with a NaN score is never right, whatever comparisons with NaN say.
        hit[first:last] = (ahead < top_k) & ~xp.isnan(scores).any(axis=1)

    backend.in_chunks(count, len(rows), rows.shape[1], rows.dtype.itemsize)
    valid = xp.ones_like(hit) if valid is None else valid
    share = (hit * valid).sum() / xp.maximum(valid.sum(), 1)
    result = Tensor(share.reshape(()).astype(x.dtype), backend=backend)
    if not per_class:
        return result
    if backend.capturing:      # CuPy's bincount asks the device how many bins it needs
        own = label[:, None] == classes
        count, right = ((own * which[:, None]).sum(axis=0) for which in (valid, hit * valid))
    else:
        count, right = (xp.bincount(label, weights=which, minlength=rows.shape[1])
                        for which in (valid, hit * valid))
    return result, Tensor((right / xp.maximum(count, 1)).astype(x.dtype), backend=backend)


def perplexity(x: Tensor, label: Any, axis: int = 1, ignore_label: Any = None) -> Tensor:
    """Return exp(- mean log softmax(x)[label]) over the valid places, without gradient.

    x (outer..., classes at `axis`, inner...). 1 if no place is valid, infinite if the mean is too large.
    """
    backend, xp = x.backend, x.backend.xp
    rows, label = _rows(x, axis), as_tensor(label, x).data
    label, valid = checked_labels(backend, label, rows.shape, np.dtype(np.float64), ignore_label)
    loss = xp.empty(len(rows), np.float64)

    def log_likelihood(first, last):
        scores = rows[first:last]
        highest = scores.max(axis=1, keepdims=True)
        own = xp.take_along_axis(scores, label[first:last, None], axis=1) - highest
        loss[first:last] = xp.log(xp.exp(scores - highest).sum(axis=1)) - own[:, 0]

    with np.errstate(over="ignore", invalid="ignore"):
        backend.in_chunks(log_likelihood, len(rows), rows.shape[1], rows.dtype.itemsize)
        if valid is not None:
            loss = xp.where(valid > 0, loss, 0)
        mean = loss.sum() / (max(1.0, len(rows)) if valid is None else xp.maximum(valid.sum(), 1.0))
        return Tensor(xp.exp(mean).reshape(()).astype(x.dtype), backend=backend)


def _rows(x, axis):
    scores = x.backend.xp.moveaxis(expand(x).data, checked_axis(axis, x.ndim), -1)
    return scores.reshape(math.prod(scores.shape[:-1]), scores.shape[-1])
