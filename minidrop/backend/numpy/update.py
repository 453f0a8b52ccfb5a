"""Updates of the weights on the CPU: one pass over memory, with gradients in compact form."""

from typing import Any

import numpy as np

from minidrop.kernels import threads


class Updates:
    """Overrides of backend/generic/update.py."""

    def sgd_update(self, W: np.ndarray, history: np.ndarray, blocks: Any, lr: Any, momentum: Any, decay: Any,
                   l1: bool, grad_scale: Any) -> None:
        W, history = _matrix(W), _matrix(history)
        if not momentum and not decay and W.ndim in (1, 2) and W.flags.c_contiguous and W.dtype.kind == "f":
            self._descend(W, blocks, W.dtype.type(lr) * W.dtype.type(grad_scale))
            return
        places = self._partition(W, blocks)
        if places is None:
            super().sgd_update(W, history, blocks, lr, momentum, decay, l1, grad_scale)
            return
        from minidrop.kernels import cpu_update
        if W.ndim == 1:
            W, history = W[None], history[None]
        number = W.dtype.type
        for rows, *gradient in places:
            threads.by_rows(cpu_update.sgd_update, rows.size, rows.size * W.shape[1], W, history, rows,
                            *gradient, number(lr), number(momentum), number(decay), bool(l1),
                            number(grad_scale))

    def rule_update(self, W: np.ndarray, history: Any, blocks: Any, rule: Any, numbers: Any, decay: Any,
                    l1: bool, grad_scale: Any) -> None:
        W, history = _matrix(W), [_matrix(array) for array in history]
        places = self._partition(W, blocks) if len(history) in (1, 2) and rule.compiled else None
        if places is None:
            super().rule_update(W, history, blocks, rule, numbers, decay, l1, grad_scale)
            return
        from minidrop.kernels import cpu_update
        if W.ndim == 1:
            W, history = W[None], [array[None] for array in history]
        number, kernel = W.dtype.type, cpu_update.update_kernel(rule.formula, len(history))
        numbers = tuple(number(one) for one in numbers)
        for rows, *gradient in places:
            threads.by_rows(kernel, rows.size, 2 * rows.size * W.shape[1], W, history[0], history[-1], rows,
                            *gradient, numbers, number(decay), bool(l1), number(grad_scale))

    def _partition(self, W, blocks):
        """Return `_places` of blocks, or of their sum if they share rows; None if no kernel fits."""
        if not (blocks and W.ndim in (1, 2) and W.flags.c_contiguous and W.dtype.kind == "f"):
            return None
        places = _places([(_matrix(block.data), block.rows, block.cols) for block in blocks], W.shape)
        if places is None:
            total = self.zeros(W.shape, W.dtype)
            for block in blocks:
                block.add_to(self, total, 1)
            places = _places([(total, None, None)], W.shape)
        return places

    def _descend(self, W, blocks, rate):
        """W -= rate * gradient."""
        from minidrop.kernels import cpu_update
        for block in blocks:
            rows, cols = block.rows, block.cols
            g = block.data.reshape(W.shape) if rows is None and cols is None else block.data
            w = W
            if W.ndim == 1:       # a matrix of one row
                w, g, rows, cols = W[None], g[None], None, rows if cols is None else cols
            every = [np.arange(n) if kept is None else kept.indices
                     for kept, n in zip((rows, cols), w.shape, strict=True)]
            threads.by_rows(cpu_update.subtract_block, len(g), g.size, w, *every, g, rate)


def _matrix(x):
    """Return x as a matrix view with axis 0 as rows if it has more than two axes."""
    return x.reshape(x.shape[0], -1) if x.ndim > 2 and x.size and x.flags.c_contiguous else x


def _places(blocks, shape):
    """Return (rows, g, row_of, cols) for each block (g, rows, cols); None if blocks share a row.

    Together they have each row of W once. W[rows[i]] has row row_of[i] of g, in the columns cols, or no
    gradient (-1). A bias is a matrix of one row, and its kept set that of the columns.
    """
    if len(shape) == 1:
        shape, blocks = (1, *shape), [(g[None], None, rows) for g, rows, _ in blocks]
    every = np.arange(shape[0])
    row_of = np.full(shape[0], -1)
    places = []
    for g, rows, cols in blocks:
        index = slice(None) if rows is None else rows.index
        if len(blocks) > 1 and (row_of[index] >= 0).any():
            return None
        row_of[index] = every[:len(g)]
        places.append((every if rows is None else rows.indices, g, every[:len(g)],
                       np.arange(shape[1]) if cols is None else cols.indices))
    if len(blocks) == 1:
        return [(every, g, row_of, places[0][3])]
    rest = np.flatnonzero(row_of < 0)
    if rest.size:
        indices, g, own, cols = places[0]
        places[0] = np.concatenate([indices, rest]), g, np.concatenate([own, np.full(rest.size, -1)]), cols
    return places
