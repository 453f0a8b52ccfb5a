"""Update rules on a CUDA device: one pass over memory, also for compact gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.backend.cuda.launches import KernelLaunches, is_real
from minidrop.backend.cuda.table_kept import TableKept
from minidrop.kept import Kept
from minidrop.kernels import cuda, grids
from minidrop.kernels.formulas import MOST_NUMBERS, in_c


class CudaUpdates(KernelLaunches):
    """Overrides the updates that have a kernel, and the sum of squares."""

    def sgd_update(self, W: np.ndarray, history: np.ndarray, blocks: list, lr: float, momentum: float,
                   decay: float, l1: bool, grad_scale: float) -> None:
        if not _in_one_pass(W, [history], blocks):
            super().sgd_update(W, history, blocks, lr, momentum, decay, l1, grad_scale)
            return
        rate = {"lr": lr, "grad_scale": grad_scale, "trouble": self.trouble}
        if not momentum and not decay:
            for block in blocks:
                w, g, axes = self._block(W, block.rows, block.cols, block.data)
                self._run(cuda.subtract_block, W=w, g=g, **axes, **rate)
            return
        self._update(cuda.sgd_update, cuda.sgd_update_rows, {}, {"W": W, "history": history}, blocks,
                     {**rate, "momentum": momentum, "decay": decay, "l1": l1})

    def rule_update(self, W: np.ndarray, history: list, blocks: list, rule: Any, numbers: tuple, decay: float,
                    l1: bool, grad_scale: float) -> None:
        formula = in_c(rule.formula, len(history), len(numbers)) if rule.compiled else None
        if formula is None or not _in_one_pass(W, history, blocks):
            super().rule_update(W, history, blocks, rule, numbers, decay, l1, grad_scale)
            return
        given = dict.fromkeys((f"n{i}" for i in range(MOST_NUMBERS)), 0.0)
        given |= {f"n{i}": number for i, number in enumerate(numbers)}
        arrays = {"W": W, "a": history[0], "b": history[1] if len(history) > 1 else None}
        self._update(cuda.rule_update, cuda.rule_update_rows, {"FORMULA": formula}, arrays, blocks,
                     {**given, "grad_scale": grad_scale, "decay": decay, "l1": l1, "trouble": self.trouble})

    def _update(self, whole, by_rows, macros, arrays, blocks, step):
        """Launch `whole`, or `by_rows` for each block that has rows of its own; what shares rows is added."""
        W = arrays["W"]
        shape = (1, W.size) if W.ndim == 1 else (len(W), W.size // max(1, len(W)))
        parts = [_of_matrix(block, W) for block in blocks]
        arrays = {name: None if x is None else x.reshape(shape) for name, x in arrays.items()}
        known = len(parts) > 1 and not any(isinstance(rows, TableKept) for _, rows, _ in parts)
        rest = self.tables.rest(tuple(rows for _, rows, _ in parts), shape[0]) if known else None
        if len(parts) > 1 and rest is None:
            total = self.zeros(shape, W.dtype)
            for g, rows, cols in parts:
                self.add_block(total, rows, cols, g)
            parts = [(total, None, None)]
        if len(parts) == 1 and parts[0][0].size:
            g, rows, cols = parts[0]
            g = g.reshape(shape[0] if rows is None else rows.count, shape[1] if cols is None else cols.count)
            self._run(whole, macros, **arrays, g=self._rows(g, g.shape),
                      rows=self.tables.places(rows, shape[0]), cols=self.tables.places(cols, shape[1]),
                      **step)
            return
        if len(parts) < 2:
            parts, rest = [], Kept.all(shape[0])
        # What lacks a gradient moves on all the same: its block is None.
        done = [(g, rows, cols) if g.size else (None, rows, None) for g, rows, cols in parts]
        for g, rows, cols in (*done, *([(None, rest, None)] if rest.count else [])):
            self._run(by_rows, macros, **arrays, g=None if g is None else self._rows(g, g.shape),
                      rows=self.tables.axis(rows, shape[0]), cols=self.tables.places(cols, shape[1]), **step)

    def keep_if_well(self, target: Any, new: Any) -> None:
        if self.trouble is None:
            super().keep_if_well(target, new)
        else:
            self.xp.copyto(target, new, where=self.trouble == 0)

    def squares(self, *arrays: np.ndarray) -> Any:
        filled = [x for x in arrays if x.size]
        if not filled or not all(map(is_real, filled)):
            return super().squares(*filled)
        blocks = [grids.partial_sums(x.size) for x in filled]
        sums, total, first = self.empty((sum(blocks),), np.float64), self.empty((1,), np.float64), 0
        for x, count in zip(filled, blocks, strict=True):
            self._run(cuda.sum_of_squares, x=self._flat(x), out=sums[first:first + count])
            first += count
        self._run(cuda.add_up, x=sums, out=total)
        return total.reshape(())


def _in_one_pass(W, history, blocks):
    """Whether kernels can read and write these arrays where they are."""
    return (is_real(W) and W.ndim > 0 and all(x.flags.c_contiguous for x in (W, *history))
            and all(block.data.dtype == W.dtype for block in blocks))


def _of_matrix(block, W):
    """Return (g, rows, cols) of a block for W as a matrix; a vector is a single row."""
    if W.ndim == 1:
        return block.data.reshape(1, -1), None, block.rows if block.cols is None else block.cols
    return block.data, block.rows, block.cols
