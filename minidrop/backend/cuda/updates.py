"""SGD on a CUDA device: one pass over memory, also for compact gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.backend.cuda.launches import KernelLaunches, is_real
from minidrop.backend.cuda.table_kept import TableKept
from minidrop.kept import Kept
from minidrop.kernels import cuda, grids


class CudaUpdates(KernelLaunches):
    """Overrides the updates that have a kernel, and the sum of squares."""

    def sgd_update(self, W: np.ndarray, history: np.ndarray, blocks: list, lr: float, momentum: float,
                   decay: float, l1: bool, grad_scale: float) -> None:
        if not (is_real(W) and W.ndim and W.flags.c_contiguous and history.flags.c_contiguous) \
                or any(block.data.dtype != W.dtype for block in blocks):
            super().sgd_update(W, history, blocks, lr, momentum, decay, l1, grad_scale)
            return
        rate = {"lr": lr, "grad_scale": grad_scale, "trouble": self.trouble}
        if not momentum and not decay:
            for block in blocks:
                w, g, axes = self._block(W, block.rows, block.cols, block.data)
                self._run(cuda.subtract_block, W=w, g=g, **axes, **rate)
            return
        shape = (1, W.size) if W.ndim == 1 else (len(W), W.size // max(1, len(W)))
        step = {**rate, "momentum": momentum, "decay": decay, "l1": l1}
        parts = [_of_matrix(block, W) for block in blocks]
        W, history = W.reshape(shape), history.reshape(shape)
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
            self._run(cuda.sgd_update, W=W, history=history, g=self._rows(g, g.shape),
                      rows=self.tables.places(rows, shape[0]), cols=self.tables.places(cols, shape[1]),
                      **step)
            return
        if len(parts) < 2:
            parts, rest = [], Kept.all(shape[0])
        for g, rows, cols in parts:
            if g.size:
                self._update_rows(W, history, g, rows, cols, step)
            else:
                self._update_rows(W, history, None, rows, None, step)
        if rest.count:
            self._update_rows(W, history, None, rest, None, step)

    def _update_rows(self, W, history, g, rows, cols, step):
        self._run(cuda.sgd_update_rows, W=W, history=history, g=None if g is None else self._rows(g, g.shape),
                  rows=self.tables.axis(rows, W.shape[0]), cols=self.tables.places(cols, W.shape[1]), **step)

    def keep_if_well(self, target: Any, new: Any) -> None:
        if self.trouble is None:
            super().keep_if_well(target, new)
        else:
            self.xp.copyto(target, new, where=self.trouble == 0)

    def squares(self, *arrays: np.ndarray) -> Any:
        arrays = [x for x in arrays if x.size]
        if not arrays or not all(map(is_real, arrays)):
            return super().squares(*arrays)
        blocks = [grids.partial_sums(x.size) for x in arrays]
        sums, total, first = self.empty((sum(blocks),), np.float64), self.empty((1,), np.float64), 0
        for x, count in zip(arrays, blocks, strict=True):
            self._run(cuda.sum_of_squares, x=self._flat(x), out=sums[first:first + count])
            first += count
        self._run(cuda.add_up, x=sums, out=total)
        return total.reshape(())


def _of_matrix(block, W):
    """Return (g, rows, cols) of a block for W as a matrix; a vector is a single row."""
    if W.ndim == 1:
        return block.data.reshape(1, -1), None, block.rows if block.cols is None else block.cols
    return block.data, block.rows, block.cols
