"""Products of activations that are dropped in blocks: by kernels that skip blocks, or in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidrop.autograd import Block
from minidrop.backend import Backend
from minidrop.errors import CaptureError
from minidrop.functions.pieces import PieceProduct, block_pieces
from minidrop.patterns.grid import BlockGrid


class GridProduct:
    """x W^T where blocks of x, of y or of both are dropped, by kernels that skip them.

    The grids are BlockGrids over all samples, None for a side without dropped blocks. Dropped blocks of x are
    read as 0 and get a gradient of 0; those of y are b.
    """

    __slots__ = ("output_grid", "input_grid", "transpose", "x", "W")
    out_kept = None

    def __init__(self, output_grid: Any, input_grid: BlockGrid | None, transpose: bool):
        self.output_grid, self.input_grid, self.transpose = output_grid, input_grid, transpose

    def forward(self, backend: Backend, x: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return x W^T + b, (samples, outputs)."""
        self.x, self.W = backend.operand(x), backend.operand(W)
        return backend.block_product(self.x, self.W, False, not self.transpose, self.input_grid,
                                     self.output_grid, 1.0, b)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> Any:
        """Return the gradients of x and of W, a Block; None for one that is not wanted."""
        gx = gW = None
        operand = backend.operand(gy)
        if wanted[0]:
            gx = backend.block_product(operand, self.W, False, self.transpose, self.output_grid,
                                       self.input_grid, 1.0)
        if wanted[1]:
            sides = (operand, self.output_grid), (self.x, self.input_grid)
            (a, a_grid), (n, n_grid) = sides[::-1] if self.transpose else sides
            gW = Block(backend.block_product(a, n, True, False, a_grid, n_grid, 1.0))
        del self.x, self.W
        return gx, gW


def block_product(backend: Backend, W: np.ndarray, samples: int, output_groups: Any, input_groups: Any,
                  transpose: bool) -> GridProduct | PieceProduct:
    """Return the product with W where outputs, inputs or both are dropped in groups, see `Draw.groups`.

    If all groups have a grid (BlockGroups) and the device has kernels for it that pay, the product skips what
    is dropped. Otherwise it is done in pieces; a captured step cannot replay those and raises CaptureError.
    """
    given = [groups for groups in (output_groups, input_groups) if groups is not None]
    if all(hasattr(groups, "grid") for groups in given) and backend.block_products(W.dtype):
        output_grid, input_grid = (None if groups is None else groups.grid
                                   for groups in (output_groups, input_groups))
        return GridProduct(output_grid, input_grid, transpose)
    if backend.capturing and any(hasattr(groups, "grid") for groups in given):
        raise CaptureError(f"{backend.name} multiplies dropped blocks of {W.dtype} in pieces, which are "
                           f"others in every iteration; with precision bfloat16 such a step can be captured")
    outputs, inputs = W.shape[::-1] if transpose else W.shape
    return PieceProduct(block_pieces(samples, outputs, inputs, output_groups, input_groups), 1.0, transpose)
