"""Tiles of attention: some queries by some keys of pairs of a sample and a head, all of a pair in one call.

A pair's products are too small for BLAS calls of their own, and between them a second thread would wait for
the interpreter. Here a thread computes all products of a pair by blocks that stay in registers, see
`vectors.add_products`, and the exponentials in between while the scores lie in the L1 cache. Every number is
one sum in the order of its terms, whoever computes it.

q, k, v, y and their gradients are Views: (address, bytes from pair to pair, and from row to row, rows,
columns), whose rows are contiguous, so that a loop is compiled once for all of them. Numerators (pairs,
queries, keys) are filled up to whole blocks. zero and form: see `add_products`; the columns of a block are a
multiple of its rows, and of _LANES. Query i reads the first reads + i keys; the numerator of others is 0.
References: backend/generic/attention.py.
"""

import math
from typing import Any

import numba
import numpy as np

from minidrop.kernels.cpu import jit
from minidrop.kernels.cpu_gates import LEAST, exponential
from minidrop.kernels.vectors import add_products, pointer, transpose_square

_ZERO = np.float32(0)


@jit
def _whole(count: Any, block: Any) -> Any:
    """Return `count`, 0 if it is negative, rounded up to a multiple of `block`."""
    return (max(0, count) + block - 1) // block * block


@jit
def _row(x: Any, pair: Any, i: Any, zero: Any) -> Any:
    """Return row i of a pair's matrix in a View as an array."""
    return numba.carray(pointer(x[0] + pair * x[1] + i * x[2], zero), (x[4],))


@jit
def _panels_of_rows(x: Any, pair: Any, panels: Any, zero: Any) -> None:
    """panels[p, i, c] = x[i, p columns + c], 0 beyond x."""
    columns = panels.shape[2]
    for i in range(x[3]):
        row = _row(x, pair, i, zero)
        for p in range(panels.shape[0]):
            part, to = row[p * columns:(p + 1) * columns], panels[p, i]
            for c in range(part.size):
                to[c] = part[c]
            for c in range(part.size, columns):
                to[c] = 0


@jit
def _panels_of_columns(x: Any, pair: Any, panels: Any, zero: Any, lanes: Any) -> None:
    """panels[p, k, c] = x[p columns + c, k], 0 beyond x: whole squares of numbers, then what is left."""
    step, size, columns = len(lanes), panels.itemsize, panels.shape[2]
    rows, depth = x[3], x[4]
    for p in range(panels.shape[0]):
        panel = panels[p]
        for c in range(0, columns, step):
            first = p * columns + c
            there = max(0, min(step, rows - first))
            square = depth // step * step if there == step else 0
            for k in range(0, square, step):
                transpose_square(x[0] + pair * x[1] + first * x[2] + k * size, x[2] // size,
                                 panel.ctypes.data + (k * columns + c) * size, columns, zero, lanes)
            for j in range(there):
                row = _row(x, pair, first + j, zero)
                for k in range(square, depth):
                    panel[k, c + j] = row[k]
            for k in range(square, depth):
                panel[k, c + there:c + step] = 0


