"""The product that dropout can shrink: y = x W^T + b on the kept inputs and the kept outputs only, and what
follows it."""

import math

from minidrop.autograd import Block, Function
from minidrop.errors import ShapeError


class Linear(Function):
    """y = scale * f(x W^T + b) over the last axis: x (..., inputs), W (outputs, inputs), b (outputs,) -> y
    (..., outputs).

    If x carries a kept set, only those columns of W are read; if `out_kept` is given, only those rows of W
    and entries of b are, and y carries it. All three products (forward, input gradient, weight gradient) have
    the compact size. With `transpose` W is stored as (inputs, outputs). `activation`: the name of f, one of
    Backend.activate's.
    """

    kept_rule = "native"

    def __init__(self, out_kept=None, transpose=False, activation="none", scale=1.0):
        self.out_kept = out_kept
        self.transpose = transpose
        self.activation, self.scale = activation, scale

    def forward(self, backend, x, W, b=None):
        in_kept, in_axis = self.input_kept[0]
        if in_kept is not None and in_axis % x.ndim != x.ndim - 1:
            raise ShapeError(f"linear: x of shape {x.shape} carries a kept set on axis {in_axis}; only the "
                             f"last axis can")
        inputs, outputs = W.shape if self.transpose else W.shape[::-1]
        logical = x.shape[-1] if in_kept is None else in_kept.total
        if logical != inputs:
            raise ShapeError(f"linear: x has {logical} features, but W of shape {W.shape} expects {inputs}")
        out_kept = self.out_kept
        if out_kept is not None and out_kept.total != outputs:
            raise ShapeError(f"linear: {out_kept} does not fit W of shape {W.shape}, which has {outputs} "
                             f"outputs")
        if out_kept is not None and out_kept.is_all:
            out_kept = None
        self.rows, self.cols = (in_kept, out_kept) if self.transpose else (out_kept, in_kept)
        self.lead = x.shape[:-1]
        # not -1: either length may be 0
        self.x = backend.operand(x.reshape(math.prod(self.lead), x.shape[-1]))
        # Gathered once, read by the forward product and by the input gradient.
        self.W = backend.submatrix(W, self.rows, self.cols)
        y = backend.gemm(self.x, self.W, trans_b=not self.transpose)
        b = None if b is None else backend.take(b, out_kept, 0)
        if self.activation != "none" or self.scale != 1:
            self.y = y = backend.activate(y, b, self.activation, self.scale, out=y)
        elif b is not None:
            backend.add_to_rows(y, b)
        self.output_kept = (out_kept, len(self.lead))
        return y.reshape(*self.lead, y.shape[-1])

    def backward(self, backend, gy, wanted):
        gy = gy.reshape(self.x.shape[0], gy.shape[-1])
        if self.activation != "none" or self.scale != 1:
            gy = backend.activate_gradient(gy, self.y, self.activation, self.scale)
        gx = gW = gb = None
        W, self.W = self.W, None
        operand = backend.operand(gy)
        if wanted[0]:
            gx = backend.gemm(operand, W, trans_b=self.transpose).reshape(self.lead + (self.x.shape[1],))
        del W      # its buffer, still in the cache, is the right size for gW
        if wanted[1]:
            a, b = (self.x, operand) if self.transpose else (operand, self.x)
            gW = Block(backend.gemm(a, b, trans_a=True), self.rows, self.cols)
        if len(wanted) > 2 and wanted[2]:
            gb = Block(backend.column_sums(gy), self.output_kept[0])
        return (gx, gW, gb)[:len(wanted)]


def linear(x, W, b=None, out_kept=None, transpose=False, activation="none", scale=1.0):
    """Return scale * f(x W^T + b) over the last axis of x; see `Linear`."""
    return Linear(out_kept, transpose, activation, scale).apply(*((x, W) if b is None else (x, W, b)))
