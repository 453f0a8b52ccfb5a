"""A product in pieces: what remains of y = x W^T + b when weights or blocks of activations are dropped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidrop.autograd import Block, Blocks, Function
from minidrop.errors import ShapeError
from minidrop.kept import Kept

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend
    from minidrop.patterns.grid import BlockGroups


class Piece(NamedTuple):
    """One compact product: samples first .. last - 1, some outputs and some inputs (both Kept)."""

    first: int
    last: int
    outputs: Kept
    inputs: Kept


class PieceProduct:
    """scale * x (W * m)^T for a 0/1 mask m that may differ from sample to sample, one product per piece:

        y[samples, outputs] = scale * x[samples, inputs] W[outputs, inputs]^T + b[outputs]

    No two pieces may write the same entry of y, nor read the same entry of x. Entries that no piece writes
    are b, and give x and W no gradient. Pieces with the same outputs and inputs are multiplied together. The
    three products of a piece (forward, input gradient, weight gradient) have its size. Raises ShapeError.
    """

    __slots__ = ("pieces", "scale", "transpose", "x_shape", "groups", "saved")
    out_kept = None

    def __init__(self, pieces: Sequence[Piece], scale: float = 1.0, transpose: bool = False):
        self.pieces, self.scale, self.transpose = pieces, scale, transpose

    def forward(self, backend: Backend, x: np.ndarray, W: np.ndarray, b: np.ndarray) -> Any:
        """Return scale * x (W * m)^T + b, (samples, outputs)."""
        inputs, outputs = W.shape if self.transpose else W.shape[::-1]
        self.x_shape = x.shape
        y = backend.zeros((x.shape[0], outputs), x.dtype)
        together = _together(self.pieces)
        for outs, ins in together:
            if (outs.total, ins.total) != (outputs, inputs):
                raise ShapeError(f"linear: a piece of {outs} outputs by {ins} inputs does not fit W of "
                                 f"shape {W.shape}, which has {outputs} outputs and {inputs} inputs")
        self.groups = [(*((ins, outs) if self.transpose else (outs, ins)), ranges)
                       for (outs, ins), ranges in together.items()]
        self.saved: list[Any] = [None] * len(self.groups)       # (part of x, of W) of each product

        def product(i):
            rows, cols, ranges = self.groups[i]
            part = backend.scaled(gathered(backend, x, ranges, rows if self.transpose else cols), self.scale)
            self.saved[i] = part, backend.submatrix(W, rows, cols)
            return *self.saved[i], False, not self.transpose

        made = backend.gemms_of([partial(product, i) for i in range(len(self.groups))], self._terms)
        for (rows, cols, ranges), one in zip(self.groups, made, strict=True):
            _scatter(backend, y, ranges, cols if self.transpose else rows, one)
        if b is not None:
            y += b
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> Any:
        """Return the gradients of x and of W, Blocks; None for one that is not wanted."""
        def own(i):
            rows, cols, ranges = self.groups[i]
            return gathered(backend, gy, ranges, cols if self.transpose else rows)

        inputs, blocks = backward_products(backend, self.saved, own, [group[:2] for group in self.groups],
                                           self.transpose, wanted, self._terms)
        gx = backend.zeros(self.x_shape, gy.dtype) if wanted[0] else None
        for (rows, cols, ranges), one in zip(self.groups, inputs, strict=False):
            _scatter(backend, gx, ranges, rows if self.transpose else cols, backend.scaled(one, self.scale))
        return gx, Blocks(blocks, gy.dtype) if wanted[1] else None

    @property
    def _terms(self):
        """How many products of two numbers one of the three products takes."""
        return sum((piece.last - piece.first) * piece.outputs.count * piece.inputs.count
                   for piece in self.pieces)


def backward_products(backend: Backend, saved: list, own: Callable[[int], Any], sides: Sequence[tuple],
                      transpose: bool, wanted: Sequence[bool], terms: int,
                      place: Callable[[int], Any] = lambda i: None) -> tuple[list, list]:
    """Return (the input gradients, the Blocks of W) of products by pieces; none of what is not wanted.

    saved: [(part of x, part of W)], which is emptied; own(i): the part of gy of product i; sides: the rows
    and columns of W that each read, None for all; place(i): where its input gradient goes. terms: of one of
    the three products, see `Backend.gemms_of`.
    """
    count = len(saved)
    gys: list[Any] = [None] * count

    def input_gradient(i):
        weight, saved[i] = saved[i][1], (saved[i][0], None)
        return part_of(i), weight, False, transpose, place(i)

    def weight_gradient(i):
        factors = (saved[i][0], part_of(i)) if transpose else (part_of(i), saved[i][0])
        return backend.late_product(*factors, sides[i][1]) or (*factors, True, False)

    def part_of(i):
        if gys[i] is None:
            gys[i] = own(i)
        return gys[i]

    kinds = [kind for kind, want in zip((input_gradient, weight_gradient), wanted, strict=False) if want]
    made = backend.gemms_of([partial(kind, i) for i in range(count) for kind in kinds], terms * len(kinds))
    saved.clear()
    inputs = made[::len(kinds)] if wanted[0] else []
    weights = zip(made[len(kinds) - 1::len(kinds)], sides, strict=True) if wanted[1] else ()
    return inputs, [Block(product, *pair) for product, pair in weights]


def _together(pieces):
    """Return {(outputs, inputs): [(first, last), ...]}."""
    groups = {}
    for piece in pieces:
        groups.setdefault((piece.outputs, piece.inputs), []).append((piece.first, piece.last))
    return groups


def gathered(backend: Backend, x: np.ndarray, ranges: Sequence[tuple[int, int]], kept: Kept | None) -> Any:
    """Return the kept columns (None: all) of some ranges of rows, stacked, for products."""
    if len(ranges) == 1:
        [(first, last)] = ranges
        return backend.submatrix(x[first:last], None, kept)
    found = [backend.compact(view, kept, view.ndim - 1) for view in _views(x, ranges)]
    found = [backend.xp.ascontiguousarray(one).reshape(math.prod(one.shape[:-1]), one.shape[-1])
             for one in found]
    return found[0] if len(found) == 1 else backend.concatenate(found)


def _scatter(backend, out, ranges, kept, values):
    """Write what `gathered` would read."""
    done = 0
    for view in _views(out, ranges):
        rows = math.prod(view.shape[:-1])
        part = values[done:done + rows]
        backend.put_columns(view, kept, part.reshape(*view.shape[:-1], values.shape[1]))
        done += rows


def _views(x, ranges):
    """Return views of ranges of rows of x, which are all of them in order.

    Ranges of one length at one distance, such as those of a group of streams at each step, are one view
    (ranges, rows of each, columns); the others are matrices.
    """
    found, i = [], 0
    while i < len(ranges):
        (first, last), count = ranges[i], 1
        step = ranges[i + 1][0] - first if i + 1 < len(ranges) else 0
        begin = first % step if step > 0 else 0
        if 0 < last - first <= step - begin:
            most = (len(x) - first + begin) // step         # so many steps of rows are left
            while (i + count < len(ranges) and count < most
                   and ranges[i + count] == (first + count * step, last + count * step)):
                count += 1
        if count == 1:
            found.append(x[first:last])
        else:
            rows = x[first - begin:first - begin + count * step].reshape(count, step, x.shape[1])
            found.append(rows[:, begin:begin + last - first])
        i += count
    return found


def tile_pieces(samples: int, tiles: tuple[tuple[Kept, Kept], ...]) -> list[Piece]:
    """Return the Pieces of a pattern of weights: for all samples, one per (outputs, inputs) of `tiles`."""
    return [Piece(0, samples, outputs, inputs) for outputs, inputs in tiles]


def block_pieces(samples: int, outputs: int, inputs: int,
                 output_groups: BlockGroups | Sequence[tuple[int, int, Kept]] | None = None,
                 input_groups: BlockGroups | Sequence[tuple[int, int, Kept]] | None = None) -> list[Piece]:
    """Return the Pieces of a product whose outputs, inputs or both are dropped in blocks.

    The groups are (first, last, Kept) over all samples, or None for a side without dropped blocks; `outputs`
    and `inputs` are the lengths of the sides. Samples are split wherever a group of either side ends.
    """
    sides = [list(output_groups or [(0, samples, Kept.all(outputs))]),
             list(input_groups or [(0, samples, Kept.all(inputs))])]
    pieces, first = [], 0
    while first < samples:
        kept = []
        for side in sides:
            while side[0][1] <= first:
                side.pop(0)
            kept.append(side[0][2])
        last = min(side[0][1] for side in sides)
        pieces.append(Piece(first, last, *kept))
        first = last
    return pieces


class MultiplyBlocks(Function):
    """y = scale * x where blocks live, 0 elsewhere; `groups` as in `block_pieces`.

    The samples of the groups are the axes before `axis`, taken as one. If the groups have a grid
    (BlockGroups), a device that skips blocks reads the grid, as its products do.
    """

    __slots__ = ("groups", "scale", "axis", "grid", "factors")

    def __init__(self, groups: BlockGroups, scale: float, axis: int):
        self.groups, self.scale, self.axis = groups, scale, axis

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.grid, self.factors = getattr(self.groups, "grid", None), None
        if self.grid is not None and backend.reads_grids:
            self.grid.check(math.prod(x.shape[:self.axis]), x.shape[self.axis])
            return self._multiply(backend, x)
        self.grid = None
        # Small, so made on the host and copied to the device once.
        masks = [kept.mask(x.dtype) for _, _, kept in self.groups]
        self.factors = backend.asarray(np.stack(masks) * x.dtype.type(self.scale)) if masks else None
        return self._multiply(backend, x)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return self._multiply(backend, gy)

    def _multiply(self, backend, x):
        lead, features, rest = (math.prod(x.shape[:self.axis]), x.shape[self.axis],
                                math.prod(x.shape[self.axis + 1:]))
        flat = x.reshape(lead, features, rest)
        if self.grid is not None:
            return backend.multiply_blocks(flat, self.grid, self.scale).reshape(x.shape)
        if self.factors is None:
            return x.copy()
        y = backend.multiply_groups(flat, [last for _, last, _ in self.groups], self.factors)
        return y.reshape(x.shape)
