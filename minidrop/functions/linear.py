"""The product that dropout can shrink: y = f(x W^T + b), computed only for what draws keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidrop.autograd import Block, Blocks, Function, Tensor
from minidrop.backend import Backend
from minidrop.errors import ShapeError
from minidrop.functions.blocks import block_product
from minidrop.functions.checks import check_bias
from minidrop.functions.conversion import of_one_dtype
from minidrop.functions.dropout import multiply_mask
from minidrop.functions.group_product import GroupProduct
from minidrop.functions.pieces import PieceProduct, tile_pieces
from minidrop.kept import Kept, KeptByGroup
from minidrop.patterns.draw import NOTHING, Draw, Units


class Linear(Function):
    """y = scale * f(x W'^T + b) over the last axis; W' is W without the dropped weights.

    x (..., inputs), W (outputs, inputs), b (outputs,) -> y (..., outputs). With `transpose` W is stored as
    (inputs, outputs). f: an `activation` of Backend.activate.

    What `outputs`, a Draw, drops is not computed. Units: y carries the kept set. Weights: the dropped ones
    count as 0, the others are multiplied by the draw's scale. Blocks: dropped blocks of y are f(b).
    Blocks of x that `inputs`, a Draw, drops are read as 0 and get no gradient. If x carries a kept set, only
    those columns of W are read. All three products (forward, input gradient, weight gradient) have the
    compact size. Raises ShapeError.
    """

    __slots__ = ("outputs", "transpose", "activation", "scale", "lead", "features", "product", "y")
    kept_rule = "native"

    def __init__(self, outputs: Any = NOTHING, inputs: Any = NOTHING, transpose: bool = False,
                 activation: str = "none", scale: float = 1.0):
        self.outputs, self.inputs, self.transpose = outputs, inputs, transpose
        self.activation, self.scale = activation, scale

    @property
    def plain(self) -> bool:
        """Whether neither activation nor scale follows the bias."""
        return self.activation == "none" and self.scale == 1

    def forward(self, backend: Backend, x: np.ndarray, W: np.ndarray,
                b: np.ndarray | None = None) -> np.ndarray:
        in_kept, in_axis = self.input_kept[0]
        if in_kept is not None and in_axis % x.ndim != x.ndim - 1:
            raise ShapeError(f"linear: x of shape {x.shape} carries a kept set on axis {in_axis}; only the "
                             f"last axis can")
        inputs, outputs = W.shape if self.transpose else W.shape[::-1]
        logical = x.shape[-1] if in_kept is None else in_kept.total
        if logical != inputs:
            raise ShapeError(f"linear: x has {logical} features, but W of shape {W.shape} expects {inputs}")
        self.lead, self.features = x.shape[:-1], x.shape[-1]
        samples = math.prod(self.lead)      # not -1: either length may be 0
        self.product = self.choose_product(backend, W, samples, in_kept)
        y = self.product.forward(backend, x.reshape(samples, self.features), W, b if self.plain else None)
        if not self.plain:
            for part, kept in _outputs(self.product, y):
                own = None if b is None else backend.take(b, kept, 0)
                backend.activate(part, own, self.activation, self.scale, out=part)
            self.y = y
        self.output_kept = (self.product.out_kept, len(self.lead))
        return y.reshape(*self.lead, y.shape[-1])

    def choose_product(self, backend: Backend, W: np.ndarray, samples: Any,
                       in_kept: Kept | KeptByGroup | None) -> Any:
        """Return what multiplies x (samples, inputs) by W: a Kept-, Group-, Piece- or GridProduct."""
        inputs, outputs = W.shape if self.transpose else W.shape[::-1]
        tiles = self.outputs.tiles(outputs, inputs)
        steps = self.lead[0] if self.lead else None
        groups = self.outputs.groups(samples, steps), self.inputs.groups(samples, steps)
        # If units of y are left out too, the dropped blocks of x are read after all: they hold zeros.
        if tiles is None and (groups == (None, None) or self.outputs.kept is not None):
            out_kept = self.outputs.kept
            if isinstance(out_kept, KeptByGroup) or isinstance(in_kept, KeptByGroup):
                return GroupProduct(out_kept, in_kept, W.shape, self.transpose, self.lead)
            return KeptProduct(out_kept, in_kept, W.shape, self.transpose)
        if in_kept is not None:
            raise ShapeError(f"linear: with dropped weights or blocks x must have all of its units, but it "
                             f"carries {in_kept}; call functions.expand on it first")
        if tiles is not None:
            return PieceProduct(tile_pieces(samples, tiles), self.outputs.scale, self.transpose)
        return block_product(backend, W, samples, *groups, self.transpose)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> tuple:
        gy = gy.reshape(math.prod(self.lead), gy.shape[-1])
        if not self.plain:
            gy = backend.activate_gradient(gy, self.y, self.activation, self.scale)
        gx, gW = self.product.backward(backend, gy, wanted)
        if gx is not None:
            gx = gx.reshape(*self.lead, self.features)
        gb = None
        if len(wanted) > 2 and wanted[2]:
            gb = Blocks([Block(backend.column_sums(_as_rows(part)), kept)
                         for part, kept in _outputs(self.product, gy)], gy.dtype)
        return (gx, gW, gb)[:len(wanted)]


def _as_rows(x):
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])      # not -1: any length may be 0


def _outputs(product, y):
    """Return [(rows of y, what they keep)]: all of them, or one entry for each group of samples."""
    return product.outputs(y) if isinstance(product, GroupProduct) else [(y, product.out_kept)]


class KeptProduct:
    """x W^T for the kept outputs, from a compact x that has only the kept inputs; None for all."""

    __slots__ = ("out_kept", "rows", "cols", "transpose", "x", "W")

    def __init__(self, out_kept: Kept | None, in_kept: Kept | None, W_shape: Sequence[int], transpose: bool):
        outputs = W_shape[1 if transpose else 0]
        if out_kept is not None and out_kept.total != outputs:
            raise ShapeError(f"linear: {out_kept} does not fit W of shape {W_shape}, which has {outputs} "
                             f"outputs")
        self.out_kept = None if out_kept is None or out_kept.is_all else out_kept
        self.rows, self.cols = (in_kept, self.out_kept) if transpose else (self.out_kept, in_kept)
        self.transpose = transpose

    def forward(self, backend: Backend, x: np.ndarray, W: np.ndarray, b: np.ndarray | None) -> np.ndarray:
        """Return x W^T + b, (samples, kept outputs)."""
        self.x = backend.operand(x)
        # Gathered once, for the forward product and the input gradient.
        self.W = backend.submatrix(W, self.rows, self.cols)
        y = backend.gemm(self.x, self.W, trans_b=not self.transpose)
        if b is not None:
            backend.add_to_rows(y, backend.take(b, self.out_kept, 0))
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> Any:
        """Return the gradients of x and of W, a Block; None for one that is not wanted."""
        gx = gW = None
        W = self.W
        del self.W
        operand = backend.operand(gy)
        if wanted[0]:
            gx = backend.gemm(operand, W, trans_b=self.transpose)
        del W      # its buffer, still in the cache, is the right size for gW
        if wanted[1]:
            a, b = (self.x, operand) if self.transpose else (operand, self.x)
            product = backend.late_product(a, b, self.cols) or backend.gemm(a, b, trans_a=True)
            gW = Block(product, self.rows, self.cols)
        return gx, gW


def linear(x: Tensor, W: Tensor, b: Tensor | None = None, outputs: Draw | Kept | None = None,
           transpose: bool = False, activation: str = "none", scale: float = 1.0,
           inputs: Draw = NOTHING) -> Tensor:
    """Return scale * f(x W^T + b) over the last axis of x; see `Linear`.

    outputs: a Draw of what need not be computed, or the Kept of the units to compute (a KeptByGroup of the
    samples, which lie along the axis before the last one). inputs: a Draw of the
    blocks of x that need not be read. A masked draw of weights multiplies W by its mask.
    """
    x, W, b = of_one_dtype(x, W, b)
    if W.ndim != 2:
        raise ShapeError(f"linear: W is a matrix (outputs, inputs), got shape {W.shape}")
    if not x.ndim:
        raise ShapeError("linear: x has no axis of features, it is a single number")
    check_bias("linear", b, W.shape[1 if transpose else 0])
    if outputs is None or isinstance(outputs, Kept | KeptByGroup):
        outputs = NOTHING if outputs is None else Units(None, outputs, 1.0)
    if outputs.masked:
        rows, cols = W.shape[::-1] if transpose else W.shape
        mask = outputs.weight_mask(rows, cols)
        W = multiply_mask(W, mask.T if transpose else mask)
    return Linear(outputs, inputs, transpose, activation, scale).apply(*((x, W) if b is None else (x, W, b)))