@jit
def _scores(q: Any, panels: Any, reads: Any, queries: Any, keys: Any, out: Any, zero: Any, form: Any) -> None:
    """out = q k^T, as far as any query of a block reads; q is filled up to whole blocks."""
    height, width, size, depth = len(form[0]), panels.shape[2], q.itemsize, q.shape[1]
    stride = out.shape[1]
    for i in range(0, queries, height):
        for p in range(_whole(min(keys, reads + i + height - 1), width) // width):
            add_products(q.ctypes.data + i * depth * size, depth, 1,
                         panels.ctypes.data + p * depth * width * size,
                         out.ctypes.data + (i * stride + p * width) * size, stride, depth,
                         panels.ctypes.data, 0, zero, form)


@jit
def _largest(row: Any, most: Any, lanes: Any) -> Any:
    """Return the largest of `most` and the entries of a row, as many as whole vectors; a NaN is none."""
    lanes[:] = most
    for start in range(0, row.size, lanes.size):
        part = row[start:start + lanes.size]
        for k in range(lanes.size):
            lanes[k] = part[k] if part[k] > lanes[k] else lanes[k]
    half = lanes.size // 2
    while half:
        for k in range(half):
            lanes[k] = lanes[k + half] if lanes[k + half] > lanes[k] else lanes[k]
        half //= 2
    return lanes[0]


@jit
def _sum(row: Any, lanes: Any) -> Any:
    """Return the sum of a row, as many entries as whole vectors."""
    lanes[:] = 0
    for start in range(0, row.size, lanes.size):
        part = row[start:start + lanes.size]
        for k in range(lanes.size):
            lanes[k] += part[k]
    half = lanes.size // 2
    while half:
        for k in range(half):
            lanes[k] += lanes[k + half]
        half //= 2
    return lanes[0]


@jit
def _exponentials(e: Any, top: Any, queries: Any, keys: Any, reads: Any, lanes: Any) -> None:
    """e = exp(e - top) in each row, as far as its query reads; where top is -infinity it counts as 0."""
    for i in range(queries):
        shift = e.dtype.type(0) if top[i] == -np.inf else top[i]
        end = _whole(min(keys, reads + i), lanes.size)
        part = e[i, :end]
        if e.itemsize == 8:
            for k in range(end):
                part[k] = math.exp(part[k] - shift)
        else:
            for k in range(end):
                z = np.float32(part[k] - shift)
                power = exponential(-LEAST if z < -LEAST else z, _ZERO)
                part[k] = _ZERO if z < -LEAST else power
        e[i, end:] = 0


@jit
def _numerators(q: Any, k: Any, pair: Any, bias: Any, reads: Any, scale: Any, known: Any, top: Any,
                before: Any, e: Any, filled: Any, panels: Any, lanes: Any, zero: Any, form: Any) -> None:
    """e = exp(scale q k^T + bias - top) of a pair, top the largest score so far, `before` that until now.

    If it is `known`, top stays.
    """
    queries, keys = q[3], k[3]
    for i in range(queries):
        row, to = _row(q, pair, i, zero), filled[i]
        for j in range(row.size):
            to[j] = row[j] * scale
    _panels_of_columns(k, pair, panels, zero, form[2])
    _scores(filled, panels, reads, queries, keys, e, zero, form)
    for i in range(queries):
        seen = max(0, min(keys, reads + i))
        row = e[i, :_whole(seen, lanes.size)]
        if len(bias):
            own = bias[pair]
            for j in range(seen):
                row[j] += own[j]
        row[seen:] = -np.inf
        if not known:
            before[i], top[i] = top[i], _largest(row, top[i], lanes)
    _exponentials(e, top, queries, keys, reads, lanes)


@jit
def _masked(x: Any, keep: Any, out: Any) -> None:
    for i in range(len(keep)):
        row, own, to = x[i], keep[i], out[i]
        for j in range(own.size):
            to[j] = row[j] * own[j]


@jit
def _products(a: Any, rows: Any, reads: Any, turned: Any, panels: Any, block: Any, out: Any, pair: Any,
              adds: Any, zero: Any, form: Any) -> None:
    """out = a x, or a^T x if `turned`, for x in panels; or it is added. What nothing reads is left out."""
    height, width, size, stride = block.shape[0], block.shape[1], a.itemsize, a.shape[1]
    depth = panels.shape[1]
    for i in range(0, rows, height):
        if turned:      # from the first query on that reads any of these keys
            begin, end = max(0, i - reads + 1), depth
            place, row, step = begin * stride + i, 1, stride
        else:
            begin, end = 0, min(depth, reads + i + height - 1)
            place, row, step = i * stride, stride, 1
        for p in range(panels.shape[0]):
            if begin < end:
                add_products(a.ctypes.data + place * size, row, step,
                             panels.ctypes.data + (p * depth + begin) * width * size, block.ctypes.data,
                             width, end - begin, panels.ctypes.data, 0, zero, form)
            else:
                block[:] = 0
            for r in range(min(height, rows - i)):
                to, own = _row(out, pair, i + r, zero)[p * width:(p + 1) * width], block[r]
                if adds:
                    for c in range(to.size):
                        to[c] += own[c]
                else:
                    for c in range(to.size):
                        to[c] = own[c]


@jit
def attend(q: Any, k: Any, v: Any, bias: Any, reads: Any, keep: Any, scale: Any, share: Any, top: Any,
           total: Any, y: Any, starts: Any, ends: Any, stored: Any, filled_shape: Any, zero: Any, form: Any,
           first: Any, last: Any) -> None:
    """See the reference: pairs first .. last - 1 of a tile.

    bias (pairs, keys), keep (pairs, queries, keys), stored (pairs, *filled_shape), where the numerators go:
    without entries for none.
    """
    queries, keys, one = q[3], k[3], zero + 1
    no = keys < 0       # for a constant, what is called would be compiled once more
    height, width, lanes = len(form[0]), len(form[1]) * len(form[2]), np.empty(len(form[2]), bias.dtype)
    filled = np.zeros((filled_shape[0], q[4]), bias.dtype)
    panels = np.empty((filled_shape[1] // width, q[4], width), bias.dtype)
    values = np.empty((_whole(v[4], width) // width, keys, width), bias.dtype)
    scratch = np.empty((0, 0) if len(stored) else filled_shape, bias.dtype)
    kept = np.zeros(filled_shape if len(keep) else (0, 0), bias.dtype)
    before, block = np.empty(queries, bias.dtype), np.empty((height, width), bias.dtype)
    for pair in range(first, last):
        e, largest, sums = stored[pair] if len(stored) else scratch, top[pair], total[pair]
        if starts:
            largest[:] = -np.inf
        _numerators(q, k, pair, bias, reads, scale, no, largest, before, e, filled, panels, lanes, zero,
                    form)
        for i in range(queries):
            here = _sum(e[i, :_whole(min(keys, reads + i), lanes.size)], lanes)
            if not starts:
                shift = zero if largest[i] == -np.inf else largest[i]
                less = bias.dtype.type(math.exp(before[i] - shift))
                here += sums[i] * less
                row = _row(y, pair, i, zero)
                for c in range(row.size):
                    row[c] *= less
            sums[i] = here
        if len(keep):
            _masked(e, keep[pair], kept)
            e = kept
        _panels_of_rows(v, pair, values, zero)
        _products(e, queries, reads, no, values, block, y, pair, not starts, zero, form)
        if ends:
            for i in range(queries):
                sums[i] = one / (sums[i] if sums[i] != zero else one)
                row, factor = _row(y, pair, i, zero), sums[i] * share
                for c in range(row.size):
                    row[c] *= factor


@jit
def attend_gradient(q: Any, k: Any, v: Any, bias: Any, reads: Any, keep: Any, scale: Any, share: Any,
                    top: Any, factor: Any, y: Any, gy: Any, stored: Any, filled_shape: Any, gq: Any, gk: Any,
                    gv: Any, adds: Any, zero: Any, form: Any, first: Any, last: Any) -> None:
    """See the reference: pairs first .. last - 1 of a tile. adds: to gq, and to gk and gv."""
    queries, keys = q[3], k[3]
    no, yes = keys < 0, keys >= 0       # see `attend`
    height, width, lanes = len(form[0]), len(form[1]) * len(form[2]), np.empty(len(form[2]), bias.dtype)
    count = filled_shape[1] // width
    filled = np.zeros((0 if len(stored) else filled_shape[0], q[4]), bias.dtype)
    scratch = np.empty((0, 0) if len(stored) else filled_shape, bias.dtype)
    k_turned = np.empty((0 if len(stored) else count, q[4], width), bias.dtype)
    g = np.zeros((filled_shape[0], v[4]), bias.dtype)
    panels, scores = np.empty((count, v[4], width), bias.dtype), np.empty(filled_shape, bias.dtype)
    of_g = np.empty((_whole(v[4], width) // width, queries, width), bias.dtype)
    of_k = np.empty((_whole(q[4], width) // width, keys, width), bias.dtype)
    of_q = np.empty((of_k.shape[0], queries, width), bias.dtype)
    d, block = np.empty(queries, bias.dtype), np.empty((height, width), bias.dtype)
    for pair in range(first, last):
        e = stored[pair] if len(stored) else scratch
        if not len(stored):
            _numerators(q, k, pair, bias, reads, scale, yes, top[pair], d, e, filled, k_turned, lanes, zero,
                        form)
        for i in range(queries):
            row, result, to = _row(gy, pair, i, zero), _row(y, pair, i, zero), g[i]
            slope = factor[pair, i]
            for c in range(row.size):
                to[c] = row[c] * (slope * share)
            lanes[:] = 0
            for start in range(0, row.size, lanes.size):
                some, other = row[start:start + lanes.size], result[start:start + lanes.size]
                for c in range(some.size):
                    lanes[c] += some[c] * other[c]
            d[i] = lanes.sum() * slope
        _panels_of_columns(v, pair, panels, zero, form[2])
        _scores(g, panels, reads, queries, keys, scores, zero, form)
        for i in range(queries):
            seen = max(0, min(keys, reads + i))
            row, own, shift = scores[i], e[i], d[i]
            if len(keep):
                kept = keep[pair, i]
                for j in range(seen):
                    row[j] *= kept[j]
            for j in range(seen):
                row[j] = (row[j] - shift) * own[j] * scale
            row[seen:] = 0
        _panels_of_rows(k, pair, of_k, zero)
        _products(scores, queries, reads, no, of_k, block, gq, pair, adds[0], zero, form)
        _panels_of_rows(q, pair, of_q, zero)
        _products(scores, keys, reads, yes, of_q, block, gk, pair, adds[1], zero, form)
        if len(keep):
            _masked(e, keep[pair], e)
        _panels_of_rows((np.intp(g.ctypes.data), np.intp(0), g.strides[0], queries, v[4]), pair, of_g, zero)
        _products(e, keys, reads, yes, of_g, block, gv, pair, adds[1], zero, form)
