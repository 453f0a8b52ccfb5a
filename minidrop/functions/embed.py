"""Embedding lookup: the rows of a table that a batch reads, and a gradient for those rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Block, Function
from minidrop.errors import ShapeError
from minidrop.functions.groups import by_groups
from minidrop.functions.indices import refuse, whole_numbers
from minidrop.kept import KeptByGroup

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Tensor
    from minidrop.backend.generic.base import Backend
    from minidrop.kept import Kept


class Embed(Function):
    """y = W[ids] + b: ids (...), W (rows, columns), b (columns,) -> y (..., columns).

    ids are integers in 0 .. rows-1, of any dtype. If `out_kept` is given, only those columns of W and b are
    read, and y carries it. The gradient of W is a Block of the rows that occur; contributions to one row are
    added in the order of their places. Raises DataError for an id out of range, with its place.
    """

    __slots__ = ("out_kept", "ids", "rows")

    def __init__(self, out_kept: Kept | None = None):
        self.out_kept = out_kept

    def forward(self, backend: Backend, ids: np.ndarray, W: np.ndarray,
                b: np.ndarray | None = None) -> np.ndarray:
        out_kept = self.out_kept
        if out_kept is not None and out_kept.total != W.shape[1]:
            raise ShapeError(f"embed: {out_kept} does not fit W of shape {W.shape}, which has {W.shape[1]} "
                             f"columns")
        if out_kept is not None and out_kept.is_all:
            out_kept = self.out_kept = None
        flat = ids.reshape(-1)
        whole, wrong = whole_numbers(flat, W.shape[0])
        self.ids = refuse(backend, whole, flat, wrong, "index", W.shape[0],
                          f"the table has {W.shape[0]} rows")
        y = backend.lookup(W, self.ids, out_kept)
        if b is not None:
            y += backend.take(b, out_kept, 0)
        self.rows = W.shape[0]
        self.output_kept = (out_kept, ids.ndim)
        return y.reshape(*ids.shape, y.shape[1])

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        gy = gy.reshape(self.ids.size, gy.shape[-1])
        out_kept = self.out_kept
        gW = gb = None
        if wanted[1]:
            gW = Block(*backend.table_gradient(gy, self.ids, self.rows), out_kept)
        if len(wanted) > 2 and wanted[2]:
            gb = Block(backend.column_sums(gy), out_kept)
        return (None, gW, gb)[:len(wanted)]


def embed(ids: Tensor, W: Tensor, b: Tensor | None = None,
          out_kept: Kept | KeptByGroup | None = None) -> Tensor:
    """Return the rows W[ids], plus b; see `Embed`. A KeptByGroup is of samples on the last axis of ids.

    Raises ShapeError for a W that is no matrix.
    """
    if W.ndim != 2:
        raise ShapeError(f"embed: W is a matrix (rows, columns), got shape {W.shape}")
    if isinstance(out_kept, KeptByGroup):
        return by_groups(lambda kept, part: embed(part, W, b, kept), [ids], out_kept, ids.ndim - 1, out_kept)
    return Embed(out_kept).apply(*((ids, W) if b is None else (ids, W, b)))
