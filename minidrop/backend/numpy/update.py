"""Updates of the weights on the CPU: one pass over memory, with gradients in compact form."""

from functools import lru_cache
from typing import Any

import numpy as np

from minidrop.backend.generic.update import Updates as Generic
from minidrop.backend.numpy.late import LateProduct
from minidrop.kept import Kept
from minidrop.kernels import threads

_MOST_LATE = 4              # blocks: a tile of each is in the cache at once
_MOST_BLOCKS = 16           # beyond them a dense sum is written first


class Updates(Generic):
    """Overrides of backend/generic/update.py."""

    def sgd_update(self, W: np.ndarray, history: np.ndarray, blocks: Any, lr: Any, momentum: Any, decay: Any,
                   l1: bool, grad_scale: Any) -> None:
        W, history = _matrix(W), _matrix(history)
        if not momentum and not decay and W.ndim in (1, 2) and W.flags.c_contiguous and W.dtype.kind == "f":
            self._descend(W, blocks, W.dtype.type(lr) * W.dtype.type(grad_scale))
            return
        number = W.dtype.type
        numbers = number(lr), number(momentum), number(decay), bool(l1), number(grad_scale)
        if late := self._late(W, blocks):
            from minidrop.kernels import cpu_late
            first = blocks[0].late
            work = W.size + sum(block.size for block in blocks) * first.a.shape[1] // 8     # as in `array`
            threads.by_rows(cpu_late.sgd_update_late, len(W), work, W, history, *late, *numbers, first.zero,
                            first.form)
            return
        gradient = self._gradient(W, blocks)
        if gradient is None:
            super().sgd_update(W, history, blocks, lr, momentum, decay, l1, grad_scale)
            return
        from minidrop.kernels import cpu_update
        if W.ndim == 1:
            W, history = W[None], history[None]
        threads.by_rows(cpu_update.sgd_update, len(W), W.size, W, history, *gradient, *numbers)

    def rule_update(self, W: np.ndarray, history: Any, blocks: Any, rule: Any, numbers: Any, decay: Any,
                    l1: bool, grad_scale: Any) -> None:
        W, history = _matrix(W), [_matrix(array) for array in history]
        gradient = self._gradient(W, blocks) if len(history) in (1, 2) and rule.compiled else None
        if gradient is None:
            super().rule_update(W, history, blocks, rule, numbers, decay, l1, grad_scale)
            return
        from minidrop.kernels import cpu_update
        if W.ndim == 1:
            W, history = W[None], [array[None] for array in history]
        number, kernel = W.dtype.type, cpu_update.update_kernel(rule.formula, len(history))
        threads.by_rows(kernel, len(W), 4 * W.size, W, history[0], history[-1], *gradient,
                        tuple(number(one) for one in numbers), number(decay), bool(l1), number(grad_scale))

    def norm_parts(self, W: np.ndarray, blocks: Any) -> list:
        W = _matrix(W)
        gradient = self._gradient(W, blocks) if W.ndim == 2 else None
        if gradient is None:
            return super().norm_parts(W, blocks)
        from minidrop.kernels import cpu_update
        norms = np.empty(len(W))
        threads.by_rows(cpu_update.row_norms, len(W), W.size, norms, W.shape[1], *gradient)
        return [norms]

    def _late(self, W, blocks):
        """Return (a_s, b_s, row_ofs, begins, ends) for kernels/cpu_late.py; None if a block is not late."""
        late = [block.late for block in blocks]
        if not (0 < len(late) <= _MOST_LATE and W.ndim == 2 and W.flags.c_contiguous
                and all(isinstance(one, LateProduct) and one.dtype == W.dtype for one in late)):
            return None
        rows, columns = W.shape
        parts = [(one.a, one.b, _all(rows) if block.rows is None else block.rows.places,
                  *(_whole(columns) if block.cols is None else block.cols.run_ends))
                 for one, block in zip(late, blocks, strict=True)]
        missing = (1 << (len(parts) - 1).bit_length()) - len(parts)     # as in `_columnwise`
        parts += [(*parts[0][:2], _none(rows), *parts[0][3:])] * missing
        return tuple(zip(*parts, strict=True))

    def _gradient(self, W, blocks):
        """Return (gs, row_ofs, cols) for the kernels, see kernels/cpu_update.py; None if none fits."""
        if not (blocks and W.ndim in (1, 2) and W.flags.c_contiguous and W.dtype.kind == "f"):
            return None
        parts = [(_matrix(block.data), block.rows, block.cols) for block in blocks]
        if len(parts) > _MOST_BLOCKS:
            total = self.zeros(W.shape, W.dtype)
            for block in blocks:
                block.add_to(self, total, 1)
            parts = [(total, None, None)]
        if W.ndim == 1:         # a matrix of one row, of which a kept set is the columns
            parts = [(g.reshape(1, -1), None, rows if cols is None else cols) for g, rows, cols in parts]
        rows, columns = W.shape if W.ndim == 2 else (1, W.size)
        return _columnwise([(g if g.flags.carray and g.dtype == W.dtype else np.require(g, W.dtype, "CW"),
                             _all(rows) if kept is None else kept.places,
                             _all(columns) if cols is None else cols.indices) for g, kept, cols in parts])

    def _descend(self, W, blocks, rate):
        """W -= rate * gradient."""
        from minidrop.kernels import cpu_update
        for block in blocks:
            rows, cols = block.rows, block.cols
            g = block.data.reshape(W.shape) if rows is None and cols is None else block.data
            w = W
            if W.ndim == 1:       # a matrix of one row
                w, g, rows, cols = W[None], g[None], None, rows if cols is None else cols
            every = [_all(n) if kept is None else kept.indices
                     for kept, n in zip((rows, cols), w.shape, strict=True)]
            threads.by_rows(cpu_update.subtract_block, len(g), g.size, w, *every, g, rate)


def _matrix(x):
    """Return x as a matrix view with axis 0 as rows if it has more than two axes."""
    return x.reshape(x.shape[0], -1) if x.ndim > 2 and x.size and x.flags.c_contiguous else x


@lru_cache(maxsize=64)
def _all(count):
    """Return 0 .. count - 1, read-only as the arrays of a Kept are: one type for compiled loops."""
    every = np.arange(count)
    every.flags.writeable = False
    return every


@lru_cache(maxsize=64)
def _whole(count):
    """Return the `run_ends` of all of an axis."""
    return Kept.all(count).run_ends


def _columnwise(parts):
    """Return three tuples from [(g, row_of, cols)]; 1, 2, 4, 8 or 16 long, so that few loops are compiled.

    What fills them up has no row.
    """
    missing = (1 << (len(parts) - 1).bit_length()) - len(parts)
    if missing:
        g, places, cols = parts[0]
        parts = [*parts, *[(g[:0], _none(len(places)), cols)] * missing]
    return tuple(zip(*parts, strict=True))


@lru_cache(maxsize=64)
def _none(count):
    """Return the `places` of rows of which a block has none."""
    return Kept.of([], count).places
