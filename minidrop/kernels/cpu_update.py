"""Numba loops that apply an update rule in one pass over memory. Reference: backend/generic/update.py.

The gradient comes in compact blocks: row i of W has row row_ofs[b][i] of block gs[b] (-1: none), whose column
j belongs to column cols[b][j] of W. What several blocks have for one entry is added, in their order. Rows are
put together one at a time, so a dense gradient is never written.
"""

import hashlib
import inspect
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

import numba
import numpy as np

from minidrop.kernels.cpu import jit


@jit
def gradient_row(i: Any, gs: Any, row_ofs: Any, cols: Any, out: Any) -> Any:
    """Return row i of the gradient: of the one block that has all of it, else put together in `out`."""
    owners = 0
    owner = 0
    for b in range(len(gs)):
        if row_ofs[b][i] >= 0:
            owners += 1
            owner = b
    if owners == 1 and cols[owner].size == out.size:
        return gs[owner][row_ofs[owner][i]]
    out[:] = 0
    first = True
    for b in range(len(gs)):
        row = row_ofs[b][i]
        if row < 0:
            continue
        g, places = gs[b][row], cols[b]
        if first:               # stored, not added: 0 + -0.0 has another sign
            for j in range(places.size):
                out[places[j]] = g[j]
        else:
            for j in range(places.size):
                out[places[j]] += g[j]
        first = False
    return out


@jit
def row_norms(out: Any, columns: Any, gs: Any, row_ofs: Any, cols: Any, first: Any, last: Any) -> None:
    """out[i] = the norm of row i of the gradient, float64, for rows first .. last - 1."""
    room = np.empty(columns, gs[0].dtype)
    sums = np.empty(8)          # as many independent sums as the processor can keep going
    for i in range(first, last):
        gradient = gradient_row(i, gs, row_ofs, cols, room)
        sums[:] = 0
        whole = columns - columns % 8
        for j in range(0, whole, 8):
            for k in range(8):
                entry = np.float64(gradient[j + k])
                sums[k] += entry * entry
        for j in range(whole, columns):
            entry = np.float64(gradient[j])
            sums[0] += entry * entry
        out[i] = np.sqrt(sums.sum())


@jit
def sgd_update(W: Any, history: Any, gs: Any, row_ofs: Any, cols: Any, lr: Any, momentum: Any, decay: Any,
               l1: Any, grad_scale: Any, first: Any, last: Any) -> None:
    """history = momentum * history + lr * (grad_scale * gW + decay * R(W));  W -= history.

    For rows first .. last - 1; R(W) = W (L2) or sign(W) (L1).
    """
    room = np.empty(W.shape[1], W.dtype)
    for i in range(first, last):
        gradient = gradient_row(i, gs, row_ofs, cols, room)
        sgd_row(W[i], history[i], gradient, lr, momentum, decay, l1, grad_scale)


@jit
def sgd_row(w: Any, h: Any, gradient: Any, lr: Any, momentum: Any, decay: Any, l1: Any,
            grad_scale: Any) -> None:
    """`sgd_update` of one row."""
    rate, both = lr * grad_scale, lr * decay
    if l1:
        for j in range(w.size):
            new = momentum * h[j] + (rate * gradient[j] + both * np.sign(w[j]))
            h[j] = new
            w[j] -= new
    else:
        for j in range(w.size):
            new = momentum * h[j] + (rate * gradient[j] + both * w[j])
            h[j] = new
            w[j] -= new


@jit
def subtract_block(W: Any, rows: Any, cols: Any, g: Any, rate: Any, first: Any, last: Any) -> None:
    """W[rows[i], cols[j]] -= rate * g[i, j]."""
    all_columns = cols.size == W.shape[1]
    for i in range(first, last):
        w, gradient = W[rows[i]], g[i]
        if all_columns:
            for j in range(w.size):
                w[j] -= rate * gradient[j]
        else:
            for j in range(cols.size):
                w[cols[j]] -= rate * gradient[j]


@jit
def regularised(w: Any, g: Any, decay: Any, l1: Any, grad_scale: Any, out: Any) -> None:
    """out = grad_scale * g + decay * R(w); `out` may be g."""
    for j in range(out.size):
        out[j] = g[j] * grad_scale
    if decay != 0:
        if l1:
            for j in range(out.size):
                out[j] += np.sign(w[j]) * decay
        else:
            for j in range(out.size):
                out[j] += w[j] * decay


step = None     # the compiled formula: each copy of the two loops below has a global of this name


def _one(W, a, _, gs, row_ofs, cols, numbers, decay, l1, grad_scale, first, last):
    gradient = np.empty(W.shape[1], W.dtype)
    for i in range(first, last):
        w, h = W[i], a[i]
        regularised(w, gradient_row(i, gs, row_ofs, cols, gradient), decay, l1, grad_scale, gradient)
        for j in range(w.size):
            w[j], h[j] = step(w[j], gradient[j], h[j], *numbers)


def _two(W, a, b, gs, row_ofs, cols, numbers, decay, l1, grad_scale, first, last):
    gradient = np.empty(W.shape[1], W.dtype)
    for i in range(first, last):
        w, h, k = W[i], a[i], b[i]
        regularised(w, gradient_row(i, gs, row_ofs, cols, gradient), decay, l1, grad_scale, gradient)
        for j in range(w.size):
            w[j], h[j], k[j] = step(w[j], gradient[j], h[j], k[j], *numbers)


@lru_cache
def update_kernel(formula: Any, slots: Any) -> Any:
    """Return the loop of a rule with one or two history arrays, compiled on first use.

    formula: see UpdateRule; slots: the number of history arrays.
    """
    whole = is_whole(formula)
    if whole:       # the disk cache stores a module's name, and the formula's own may not exist next time
        formula = FunctionType(formula.__code__, formula.__globals__, formula.__name__, formula.__defaults__)
        formula.__module__ = __name__
    compiled = numba.njit(error_model="numpy")(formula)
    # A copy with a global of its own, not a closure: Numba's disk cache would not notice a changed closure.
    # The copy's name is part of the cache's file name, so it tells formulas apart.
    loop = FunctionType((_one if slots == 1 else _two).__code__, {**globals(), "step": compiled},
                        f"update_{slots}_{fingerprint(formula)}")
    loop.__qualname__, loop.__module__ = loop.__name__, __name__
    return jit(loop, whole)


def is_whole(formula: Any) -> Any:
    """Whether a formula depends on nothing but its code and modules, so that a cached kernel stays valid."""
    code = formula.__code__
    known = all(inspect.ismodule(formula.__globals__.get(name, np)) for name in code.co_names)
    return known and formula.__closure__ is None and not any(isinstance(c, CodeType) for c in code.co_consts)


def fingerprint(formula: Any) -> Any:
    """Return a short hash that differs between formulas that compute different things."""
    code = formula.__code__
    return hashlib.sha256(repr((code.co_code, code.co_consts, code.co_names, code.co_varnames,
                                code.co_argcount, formula.__defaults__)).encode()).hexdigest()[:16]
