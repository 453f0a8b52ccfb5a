"""Numba loops that apply an update rule in one pass over memory. Reference: backend/generic/update.py.

The gradient may be compact: W[rows[i]] has row row_of[i] of g (-1: no gradient), whose column j belongs to
column cols[j] of W. It is scattered into one row at a time, never as a whole.
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
def sgd_update(W: Any, history: Any, rows: Any, g: Any, row_of: Any, cols: Any, lr: Any, momentum: Any,
               decay: Any, l1: Any, grad_scale: Any, first: Any, last: Any) -> None:
    """history = momentum * history + lr * (grad_scale * gW + decay * R(W));  W -= history.

    For rows[first:last]; R(W) = W (L2) or sign(W) (L1).
    """
    columns = W.shape[1]
    all_columns = cols.size == columns
    dense_row = np.zeros(columns, W.dtype)
    no_gradient = np.zeros(columns, W.dtype)
    l1_decay = lr * decay if l1 else W.dtype.type(0)
    l2_decay = W.dtype.type(0) if l1 else lr * decay
    rate = lr * grad_scale
    for i in range(first, last):
        w, h = W[rows[i]], history[rows[i]]
        row = row_of[i]
        if row >= 0:
            if all_columns:
                gradient = g[row]
            else:
                for j in range(cols.size):
                    dense_row[cols[j]] = g[row, j]
                gradient = dense_row
        else:
            gradient = no_gradient
        if l1:
            for j in range(columns):
                new = momentum * h[j] + (rate * gradient[j] + l1_decay * np.sign(w[j]))
                h[j] = new
                w[j] -= new
        else:
            for j in range(columns):
                new = momentum * h[j] + (rate * gradient[j] + l2_decay * w[j])
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
def regularised(w: Any, g: Any, row: Any, cols: Any, decay: Any, l1: Any, grad_scale: Any, out: Any) -> None:
    """out = grad_scale * (row `row` of g, or zeros) + decay * R(w)."""
    if row < 0:
        out[:] = 0
    elif cols.size == out.size:
        for j in range(out.size):
            out[j] = g[row, j] * grad_scale
    else:
        # Clear all columns first: those not in `cols` may hold values of the previous row.
        out[:] = 0
        for j in range(cols.size):
            out[cols[j]] = g[row, j] * grad_scale
    if decay != 0:
        if l1:
            for j in range(out.size):
                out[j] += np.sign(w[j]) * decay
        else:
            for j in range(out.size):
                out[j] += w[j] * decay


step = None     # the compiled formula: each copy of the two loops below has a global of this name


def _one(W, a, _, rows, g, row_of, cols, numbers, decay, l1, grad_scale, first, last):
    gradient = np.empty(W.shape[1], W.dtype)
    for i in range(first, last):
        w, h = W[rows[i]], a[rows[i]]
        regularised(w, g, row_of[i], cols, decay, l1, grad_scale, gradient)
        for j in range(w.size):
            w[j], h[j] = step(w[j], gradient[j], h[j], *numbers)


def _two(W, a, b, rows, g, row_of, cols, numbers, decay, l1, grad_scale, first, last):
    gradient = np.empty(W.shape[1], W.dtype)
    for i in range(first, last):
        w, h, k = W[rows[i]], a[rows[i]], b[rows[i]]
        regularised(w, g, row_of[i], cols, decay, l1, grad_scale, gradient)
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
    return jit(loop) if whole else numba.njit(nogil=True, error_model="numpy")(loop)


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
