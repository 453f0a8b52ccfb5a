"""Losses that ask for a margin: of the label's score, or of the distance of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Function
from minidrop.config.numbers import real_number
from minidrop.errors import ShapeError
from minidrop.functions.indices import refuse, whole_numbers
from minidrop.functions.softmax import batch_size, checked_labels, records

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend


class HingeLoss(Function):
    """loss = sum max(0, 1 - t x)^p / N; t is 1 for the label's score, -1 for the others.

    x (N, ...): all axes but the first count classes; one label for each record. p: 1 or, for `squared`, 2.
    Raises DataError for a label out of range, with its place.
    """

    __slots__ = ("squared", "shape", "sign", "margin", "batch_size")

    def __init__(self, squared: bool = False):
        self.squared = squared

    def forward(self, backend: Backend, x: np.ndarray, label: np.ndarray) -> np.ndarray:
        xp, rows = backend.xp, records(x)
        self.shape, self.batch_size = x.shape, x.dtype.type(batch_size(x))
        label, _ = checked_labels(backend, label, rows.shape, x.dtype)
        own = label[:, None] == xp.arange(rows.shape[1])
        self.sign = 1 - 2 * own.astype(x.dtype)
        self.margin = xp.maximum(1 + self.sign * rows, 0)
        total = (xp.square(self.margin) if self.squared else self.margin).sum()
        return (total / self.batch_size).reshape(())

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple[np.ndarray, None]:
        slope = 2 * self.margin if self.squared else self.margin > 0
        return (self.sign * slope * (gy / self.batch_size)).reshape(self.shape), None


class ContrastiveLoss(Function):
    """loss = sum over pairs of [y d^2 + (1 - y) max(0, margin - d)^2] / (2 N), d = |a - b|.

    a, b (N, ...); y (N entries): 1 for a similar pair, 0 for another. `legacy`: max(0, margin - d^2) in place
    of the square. As in Caffe the derivative of the distance is (a - b) / (d + 0.0001), finite at 0. Raises
    DataError for another y, with its place. Source: Hadsell et al. 2006, with the margin squared as in Caffe.
    """

    __slots__ = ("margin", "legacy", "shapes", "difference", "distance", "similar", "batch_size")

    def __init__(self, margin: float = 1.0, legacy: bool = False):
        self.margin, self.legacy = margin, legacy

    def forward(self, backend: Backend, a: np.ndarray, b: np.ndarray, y: np.ndarray) -> np.ndarray:
        xp, number = backend.xp, a.dtype.type
        self.shapes, self.batch_size = (a.shape, b.shape), batch_size(a)
        a, b, y = records(a), records(b), y.reshape(-1)
        if a.shape != b.shape or len(y) != len(a):
            raise ShapeError(f"contrastive loss: expected two arrays with as many values and {len(a)} labels "
                             f"of pairs, got shapes {' and '.join(map(str, self.shapes))}, {len(y)} labels")
        whole, wrong = whole_numbers(y, 2)
        self.similar = refuse(backend, whole, y, wrong, "label", 2, "1 for a similar pair, else 0") == 1
        self.difference = a - b
        squares = xp.square(self.difference).sum(axis=1)
        self.distance = squares if self.legacy else xp.sqrt(squares)
        short = xp.maximum(number(self.margin) - self.distance, 0)
        losses = xp.where(self.similar, squares, short if self.legacy else xp.square(short))
        return (losses.sum() / number(2 * self.batch_size)).reshape(())

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        xp, number = backend.xp, gy.dtype.type
        short = xp.maximum(number(self.margin) - self.distance, 0)
        apart = short > 0 if self.legacy else short / (self.distance + number(1e-4))
        factor = xp.where(self.similar, number(1), -apart.astype(gy.dtype)) * (gy / number(self.batch_size))
        g = self.difference * factor[:, None]
        return (g.reshape(self.shapes[0]) if wanted[0] else None,
                -g.reshape(self.shapes[1]) if wanted[1] else None, None)


def hinge_loss(x: Tensor, label: Tensor | np.ndarray, squared: bool = False) -> Tensor:
    """Return the mean over records of the summed (squared) margins that scores lack; see `HingeLoss`."""
    return HingeLoss(squared).apply(x, label)


def contrastive_loss(a: Tensor, b: Tensor, similar: Tensor | np.ndarray, margin: float = 1.0,
                     legacy: bool = False) -> Tensor:
    """Return the contrastive loss of pairs of vectors (N, size); see `ContrastiveLoss`.

    similar (N,): 1 for a pair that should be near, else 0.
    """
    return ContrastiveLoss(real_number("contrastive_loss: margin", margin), legacy).apply(a, b, similar)
