"""Linear-chain conditional random fields: the likelihood of sequences of tags, and the best ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.errors import DataError, ShapeError
from minidrop.functions.checks import check_shapes
from minidrop.functions.dropout import expand
from minidrop.functions.softmax import checked_labels

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend

PADDING = -1


class CRF(Function):
    """loss = sum over sequences of log Z - score(tags), divided by a normaliser.

        score(y) = start[y_1] + sum_t x[t, y_t] + sum_t W[y_t, y_{t+1}] + end[y_n]

    and Z is the sum of exp(score) over all sequences of tags of that length. x (T, N, K): scores of K tags;
    tags (T, N), -1 after the end of a sequence, which may have no tag at all; W (K, K), start and end (K,).
    normalization: "VALID" divides by the number of sequences with a tag, "FULL" and "BATCH_SIZE" by N, "NONE"
    by 1. Everything is computed with logarithms: steps go forward once, and backward once for the gradient.
    Raises DataError, with its place, for a tag out of range or behind padding. Source: Lafferty, McCallum and
    Pereira 2001.
    """

    __slots__ = ("normalization", "x", "W", "start", "end", "tags", "mask", "forwards", "log_z", "normaliser")

    def __init__(self, normalization: str = "VALID"):
        self.normalization = normalization

    def forward(self, backend: Backend, x: np.ndarray, tags: np.ndarray, W: np.ndarray, start: np.ndarray,
                end: np.ndarray) -> np.ndarray:
        xp = backend.xp
        self.tags, self.mask = checked_tags(backend, tags, x.shape)
        check_parts(x, W, start, end)
        self.x, self.W, self.start, self.end = x, W, start, end
        mask = self.mask[:, :, None]
        self.forwards = backend.empty(x.shape, x.dtype)     # log of the sums over all tags before step t
        with np.errstate(invalid="ignore", over="ignore"):      # scores may be infinite: so is the loss
            before = self.forwards[0]
            before[...] = start + x[0]
            for t in range(1, len(x)):
                new = _log_sum(xp, before[:, :, None] + W, 1) + x[t]
                self.forwards[t] = xp.where(mask[t], new, before)
                before = self.forwards[t]
            self.log_z = _log_sum(xp, before + end, 1)
            loss = xp.where(self.mask[0], self.log_z - self._score(xp), 0).sum()
        count = {"VALID": xp.maximum(self.mask[0].sum(), 1), "NONE": 1}.get(self.normalization,
                                                                            max(1, x.shape[1]))
        self.normaliser = xp.asarray(count, x.dtype)
        return (loss / self.normaliser).reshape(())

    def _score(self, xp):
        """Return the score of the given tags of each sequence, (N,)."""
        tags, mask, streams = self.tags, self.mask, xp.arange(self.tags.shape[1])
        own = xp.where(mask, xp.take_along_axis(self.x, tags[:, :, None], 2)[:, :, 0], 0).sum(axis=0)
        steps = xp.where(mask[1:], self.W[tags[:-1], tags[1:]], 0).sum(axis=0)
        return own + steps + self.start[tags[0]] + self.end[tags[_last(xp, mask), streams]]

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        xp, x, W, tags, dtype = backend.xp, self.x, self.W, self.tags, self.x.dtype
        steps, streams, kinds = x.shape
        mask = self.mask[:, :, None]
        each = (gy / self.normaliser) * self.mask[0].astype(dtype)[:, None]
        gx, pairs = backend.empty(x.shape, dtype), backend.zeros(W.shape, dtype)
        with np.errstate(invalid="ignore", over="ignore"):
            # g: the gradient of forwards[t], the share of each tag at that step, times `each`.
            g = xp.exp(self.forwards[-1] + self.end - self.log_z[:, None]) * each
            g_end = g.sum(axis=0)
            for t in range(steps - 1, 0, -1):
                gx[t] = xp.where(mask[t], g, 0)
                before = self.forwards[t - 1]
                step = xp.exp(before[:, :, None] + W - (self.forwards[t] - x[t])[:, None, :]) * g[:, None, :]
                step = xp.where(mask[t][:, :, None], step, 0)
                pairs += step.sum(axis=0)
                g = xp.where(mask[t], step.sum(axis=2), g)
            gx[0] = g
        places = tags[:, :, None] == xp.arange(kinds)
        gx -= xp.where(mask & places, each, 0)
        first, last = places[0], places[_last(xp, self.mask), xp.arange(streams)]
        gold = (places & mask).astype(dtype)
        pairs -= xp.tensordot(gold[:-1] * each, gold[1:], axes=((0, 1), (0, 1)))
        return (gx, None, pairs, g.sum(axis=0) - xp.where(first, each, 0).sum(axis=0),
                g_end - xp.where(last, each, 0).sum(axis=0))


def _log_sum(xp, x, axis):
    """Return log sum exp(x) along an axis."""
    highest = x.max(axis=axis, keepdims=True)
    highest = xp.where(xp.isfinite(highest), highest, 0)
    with np.errstate(divide="ignore"):
        return xp.squeeze(highest, axis) + xp.log(xp.exp(x - highest).sum(axis=axis))


def _last(xp, mask):
    """Return the last step of each sequence, 0 for an empty one."""
    return xp.maximum(mask.sum(axis=0) - 1, 0)


def checked_tags(backend: Backend, tags: np.ndarray,
                 shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return (tags as int64 (T, N), 0 at padding; the bool array of steps that have one).

    shape: (T, N, K) of the scores. Raises ShapeError, and DataError with its place for a tag that is none of
    0 .. K-1 and not -1, or that stands behind padding.
    """
    xp = backend.xp
    if len(shape) != 3 or tags.size != shape[0] * shape[1] or not shape[0]:
        raise ShapeError(f"expected scores (steps, streams, tags) and one tag for each step and stream, got "
                         f"shapes {tuple(shape)} and {tags.shape}")
    whole, _ = checked_labels(backend, tags, (tags.size, shape[2]), np.dtype(bool), PADDING)
    whole, mask = whole.reshape(shape[:2]), (tags != PADDING).reshape(shape[:2])
    gap = mask[1:] & ~mask[:-1]

    def error():
        place = int(gap.reshape(-1).argmax()) + shape[1]
        return DataError(f"the tag at place {place} of the batch stands behind padding ({PADDING}); a "
                         f"sequence has its tags from step 0 on, and padding behind them", place)

    backend.refuse(gap, error)
    return xp.where(mask, whole, 0), mask


