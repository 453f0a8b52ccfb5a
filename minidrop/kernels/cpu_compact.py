"""Products with the kept part of a matrix, which is gathered where it is used.

BLAS would read what a gather has written, and pack it once more; for the few rows of a group of samples both
take a good part of the product's time. Here some kept rows of W are gathered into a core's own cache,
multiplied with all samples, and written in panels for the input gradient, which reads them as they are. Every
entry is one sum in the order of its inner axis, whoever computes it.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit
from minidrop.kernels.vectors import add_products, copy_vector


@jit
def gather_row(row: Any, begins: Any, ends: Any, out: Any, zero: Any, lanes: Any) -> None:
    """out = the entries of runs begins[r] .. ends[r] - 1 of a row, one after the other, then zeros.

    out has room for one vector more than there are entries.
    """
    size, step, at = row.itemsize, len(lanes), 0
    for r in range(begins.size):
        begin, end = begins[r], ends[r]
        if begin + (end - begin + step - 1) // step * step <= row.size:     # all that is read is of this row
            for j in range(0, end - begin, step):
                copy_vector(row.ctypes.data + (begin + j) * size, out.ctypes.data + (at + j) * size, zero,
                            lanes)
        else:
            for j in range(end - begin):
                out[at + j] = row[begin + j]
        at += end - begin
    out[at:] = 0


@jit
def multiply_kept(W: Any, rows: Any, begins: Any, ends: Any, xt: Any, panels: Any, y: Any, zero: Any,
                  form: Any, first: Any, last: Any) -> None:
    """y = x kept^T for blocks first .. last - 1 of the kept rows of W; the kept columns are those of runs.

    xt: x^T packed in panels of as many samples as a block of `add_products` has columns. What is gathered
    goes to panels[p, o, c] = kept[o, p C + c], C columns each, 0 beyond the last.
    """
    height, size, step = len(form[0]), W.itemsize, len(form[2])
    width, depth, wide = len(form[1]) * step, xt.shape[1], panels.shape[2]
    line = panels.shape[0] * wide + step
    gathered = np.zeros((height, line), W.dtype)
    room = np.empty((height, width), W.dtype)
    for block in range(first, last):
        begin = block * height
        there = min(height, rows.size - begin)
        for r in range(there):
            gather_row(W[rows[begin + r]], begins, ends, gathered[r], zero, form[2])
            for p in range(panels.shape[0]):
                for j in range(0, wide, step):
                    copy_vector(gathered.ctypes.data + (r * line + p * wide + j) * size,
                                panels.ctypes.data + ((p * panels.shape[1] + begin + r) * wide + j) * size,
                                zero, form[2])
        for q in range(xt.shape[0]):
            # Meanwhile a share of the rows of the next block is fetched.
            following = min(rows.size - 1, begin + height + q * height // xt.shape[0])
            pace = height * W.shape[1] * size // (xt.shape[0] * depth)
            add_products(gathered.ctypes.data, line, 1, xt.ctypes.data + q * depth * width * size,
                         room.ctypes.data, width, depth, W.ctypes.data + rows[following] * W.shape[1] * size,
                         pace, zero, form)
            for s in range(min(width, y.shape[0] - q * width)):
                row = y[q * width + s]
                for r in range(there):
                    row[begin + r] = room[r, s]


@jit
def multiply_panels(gyt: Any, panels: Any, gx: Any, zero: Any, form: Any, first: Any,
                    last: Any) -> None:
    """gx = gy kept for panels first .. last - 1 of the kept columns, as `multiply_kept` writes them.

    gyt: gy^T packed in panels of as many samples as a block of `add_products` has rows.
    """
    height, size, depth, wide = len(form[0]), gx.itemsize, gyt.shape[1], panels.shape[2]
    room = np.empty((height, wide), gx.dtype)
    for p in range(first, last):
        there = min(wide, gx.shape[1] - p * wide)
        for block in range(gyt.shape[0]):
            add_products(gyt.ctypes.data + block * depth * height * size, 1, height,
                         panels.ctypes.data + p * panels.shape[1] * wide * size, room.ctypes.data, wide,
                         depth, panels.ctypes.data, 0, zero, form)
            for r in range(min(height, gx.shape[0] - block * height)):
                to = gx[block * height + r, p * wide:p * wide + there]
                for c in range(there):
                    to[c] = room[r, c]
