"""Weight gradients a^T b of a few samples, computed tile by tile where they are read, and never kept.

Such a gradient is as large as what is kept of the weights, and its product is short: written by BLAS,
checked and read again, it moves three times its bytes. Here a tile of its rows is computed into a core's own
cache, and the update uses them there. Both factors come packed by `cpu_thin.pack`, `a` in panels of as many
columns as a block of `add_products` has rows, `b` in panels of its columns. Every entry is one sum in the
order of the samples, whoever computes it.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit
from minidrop.kernels.cpu_update import sgd_row
from minidrop.kernels.vectors import add_products, copy_vector

TILE = 12           # rows, a multiple of those of any block


@jit
def compute_tile(t: Any, a: Any, b: Any, room: Any, zero: Any, form: Any) -> None:
    """room = rows TILE t .. TILE (t + 1) - 1 of a^T b, as far as there are any.

    a (blocks, samples, rows of a block), b (panels, samples, columns of a panel), room (TILE, at least the
    columns of all panels); zero and form: see `add_products`.
    """
    size, samples, height, width = a.itemsize, a.shape[1], a.shape[2], b.shape[2]
    first = t * TILE // height
    for p in range(b.shape[0]):
        for block in range(first, min(a.shape[0], first + TILE // height)):
            add_products(a.ctypes.data + block * samples * height * size, 1, height,
                         b.ctypes.data + p * samples * width * size,
                         room.ctypes.data + ((block - first) * height * room.shape[1] + p * width) * size,
                         room.shape[1], samples, b.ctypes.data, 0, zero, form)


@jit
def write_product(a: Any, b: Any, out: Any, zero: Any, form: Any, first: Any, last: Any) -> None:
    """out = a^T b for tiles first .. last - 1 of its rows; see `compute_tile`."""
    room = np.empty((TILE, b.shape[0] * b.shape[2]), out.dtype)
    for t in range(first, last):
        compute_tile(t, a, b, room, zero, form)
        rows = out[t * TILE:(t + 1) * TILE]
        rows[:] = room[:len(rows), :out.shape[1]]


@jit
def expand_row(g: Any, begins: Any, ends: Any, out: Any, zeros: Any, zero: Any, lanes: Any) -> None:
    """out[begins[r] .. ends[r] - 1] = the entries of g in turn, for all r; 0 between, before and after.

    Copied vector by vector: g and out have room for one more, and zeros is one.
    """
    size, step = g.itemsize, len(lanes)
    source, to, end, at = g.ctypes.data, out.ctypes.data, out.size - step, 0
    for r in range(begins.size + 1):
        begin = begins[r] if r < begins.size else end
        while at < begin:
            copy_vector(zeros.ctypes.data, to + at * size, zero, lanes)
            at += step
        if r < begins.size:
            at, length = begin, ends[r] - begin
            for j in range(0, length, step):
                copy_vector(source + j * size, to + (begin + j) * size, zero, lanes)
            source += length * size
            at += length


@jit
def sgd_update_late(W: Any, history: Any, a_s: Any, b_s: Any, row_ofs: Any, begins: Any, ends: Any, lr: Any,
                    momentum: Any, decay: Any, l1: Any, grad_scale: Any, zero: Any, form: Any, first: Any,
                    last: Any) -> None:
    """`cpu_update.sgd_update` by gradients a_s[g]^T b_s[g], each packed as for `compute_tile`.

    The columns of gradient g are those of the runs begins[g], ends[g] of W.
    """
    columns, step, widest = W.shape[1], len(form[2]), 0
    for b in b_s:
        widest = max(widest, b.shape[0] * b.shape[2])
    rooms, tiles = np.empty((len(a_s), TILE, widest + step), W.dtype), np.full(len(a_s), -1)
    rows, zeros = np.empty((2, columns + step), W.dtype), np.zeros(step, W.dtype)
    for i in range(first, last):
        owners = 0
        for g in range(len(a_s)):
            row = row_ofs[g][i]
            if row < 0:
                continue
            if row // TILE != tiles[g]:
                tiles[g] = row // TILE
                compute_tile(tiles[g], a_s[g], b_s[g], rooms[g], zero, form)
            own = rooms[g, row % TILE]
            expand_row(own, begins[g], ends[g], rows[min(owners, 1)], zeros, zero, form[2])
            owners += 1
            if owners > 1:
                total, more = rows[0], rows[1]
                for j in range(columns):
                    total[j] += more[j]
        if owners == 0:
            rows[0] = 0
        sgd_row(W[i], history[i], rows[0], lr, momentum, decay, l1, grad_scale)
