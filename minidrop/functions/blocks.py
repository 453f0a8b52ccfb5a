"""The product y = x W^T + b where activations are dropped in blocks: by kernels that skip them, or in
pieces."""

import math

from minidrop.autograd import Block, Function
from minidrop.errors import CaptureError, ShapeError
from minidrop.functions.pieces import block_pieces, linear_pieces


class BlockLinear(Function):
    """y = f(scale * x W^T + b) where blocks of x, of y or of both are dropped.

    x (..., inputs), W (outputs, inputs), b (outputs,) -> y (..., outputs), all dense. f: an `activation` of
    Backend.activate. Dead blocks of x are read as zeros and get a gradient of 0; those of y are f(b), and
    what comes back for them goes to b alone. The grids are BlockGrids over all places before the last axis,
    None where a side is whole. With `transpose` W is stored as (inputs, outputs). Raises ShapeError.
    """

    def __init__(self, output_grid=None, input_grid=None, scale=1.0, transpose=False, activation="none"):
        self.output_grid, self.input_grid = output_grid, input_grid
        self.scale, self.transpose, self.activation = scale, transpose, activation

    def forward(self, backend, x, W, b=None):
        inputs = W.shape[0 if self.transpose else 1]
        if x.shape[-1] != inputs:
            raise ShapeError(f"linear: x has {x.shape[-1]} features, but W of shape {W.shape} expects "
                             f"{inputs}")
        self.shape = x.shape
        self.x = backend.operand(x.reshape(math.prod(x.shape[:-1]), inputs))
        self.W = backend.operand(W)
        plain = self.activation == "none"
        y = backend.block_product(self.x, self.W, False, not self.transpose, self.input_grid,
                                  self.output_grid, self.scale, b if plain else None)
        if not plain:
            self.y = y = backend.activate(y, b, self.activation, 1, out=y)
        return y.reshape(*self.shape[:-1], y.shape[1])

    def backward(self, backend, gy, wanted):
        gx = gW = gb = None
        gy = gy.reshape(self.x.shape[0], gy.shape[-1])
        if self.activation != "none":
            gy = backend.activate_gradient(gy, self.y, self.activation, 1)
        operand = backend.operand(gy)
        if wanted[0]:
            gx = backend.block_product(operand, self.W, False, self.transpose, self.output_grid,
                                       self.input_grid, self.scale)
            gx = gx.reshape(self.shape)
        if wanted[1]:
            sides = (operand, self.output_grid), (self.x, self.input_grid)
            (a, a_grid), (n, n_grid) = sides[::-1] if self.transpose else sides
            gW = Block(backend.block_product(a, n, True, False, a_grid, n_grid, self.scale))
        if len(wanted) > 2 and wanted[2]:
            gb = backend.column_sums(gy)
        self.x = self.W = None
        return (gx, gW, gb)[:len(wanted)]


def block_linear(x, W, b=None, output_groups=None, input_groups=None, scale=1.0, transpose=False,
                 activation="none"):
    """Return f(scale * x W^T + b) where outputs, inputs or both are dropped in blocks: groups as
    `DropSite.groups` says.

    Where all groups come with their grid (BlockGroups) and the device has kernels for it that pay, they skip
    what is dropped; else it is done in pieces, whose lists of what lives a captured step cannot replay:
    CaptureError.
    """
    given = [groups for groups in (output_groups, input_groups) if groups is not None]
    if all(hasattr(groups, "grid") for groups in given) and x.backend.block_products(x.dtype):
        output_grid, input_grid = (None if groups is None else groups.grid
                                   for groups in (output_groups, input_groups))
        return BlockLinear(output_grid, input_grid, scale, transpose,
                           activation).apply(*((x, W) if b is None else (x, W, b)))
    if x.backend.capturing and any(hasattr(groups, "grid") for groups in given):
        raise CaptureError(f"{x.backend.name} multiplies dropped blocks of {x.dtype} in pieces, which are "
                           f"others in every iteration; with precision bfloat16 such a step can be captured")
    outputs, inputs = W.shape[::-1] if transpose else W.shape
    pieces = block_pieces(math.prod(x.shape[:-1]), outputs, inputs, output_groups, input_groups)
    return linear_pieces(x, W, b, pieces, scale, transpose, activation)
