"""A function of one's own: a plain two-dimensional convolution that leaves out channels on both sides.

Read beside convolution_layer.py. Shape: x (N, C, H, W), W (out, C, k, k), b (out,) -> y (N, out, H - k + 1, W
- k + 1).
"""

import minidrop as md
from minidrop.autograd import Block


class Convolution(md.Function):
    """y[n, o] = b[o] + sum over c of the valid cross-correlation of x[n, c] with W[o, c].

    One product of matrices: W as (out, C k k) times the k x k windows of x. If x carries a kept set of
    channels only their columns of W are read; if `out_kept` is given only those rows are, and y carries it.
    """

    kept_rule = "native"

    def __init__(self, out_kept=None):
        self.out_kept = out_kept

    def forward(self, backend, x, W, b):
        kept, _ = self.input_kept[0]
        self.size = size = W.shape[2]
        self.shape, (samples, channels, height, width) = x.shape, x.shape
        self.places = samples, height - size + 1, width - size + 1
        windows = backend.xp.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
        # One row for each place of each sample, one column for each weight of an output channel. Nothing may
        # be kept.
        rows = self.places[0] * self.places[1] * self.places[2]
        self.windows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(rows, channels * size * size)
        self.cols = None if kept is None else kept.spread(size * size)
        self.W = backend.submatrix(W.reshape(W.shape[0], -1), self.out_kept, self.cols)
        y = backend.gemm(self.windows, self.W, trans_b=True)
        backend.add_to_rows(y, backend.take(b, self.out_kept, 0))
        self.output_kept = (self.out_kept, 1)
        return backend.xp.ascontiguousarray(y.reshape(*self.places, y.shape[1]).transpose(0, 3, 1, 2))

    def backward(self, backend, gy, wanted):
        gy = backend.xp.ascontiguousarray(gy.transpose(0, 2, 3, 1)).reshape(len(self.windows), gy.shape[1])
        gx = self._image(backend, backend.gemm(gy, self.W)) if wanted[0] else None
        gW = Block(backend.gemm(gy, self.windows, trans_a=True), self.out_kept,
                   self.cols) if wanted[1] else None
        return gx, gW, Block(backend.column_sums(gy), self.out_kept) if wanted[2] else None

    def _image(self, backend, columns):
        """Add the gradients of all windows up where they lie in the images."""
        gx = backend.zeros(self.shape, columns.dtype)
        samples, height, width = self.places
        parts = columns.reshape(samples, height, width, self.shape[1], self.size, self.size)
        for i in range(self.size):
            for j in range(self.size):
                gx[:, :, i:i + height, j:j + width] += parts[..., i, j].transpose(0, 3, 1, 2)
        return gx


def convolution(x, W, b, out_kept=None):
    """Return the convolution of x with W, plus b; see `Convolution`."""
    return Convolution(out_kept).apply(x, W, b)
