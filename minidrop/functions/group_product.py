"""GroupProduct: x W^T where each group of samples has its own kept outputs, its own kept inputs, or both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Blocks
from minidrop.errors import ShapeError
from minidrop.functions.pieces import Piece, backward_products, block_pieces
from minidrop.kept import Kept, KeptByGroup

if TYPE_CHECKING:
    from minidrop.backend import Backend


class GroupProduct:
    """x W^T for groups of samples, from a compact x to a compact y: one compact product for each group.

        y[samples of g, j] = sum_i x[samples of g, i] W[outputs_g[j], inputs_g[i]]

    out_kept, in_kept: a KeptByGroup, a Kept for all groups, or None for all entries. lead: the shape of x
    before its last axis; its last one is the axis of samples. If both sides have groups, and not the same
    ones, the samples are cut wherever one of either side ends. Raises ShapeError.
    """

    __slots__ = ("out_kept", "transpose", "lead", "widths", "even", "pieces", "sides", "saved")

    def __init__(self, out_kept: Kept | KeptByGroup | None, in_kept: Kept | KeptByGroup | None,
                 W_shape: Sequence[int], transpose: bool, lead: tuple[int, ...]):
        inputs, outputs = W_shape if transpose else W_shape[::-1]
        if not lead:
            raise ShapeError("linear: x has a single axis, so it has no groups of samples")
        if out_kept is not None and out_kept.total != outputs:
            raise ShapeError(f"linear: {out_kept} does not fit W of shape {W_shape}, which has {outputs} "
                             f"outputs")
        self.out_kept = None if out_kept is None or out_kept.is_all else out_kept
        self.transpose = transpose
        self.lead = math.prod(lead[:-1]), lead[-1]
        sides = (in_kept, inputs), (self.out_kept, outputs)
        self.widths = [total if kept is None else kept.count for kept, total in sides]
        self.even = [not isinstance(kept, KeptByGroup) or kept.is_even for kept, _ in sides]
        self.pieces = block_pieces(lead[-1], outputs, inputs, _groups(self.out_kept, lead[-1]),
                                   _groups(in_kept, lead[-1]))
        self.sides = [self._sides(piece) for piece in self.pieces]

    def forward(self, backend: Backend, x: np.ndarray, W: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        """Return x W^T + b, (rows, width of y)."""
        y = self._empty(backend, 1, x.dtype)
        self.saved: list[Any] = [None] * len(self.pieces)

        def product(i):
            part = backend.operand(self._read(backend, x, self.pieces[i], 0))
            weight = backend.submatrix(W, *self.sides[i])
            self.saved[i] = part, weight
            return part, weight, False, not self.transpose, self._place(y, self.pieces[i], 1)

        backend.gemms_of([partial(product, i) for i in range(len(self.pieces))], self._terms)
        if b is not None:
            for part, kept in self.outputs(y):
                backend.add_to_rows(part, backend.take(b, kept, 0))
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        """Return the gradients of x and of W, Blocks; None for one that is not wanted."""
        gx = self._empty(backend, 0, gy.dtype) if wanted[0] else None
        _, blocks = backward_products(
            backend, self.saved, lambda i: backend.operand(self._read(backend, gy, self.pieces[i], 1)),
            self.sides, self.transpose, wanted, self._terms, lambda i: self._place(gx, self.pieces[i], 0))
        return gx, Blocks(blocks, gy.dtype) if wanted[1] else None

    def outputs(self, y: np.ndarray) -> Iterator[tuple[np.ndarray, Kept | None]]:
        """Yield (the entries of y, what they keep) for each group of outputs."""
        if not isinstance(self.out_kept, KeptByGroup):
            yield y, self.out_kept
            return
        parts = self.out_kept.parts(self.lead[1])
        if self.lead[0] == 1:
            yield from ((y[first:last, :kept.count], kept) for first, last, kept in parts)
            return
        y = y.reshape(*self.lead, y.shape[1])
        yield from ((y[:, first:last, :kept.count], kept) for first, last, kept in parts)

    @property
    def _terms(self):
        """How many products of two numbers one of the three products takes."""
        return self.lead[0] * sum((piece.last - piece.first) * piece.outputs.count * piece.inputs.count
                                  for piece in self.pieces)

    def _sides(self, piece: Piece) -> tuple[Kept | None, Kept | None]:
        """Return the rows and columns of W that a piece reads; None for all."""
        rows, cols = (None if kept.is_all else kept for kept in (piece.outputs, piece.inputs))
        return (cols, rows) if self.transpose else (rows, cols)

    def _empty(self, backend, side, dtype):
        """Return an array for all groups, with zeros where a group has fewer entries than another."""
        shape = self.lead[0] * self.lead[1], self.widths[side]
        return (backend.empty if self.even[side] else backend.zeros)(shape, dtype)

    def _place(self, x, piece, side):
        """Return where an array of all groups has a piece: a matrix, or (outer, samples, entries)."""
        kept = piece.outputs if side else piece.inputs
        if self.lead[0] == 1:
            return x[piece.first:piece.last, :kept.count]
        return x.reshape(*self.lead, x.shape[1])[:, piece.first:piece.last, :kept.count]

    def _read(self, backend, x, piece, side):
        """Return the entries of a piece as a matrix: a view, or a copy if the samples are not one run."""
        place = self._place(x, piece, side)
        if place.ndim == 2:
            return place
        copy = backend.empty(place.shape, place.dtype)
        copy[...] = place
        return copy.reshape(place.shape[0] * place.shape[1], place.shape[2])


def _groups(kept, samples):
    """Return (first, last, Kept) of groups; for a side without them, of all samples; None if all are kept."""
    if kept is None:
        return None
    return kept.parts(samples) if isinstance(kept, KeptByGroup) else [(0, samples, kept)]
