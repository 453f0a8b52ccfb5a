"""Scaled dot-product attention, in tiles of queries and keys."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor, graph
from minidrop.config.numbers import real_number
from minidrop.errors import ShapeError
from minidrop.functions.checks import Key, check_rate
from minidrop.functions.dropout import expand, take
from minidrop.functions.heads import keep_same_heads, splits_evenly, stacks_of

if TYPE_CHECKING:
    from minidrop.backend import Backend

BLOCK_KEYS = 512        # unless asked for otherwise: 512 x 64 scores in float32 fit into a core's cache
_QUERIES = 64           # of a tile; fewer make thin products, more leave less above the diagonal out


class Attention(Function):
    """y_i = sum_j p_ij m_ij v_j / (1 - rate), p_i = softmax over j of scale q_i . k_j, for each head.

    q (Tq, N, C), k (Tk, N, C), v (Tk, N, Cv) -> y (Tq, N, Cv); each last axis is `heads` runs. causal: query
    i reads the keys up to i + Tk - Tq, so that the last one reads all. key_mask (Tk, N): where it is 0
    nothing reads the key; it has no gradient. A query that reads no key gives 0. m ~ Bernoulli(1 - rate), a
    function of the key of random numbers and of (sample, head, i, j) alone.

    With more than `block_keys` keys no array grows with Tq Tk: the scores are made tile by tile, with the
    largest score and the sum so far of each query, and made once more in the backward pass, as in
    FlashAttention (Dao et al. 2022; the running softmax of Milakov and Gimelshein 2018). With fewer, the
    numerators of the probabilities are stored, tile by tile. Tiles without anything to read are left out.

    v may lack entries (a kept set on its last axis); y then lacks the same, and the products with v are
    smaller. If q, k and v lack the same whole heads, those are not computed at all.
    """

    __slots__ = ("heads", "causal", "scale", "rate", "key", "block_keys", "whole", "first", "arrays",
                 "stacks", "biases", "rows", "tiles", "stores")
    kept_rule = "native"

    def __init__(self, heads: int, causal: bool, scale: float | None, rate: float, key: Key, block_keys: int,
                 whole: bool, first: int = 0):
        self.heads, self.causal, self.scale, self.first = heads, causal, scale, first
        self.rate, self.key, self.block_keys, self.whole = rate, key, block_keys or BLOCK_KEYS, whole

    # -- forward ---------------------------------------------------------------------------------------------
    def forward(self, backend: Backend, q: np.ndarray, k: np.ndarray, v: np.ndarray,
                key_mask: np.ndarray | None = None) -> np.ndarray:
        xp, (kept, _) = backend.xp, self.input_kept[2]
        width = v.shape[2] if kept is None else kept.total
        size = (q.shape[2] if self.input_kept[0][0] is None else self.input_kept[0][0].total) // self.heads
        self.scale = 1 / math.sqrt(max(1, size)) if self.scale is None else self.scale
        q, k, v = (xp.ascontiguousarray(x) for x in (q, k, v))
        self.stacks = stacks_of(self.heads, q.shape[1], size, width // self.heads, kept, self.whole,
                                self.rate > 0)
        self.biases = self._key_biases(backend, key_mask, q.dtype)
        self.output_kept = kept, 2
        y = self._array(backend, (*q.shape[:2], v.shape[2]), q.dtype)
        self.arrays = q, k, v, y
        self.tiles: dict[tuple, tuple] = {}
        self.rows: list[list[np.ndarray]] = []
        self.stores = len(k) <= self.block_keys and graph.is_recording()
        for number, stack in enumerate(self.stacks):
            # Of each query the largest score, and 1 / (the sum of the numerators).
            self.rows.append([backend.empty((stack.pairs, len(q), 1), q.dtype) for _ in range(2)])
            work = partial(self._forward, backend, number, self._parts(stack, *self.arrays))
            backend.in_pairs(work, stack.pairs, *self._tile_size(q, k))
        return y

    def _array(self, backend, shape, dtype):
        """Return an array for what the stacks write, with zeros where none does: where v keeps nothing."""
        full = len(self.stacks) == 1 and self.stacks[0].samples is None
        return (backend.empty if full else backend.zeros)(shape, dtype)

    def _parts(self, stack, q, k, v, y):
        """Return the views of a stack, (pairs, steps, entries of a head); None for None."""
        return [None if x is None else stack.view(x, columns)
                for x, columns in ((q, stack.reads), (k, stack.reads), (v, stack.values), (y, stack.values))]

    def _tile_size(self, q: np.ndarray, k: np.ndarray) -> tuple[int, int]:
        """Return the columns and the bytes of a number of what `in_pairs` splits."""
        return min(_QUERIES, len(q)) * min(self.block_keys, len(k)), q.dtype.itemsize

    def _forward(self, backend, number, parts, first, last):
        """Compute y of the pairs first .. last-1 of a stack."""
        (q, k, v, y), part = parts, slice(first, last)
        for rows, blocks in self._query_blocks(q.shape[1], k.shape[1]):
            if not blocks:
                y[part, rows] = 0
            for place, columns in enumerate(blocks):
                keep = self._keep(backend, number, part, rows, columns)
                e = backend.attend((q[part, rows], k[part, columns], v[part, columns]),
                                   *self._tile(number, part, rows, columns, keep), y[part, rows],
                                   place == 0, place == len(blocks) - 1, self.stores)
                if self.stores:
                    self.tiles[number, first, rows.start] = e, keep

    # -- backward --------------------------------------------------------------------------------------------
    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        xp = backend.xp
        q, k, v, y = self.arrays
        gy = xp.ascontiguousarray(gy)
        gq, gk, gv = (self._array(backend, x.shape, x.dtype) if want else None
                      for x, want in zip((q, k, v), wanted, strict=False))
        for number, stack in enumerate(self.stacks):
            work = partial(self._backward, backend, number, self._parts(stack, *self.arrays),
                           self._parts(stack, gq, gk, gv, gy))
            backend.in_pairs(work, stack.pairs, *self._tile_size(q, k))
        return (gq, gk, gv, None)[:len(wanted)]

    def _backward(self, backend, number, parts, gradients, first, last):
        """Compute the gradients of the pairs first .. last-1 of a stack; None where one is not wanted.

        With numerators e = p s and g = gy / (s (1 - rate)):  gv = (e m)^T g,  and q k^T has the gradient
        scale e (m (g v^T) - d),  d = sum of gy y / s  over the entries of a query.
        """
        (q, k, v, y), (gq, gk, gv, gy), part = parts, gradients, slice(first, last)
        for columns, row_blocks in self._key_blocks(q.shape[1], k.shape[1]):
            for place, (rows, seen) in enumerate(row_blocks):
                e, keep = self.tiles.pop((number, first, rows.start), (None, None))
                if e is None:
                    keep = self._keep(backend, number, part, rows, seen)
                backend.attend_gradient(
                    (q[part, rows], k[part, seen], v[part, seen]),
                    *self._tile(number, part, rows, seen, keep), y[part, rows], gy[part, rows], e,
                    tuple(None if gx is None else gx[part, own]
                          for gx, own in ((gq, rows), (gk, seen), (gv, seen))), columns.start > 0, place > 0)
            # The last queries come first, and read every key that any query reads.
            read = row_blocks[0][1].stop if row_blocks else columns.start
            for gx in (gk, gv):
                if gx is not None:
                    gx[part, read:columns.stop] = 0
        if gq is not None:
            for rows, blocks in self._query_blocks(q.shape[1], k.shape[1]):
                if not blocks:
                    gq[part, rows] = 0

    # -- tiles -----------------------------------------------------------------------------------------------
    def _query_blocks(self, queries, keys):
        return [(rows, list(key_blocks(rows, queries, keys, self.causal, self.block_keys)))
                for rows in query_blocks(queries)]

    def _key_blocks(self, queries, keys):
        """Yield (keys of a block, [(queries, the keys of it that they read)]), the last queries first."""
        tiles = {}
        for rows, blocks in reversed(self._query_blocks(queries, keys)):
            for columns in blocks:
                tiles.setdefault(columns.start, []).append((rows, columns))
        for start in range(0, keys, self.block_keys):
            yield slice(start, min(keys, start + self.block_keys)), tiles.get(start, [])

    def _tile(self, number, part, rows, columns, keep):
        """Return what `attend` and its gradient are told of a tile; see there."""
        bias = self.biases[number][part, columns] if self.biases else None
        return (bias, self._reads(rows, columns), keep, (self.scale, 1 / (1 - self.rate)),
                *(own[part, rows] for own in self.rows[number]))

    def _reads(self, rows, columns):
        """Return how many keys of a tile its first query reads, may be negative; each further one reads one
        more. None: all read all."""
        q, k = self.arrays[:2]
        return rows.start + 1 + len(k) - len(q) - columns.start if self.causal else None

    def _keep(self, backend, number, part, rows, columns):
        """Return which probabilities of a tile dropout keeps, a bool array; None for all."""
        if not self.rate:
            return None
        stack, (q, k, *_) = self.stacks[number], self.arrays
        shape = part.stop - part.start, rows.stop - rows.start, columns.stop - columns.start
        pair = self.first * self.heads + stack.start + stack.stride * part.start
        begin = (pair * len(q) + rows.start) * len(k) + columns.start
        return backend.dropout_tile(shape, begin, (stack.stride * len(q) * len(k), len(k)), self.rate,
                                    self.key)

    def _key_biases(self, backend, key_mask, dtype):
        """Return (pairs, keys) for each stack, -infinity for padding, else 0; [] where no key is padding."""
        if key_mask is None:
            return []
        xp = backend.xp
        bias = xp.where(key_mask.T != 0, dtype.type(0), dtype.type(-math.inf))
        return [xp.repeat(bias, stack.heads, axis=0) if stack.samples is None else bias[stack.samples]
                for stack in self.stacks]


def query_blocks(queries: int) -> list[slice]:
    """Return the queries of the rows of tiles."""
    return [slice(first, min(queries, first + _QUERIES)) for first in range(0, queries, _QUERIES)]


def key_blocks(rows: slice, queries: int, keys: int, causal: bool, block_keys: int) -> Iterator[slice]:
    """Yield the keys of the tiles of some queries, those that any of them reads."""
    seen = min(keys, rows.stop + keys - queries) if causal else keys
    for first in range(0, seen, block_keys):
        yield slice(first, min(seen, first + block_keys))


def computed_scores(queries: int, keys: int, causal: bool) -> int:
    """Return how many scores a sample's head computes: those of all tiles, what they hide included.

    Where it is causal the i-th row of tiles reads i * _QUERIES + keys - queries keys, if that is above 0, and
    what is left of the queries reads all. The sum over i is no loop: a file may name a length of a billion.
    """
    if not causal:
        return queries * keys
    whole, rest = divmod(queries, _QUERIES)
    first = max(1, (queries - keys) // _QUERIES + 1)
    count = max(0, whole - first + 1)
    seen = count * (keys - queries) + _QUERIES * count * (first + whole) // 2
    return _QUERIES * seen + rest * keys


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int = 1, causal: bool = False,
              scale: float | None = None, key_mask: Any = None, rate: float = 0.0, key: Key = 0,
              block_keys: int = 0, first: int = 0) -> Tensor:
    """Return softmax(scale q k^T) v for each head: q (Tq, N, C), k (Tk, N, C), v (Tk, N, Cv) -> (Tq, N, Cv).

    scale: 1 / sqrt(C / heads) if None. causal: query i reads keys 0 .. i + Tk - Tq; where Tq is not Tk,
    PyTorch's is_causal lets it read 0 .. i instead. key_mask (Tk, N): 0 where a key is padding. rate, key:
    probabilities are dropped, each on its own. block_keys: beyond so many keys the scores are never all in
    memory, 0 for 512; the result is the same but for rounding. first: the number of the first sample, in a
    batch of which q, k and v are a part: what is dropped depends on it. See `Attention`. Raises ShapeError.
    """
    check_rate("attention", rate)
    scale = None if scale is None else real_number("attention: scale", scale)
    _check(q, k, v, heads, key_mask)
    whole = keep_same_heads(q, k, v, heads)
    if not whole:
        q, k = expand(q), expand(k)
    again = None
    if v.kept is not None and v.kept_axis % 3 != 2:
        v = expand(v)
    elif v.kept is not None and not splits_evenly(v.kept, heads):
        again, v = v.kept, expand(v)        # a captured step does not know how many entries each head has
    operands = (q, k, v) if key_mask is None else (q, k, v, key_mask)
    y = Attention(heads, causal, scale, rate, key, block_keys, whole, first).apply(*operands)
    return y if again is None else take(y, again, 2)


def _check(q, k, v, heads, key_mask):
    """Raise ShapeError unless the shapes fit one another."""
    shapes = q.shape, k.shape, v.shape
    if any(len(shape) != 3 for shape in shapes):
        raise ShapeError(f"attention: expected q, k and v as (steps, samples, entries), got {shapes}")
    if len({shape[1] for shape in shapes}) > 1:
        raise ShapeError(f"attention: q, k and v need the same samples (axis 1), got {shapes}")
    if k.shape[0] != v.shape[0] or q.shape[2] != k.shape[2]:
        raise ShapeError(f"attention: k and v need the same steps (axis 0), q and k the same entries (axis "
                         f"2), got q, k and v of shapes {shapes}")
    if heads < 1 or q.shape[2] % heads or v.shape[2] % heads:
        raise ShapeError(f"attention: {heads} heads do not divide the {q.shape[2]} entries of q and k and "
                         f"the {v.shape[2]} of v")
    if key_mask is not None and tuple(key_mask.shape) != tuple(k.shape[:2]):
        raise ShapeError(f"attention: expected key_mask as (steps, samples) of k, {tuple(k.shape[:2])}, got "
                         f"{tuple(key_mask.shape)}")
