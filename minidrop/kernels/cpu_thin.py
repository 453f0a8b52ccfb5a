"""Products of thin matrices, of a few rows, with weights that are packed once for many of them.

BLAS packs the weights anew in every product; for 20 rows that takes as long as the product. Here `pack`
writes op(W) as panels, each all rows of a few vectors of columns, and a product goes through each panel once.
Every entry of the result is one sum in the order of the inner axis, however wide the vectors are and whoever
computes it: the result is the same to the last bit with any number of threads.

Two products of a sequence are some 0.1 ms apart, too short for threads that sleep in between. The threads
that help (`serve`) wait in compiled code, as BLAS's do, and leave after 0.2 ms without work. Nobody has to
come: all that is left is taken by who is there.
"""

from typing import Any

import numba
import numpy as np

from minidrop.kernels.cpu import jit
from minidrop.kernels.vectors import add, add_products, load, pause, pointer, store, ticks, transpose_square

# Where the words of a board stand, each in a cache line of its own.
LINE = 8
_OPEN, _INSIDE, _ROWS_TAKEN, _ROWS_DONE, _WHAT = (LINE * i for i in range(5))     # _WHAT: 16 words
_HOME = 7 * LINE                                            # for each thread, the next panel of its share
PATIENCE = 1 << 19                                          # ticks, about 0.2 ms
_PIECE = 256                                                # of the inner axis, of which `a` is transposed


def board(threads: int) -> np.ndarray:
    """Return the words with which `threads` threads agree on who computes what."""
    return np.zeros(_HOME + 2 * LINE * threads, np.int64)


def present(thread: int, threads: int) -> int:
    """Return the place of the word that says whether a thread serves."""
    return _HOME + LINE * (threads + thread)


@jit
def pack(W: np.ndarray, transpose: Any, panels: Any, zero: Any, lanes: Any, first: Any, last: Any) -> None:
    """panels[j, k, c] = op(W)[k, j columns + c], 0 beyond its columns; op(W) = W^T if `transpose`.

    zero, lanes: see `vectors.transpose_square`.
    """
    columns, depth, size, step = panels.shape[2], panels.shape[1], W.itemsize, len(lanes)
    square = depth // step * step if W.strides[1] == size else 0
    if not transpose:
        for k in range(depth):      # each row is read once, in the order of memory
            row = W[k]
            for j in range(first, last):
                part, to = row[j * columns:(j + 1) * columns], panels[j, k]
                for c in range(part.size):
                    to[c] = part[c]
                for c in range(part.size, columns):
                    to[c] = 0
        return
    for j in range(first, last):
        panel, part = panels[j], W[j * columns:(j + 1) * columns]
        for c in range(0, len(part), step):
            left = min(step, len(part) - c)
            whole = square if left == step else 0
            for k in range(0, whole, step):
                transpose_square(part.ctypes.data + c * W.strides[0] + k * size, W.strides[0] // size,
                                 panel.ctypes.data + (k * columns + c) * size, columns, zero, lanes)
            for k in range(whole, depth):
                for i in range(c, c + left):
                    panel[k, i] = part[i, k]
        if len(part) < columns:
            panel[:, len(part):] = 0


@jit
def _share(words: Any, me: Any, zero: Any, form: Any) -> None:
    """Do a share of the product on the board: first rows are transposed, then panels are multiplied."""
    what = words[_WHAT:]
    at, a, a_row, rows, packed = what[0], what[1], what[2], what[3], what[4]
    y, y_row, depth, panels, members = what[5], what[6], what[7], what[8], what[9]
    height, width = len(form[0]), len(form[1]) * len(form[2])
    blocks = (rows + height - 1) // height
    from_rows = numba.carray(pointer(a, zero), (rows, a_row))
    to_rows = numba.carray(pointer(at, zero), (blocks, depth, height))
    size = from_rows.itemsize
    pieces = (depth + _PIECE - 1) // _PIECE
    piece = add(words, _ROWS_TAKEN, 1)
    while piece < pieces:
        begin, end = piece * _PIECE, min(depth, (piece + 1) * _PIECE)
        for block in range(blocks):
            there = min(height, rows - block * height)
            to = to_rows[block]
            for k in range(begin, end):
                for r in range(there):
                    to[k, r] = from_rows[block * height + r, k]
                for r in range(there, height):
                    to[k, r] = 0
        add(words, _ROWS_DONE, 1)
        piece = add(words, _ROWS_TAKEN, 1)
    while load(words, _ROWS_DONE) < pieces:
        pause()
    for other in range(members):        # one's own share, then what others have left of theirs
        home = (me + other) % members
        end = panels * (home + 1) // members
        j = add(words, _HOME + LINE * home, 1)
        while j < end:
            for block in range(blocks):
                add_products(at + block * depth * height * size, 1, height,
                             packed + j * depth * width * size,
                             y + (block * height * y_row + j * width) * size, y_row, depth, packed, 0, zero,
                             form)
            j = add(words, _HOME + LINE * home, 1)


@jit
def lead(words: Any, ticket: Any, kind: Any, members: Any, a: np.ndarray, at: np.ndarray, packed: np.ndarray,
         y: np.ndarray, zero: Any, form: Any) -> None:
    """y = a op(W), with op(W) packed, together with the threads that serve; see `add_products`.

    a (rows, depth) with contiguous rows; at: room for a transposed, (blocks, depth, rows of a block); y: as
    many rows and columns as blocks and panels have. ticket: another number than 0 for every product.
    """
    panels = packed.shape[0]
    what = words[_WHAT:]
    what[0], what[1], what[2], what[3] = at.ctypes.data, a.ctypes.data, a.strides[0] // a.itemsize, a.shape[0]
    what[4], what[5], what[6], what[7] = packed.ctypes.data, y.ctypes.data, y.shape[1], a.shape[1]
    what[8], what[9], what[10] = panels, members, kind
    words[_ROWS_TAKEN] = words[_ROWS_DONE] = 0
    for thread in range(members):
        words[_HOME + LINE * thread] = panels * thread // members
    store(words, _OPEN, ticket)
    _share(words, 0, zero, form)
    store(words, _OPEN, 0)
    while load(words, _INSIDE):     # all is taken: they finish what they have
        pause()


@jit
def serve(words: Any, me: Any, kind: Any, presence: Any, interrupts: Any, interrupt: Any, zero: Any,
          form: Any) -> None:
    """Do a share of every product of this kind, until there is none for a while, or other work waits."""
    seen, since = 0, ticks()
    while load(interrupts, 0) == interrupt and ticks() - since < PATIENCE:
        ticket = load(words, _OPEN)
        if ticket == 0 or ticket == seen:
            pause()
            continue
        seen, stays = ticket, True
        add(words, _INSIDE, 1)
        if load(words, _OPEN) == ticket:    # otherwise who leads may not have seen that we are inside
            stays = words[_WHAT + 10] == kind
            if stays:
                _share(words, me, zero, form)
        add(words, _INSIDE, -1)
        if not stays:
            break
        since = ticks()
    store(words, presence, 0)
