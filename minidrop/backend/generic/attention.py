"""Tiles of attention: some queries by some keys, for many pairs of a sample and a head.

See functions.attention, which makes the tiles.

Shapes: q (pairs, queries, size), k (pairs, keys, size), v (pairs, keys, width), y and gy (pairs, queries,
width), of each query (pairs, queries, 1). reads: query i reads the first reads + i keys, None: all. keep:
which probabilities dropout keeps, bool (pairs, queries, keys), None: all. bias (pairs, keys) is added to the
scores, None: nothing. scales: (of the scores, 1 / (1 - rate)). The numerators exp(score - the largest) of a
tile are in the form that is best for the device; nobody else looks into them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidrop.backend.generic.products import Products


class Attention(Products):
    """`attend` and its gradient, and what they consist of."""

    def in_pairs(self, work: Callable, pairs: int, columns: int, itemsize: int) -> None:
        """Call work(first, last) for parts of all pairs; columns: of the scores of one, in a tile."""
        work(0, pairs)

    def attend(self, operands: tuple, bias: np.ndarray | None, reads: int | None, keep: np.ndarray | None,
               scales: tuple[float, float], top: np.ndarray, factor: np.ndarray, y: np.ndarray,
               first: bool = True, last: bool = True, stores: bool = True) -> Any:
        """Add a tile to what its queries have read; return its numerators if it `stores` them, or None.

        Numerators can be used again only if the tile is the first one and the last.
        operands: (q, k, v). top: the largest score of each query so far, -infinity for none; factor: the sum
        of exp(score - top), 0 for none; y: the sum of exp(score - top) keep v. Written by the first tile,
        changed by others; the last one makes factor 1 / the sum, 1 for a query that reads no key, and y the
        result.
        """
        xp, (q, k, v) = self.xp, operands
        e = self._scores(q, k, bias, scales)
        largest, total = self.numerators(e, reads, None if first else top)
        kept = e if keep is None else xp.multiply(e, keep, out=self.empty(e.shape, e.dtype))
        out = self.gemm_stack(kept, v)
        if not first:           # what was added so far was shifted by less
            before = xp.exp(top - _shift(xp, largest))
            total += factor * before
            out += y * before
        top[...] = largest
        # Every query that reads a key has a sum of at least 1, for the largest score.
        factor[...] = 1 / xp.where(total == 0, 1, total) if last else total
        if last:
            xp.multiply(out, factor * y.dtype.type(scales[1]), out=y)
        else:
            y[...] = out
        return e if stores else None

    def attend_gradient(self, operands: tuple, bias: np.ndarray | None, reads: int | None,
                        keep: np.ndarray | None, scales: tuple[float, float], top: np.ndarray,
                        factor: np.ndarray, y: np.ndarray, gy: np.ndarray, e: Any, gradients: tuple,
                        add_q: bool, add_k: bool) -> None:
        """Write a tile's part of the gradients of q, k and v, or add it to that of q, or of k and v.

        e: its numerators, which are overwritten; None where they were not stored. top, factor, y: as the last
        tile of the forward pass left them. gradients: of the operands, None where none is wanted. For the
        formula see functions.attention.
        """
        xp, (q, k, v), (gq, gk, gv) = self.xp, operands, gradients
        if e is None:
            e = self._scores(q, k, bias, scales)
            self.numerators(e, reads, shift=_shift(xp, top))
        g = xp.multiply(gy, factor * gy.dtype.type(scales[1]), out=self.empty(gy.shape, gy.dtype))
        if gq is not None or gk is not None:
            d = self.row_products(gy, y) * factor
            scores = self.gemm_stack(g, v.transpose(0, 2, 1))
            self.score_gradient(scores, e, d, keep, scales[0])
        if gq is not None:
            _put(gq, self.gemm_stack(scores, k), add_q)
        if gk is not None:
            _put(gk, self.gemm_stack(scores.transpose(0, 2, 1), q), add_k)
        if gv is not None:
            e = e if keep is None else xp.multiply(e, keep, out=e)
            _put(gv, self.gemm_stack(e.transpose(0, 2, 1), g), add_k)

    def _scores(self, q, k, bias, scales):
        scores = self.gemm_stack(self.scaled(q, scales[0]), k.transpose(0, 2, 1))
        if bias is not None:
            scores += bias[:, None]
        return scores

    def numerators(self, scores: np.ndarray, reads: int | None = None, top: np.ndarray | None = None,
                   shift: np.ndarray | None = None) -> tuple:
        """scores = exp(scores - shift), in place, with 0 for keys that a query does not read.

        scores (pairs, queries, keys); reads: query i reads the first reads + i keys, None: all. shift (pairs,
        queries, 1): no score that is read may be larger. None: the largest of `top` and of the scores that
        are read, -infinity for none, and 0 in place of that. Returns (this largest, the sums of the rows),
        both (pairs, queries, 1); with a shift (None, None).
        """
        xp, number, (_, queries, keys) = self.xp, scores.dtype.type, scores.shape
        if reads is not None and (free := max(0, reads)) < keys:        # which all queries read
            after = xp.arange(keys - free) >= xp.arange(queries)[:, None] + (reads - free)
            scores[:, :, free:] += xp.where(after, number(-math.inf), number(0))
        given = shift is not None
        if not given:
            here = scores.max(axis=2, keepdims=True)
            top = here if top is None else xp.maximum(top, here)
            shift = _shift(xp, top)
        scores -= shift
        xp.exp(scores, out=scores)
        return (None, None) if given else (top, scores.sum(axis=2, keepdims=True))

    def score_gradient(self, scores: np.ndarray, e: np.ndarray, d: np.ndarray, keep: np.ndarray | None,
                       factor: float) -> None:
        """scores = factor * e * (keep * scores - d), in place; see functions.attention.

        scores, e (pairs, queries, keys); d (pairs, queries, 1); keep: bool as scores, None: all are kept.
        """
        if keep is not None:
            scores *= keep
        scores -= d
        scores *= e
        scores *= scores.dtype.type(factor)

    def row_products(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the scalar products of the rows of two stacks (pairs, rows, columns): (pairs, rows, 1)."""
        return self.xp.multiply(a, b, out=self.empty(a.shape, a.dtype)).sum(axis=2, keepdims=True)


def _shift(xp, top):
    """Return what is subtracted from scores: of a query that reads no key there is no largest."""
    return xp.where(top == -math.inf, top.dtype.type(0), top)


def _put(gx, part, adds):
    if adds:
        gx += part
    else:
        gx[...] = part