def check_parts(x: Any, W: Any, start: Any, end: Any) -> None:
    """Raise ShapeError unless W (K, K), start (K,) and end (K,) of a chain fit its scores x (T, N, K)."""
    tags = x.shape[-1]
    check_shapes("crf", W=(W.shape, (tags, tags)), start=(start.shape, (tags,)), end=(end.shape, (tags,)))


def crf(x: Tensor, tags: Tensor | np.ndarray, W: Tensor, start: Tensor, end: Tensor,
        normalization: str = "VALID") -> Tensor:
    """Return the negative log-likelihood of `tags` (T, N), of scores x (T, N, K) in a chain; see `CRF`."""
    return CRF(normalization).apply(x, tags, W, start, end)


def best_tags(x: Tensor, tags: Any, W: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return the tags (T, N) of the highest score (Viterbi), -1 where `tags` has padding; without gradient.

    Of equally good tags the lower number is taken. Arguments as for `crf`; of `tags` only -1 is read.
    """
    backend, xp = x.backend, x.backend.xp
    scores, W, start, end = (expand(one).data for one in (x, W, start, end))
    _, mask = checked_tags(backend, tags.data if isinstance(tags, Tensor) else tags, scores.shape)
    check_parts(scores, W, start, end)
    steps, streams, _ = scores.shape
    best = start + scores[0]
    came: list[Any] = [None] * steps
    for t in range(1, steps):
        paths = best[:, :, None] + W
        came[t] = paths.argmax(axis=1)
        best = xp.where(mask[t][:, None], paths.max(axis=1) + scores[t], best)
    tag = (best + end).argmax(axis=1)
    found = xp.full((steps, streams), PADDING, scores.dtype)
    for t in range(steps - 1, -1, -1):
        found[t] = xp.where(mask[t], tag, PADDING)
        if t:       # where step t is padding, the last tag is still to come
            tag = xp.where(mask[t], xp.take_along_axis(came[t], tag[:, None], 1)[:, 0], tag)
    return Tensor(found, backend=backend)
