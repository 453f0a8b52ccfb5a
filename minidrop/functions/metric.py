"""Measures without a gradient."""

import numpy as np

from minidrop.autograd import Tensor
from minidrop.functions.dropout import expand
from minidrop.functions.softmax import checked_labels


def accuracy(x, label, top_k=1, axis=1, ignore_label=None, per_class=False):
    """Return the share of places whose label is among the `top_k` highest scores, as a Tensor without gradient.

    x (outer..., classes at `axis`, inner...). A score equal to the label's counts as higher only in an earlier class.
    With `per_class` also return the (classes,) accuracies of each class (0 for one that does not occur).
    """
    backend, xp = x.backend, x.backend.xp
    scores = xp.moveaxis(expand(x).data, axis, -1)
    rows = scores.reshape(-1, scores.shape[-1])
    label, valid = checked_labels(backend, label.data, rows, ignore_label)
    classes = xp.arange(rows.shape[1])
    own = rows[xp.arange(rows.shape[0]), label][:, None]
    ahead = ((rows > own) | ((rows == own) & (classes < label[:, None]))).sum(axis=1)
    # A row with a NaN score is never right, whatever comparisons with NaN say.
    hit = ((ahead < top_k) & ~xp.isnan(rows).any(axis=1)).astype(np.float64)
    valid = xp.ones_like(hit) if valid is None else valid.astype(np.float64)
    share = (hit * valid).sum() / xp.maximum(valid.sum(), 1)
    result = Tensor(share.reshape(()).astype(x.dtype), backend=backend)
    if not per_class:
        return result
    count = xp.bincount(label, weights=valid, minlength=rows.shape[1])
    right = xp.bincount(label, weights=hit * valid, minlength=rows.shape[1])
    return result, Tensor((right / xp.maximum(count, 1)).astype(x.dtype), backend=backend)
