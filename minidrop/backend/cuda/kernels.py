"""The methods of a backend that run the CUDA kernels of minidrop/kernels.

Shared by every backend that has a device for them. Arrays of dtypes other than float32 and float64 use the
generic methods. Arrays that cannot be read row by row are copied first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend.cuda.convolution import CudaConvolutions
from minidrop.backend.cuda.launches import is_real, is_straight
from minidrop.backend.cuda.pooling import CudaPooling
from minidrop.backend.cuda.redrawn_mask import RedrawnMask
from minidrop.backend.cuda.table_kept import TableKept
from minidrop.backend.cuda.updates import CudaUpdates
from minidrop.backend.generic import dropout_threshold
from minidrop.kept import Kept
from minidrop.kernels import cuda
from minidrop.kernels.loader import OPERANDS, REALS, AxisValue

if TYPE_CHECKING:
    from minidrop.backend.cuda.cublas import Matrix


class CupyKernels(CudaConvolutions, CudaPooling, CudaUpdates):
    """Overrides the generic methods that have a kernel."""

    # -- kept sets -------------------------------------------------------------------------------------------
    def take(self, x: np.ndarray, kept: Kept | None, axis: int) -> np.ndarray:
        if kept is None or kept.is_all:
            return x
        axis %= x.ndim
        if not is_real(x) or axis == 0 and not kept.on_device and isinstance(kept.index, slice):
            return super().take(x, kept, axis)      # rows: a view, which products read in place
        form = _as_matrix(x.shape, kept, axis)
        if form is None:
            return super().take(x, kept, axis)
        shape, rows, cols = form
        out = self.empty(tuple(kept.count if i == axis else n for i, n in enumerate(x.shape)), x.dtype)
        flat = out.reshape(shape[0] if rows is None else rows.count, shape[1] if cols is None else cols.count)
        self._run(cuda.take_block, W=self._rows(x, shape), rows=self.tables.axis(rows, shape[0]),
                  cols=self.tables.axis(cols, shape[1]), out=flat)
        return out

    def put(self, x: np.ndarray, kept: Kept | None, axis: int) -> np.ndarray:
        if kept is None:
            return x
        axis %= x.ndim
        shape = tuple(kept.total if i == axis else n for i, n in enumerate(x.shape))
        form = _as_matrix(shape, kept, axis) if is_real(x) else None
        if form is None:
            return super().put(x, kept, axis)
        (n, m), rows, cols = form
        out = self.empty(shape, x.dtype)
        if x.size == 0:
            out.fill(0)
            return out
        flat = (n if rows is None else rows.count, m if cols is None else cols.count)
        self._run(cuda.expand, x=self._rows(x, flat), rows=self.tables.places(rows, n),
                  cols=self.tables.places(cols, m), out=out.reshape(n, m))
        return out

    def put_columns(self, out: np.ndarray, kept: Kept | None, x: np.ndarray) -> None:
        if out.ndim != 2 or not is_real(out) or not is_straight(out) or x.dtype != out.dtype:
            super().put_columns(out, kept, x)
            return
        self._run(cuda.put_block, x=self._rows(x, x.shape), rows=self.tables.axis(None, len(out)),
                  cols=self.tables.axis(kept, out.shape[1]), out=out)

    def add_block(self, out: np.ndarray, rows: Kept | None, cols: Kept | None, x: np.ndarray) -> None:
        found = self._block(out, rows, cols, x)
        if found is None:
            super().add_block(out, rows, cols, x)
        else:
            out, x, axes = found
            self._run(cuda.add_block, x=x, out=out, factor=1, **axes)

    def submatrix(self, W: np.ndarray, rows: Kept | None, cols: Kept | None) -> np.ndarray:
        if cols is None or cols.is_all or not is_real(W):
            return self.take(self.take(W, rows, 0), cols, 1)
        out = self.empty((W.shape[0] if rows is None else rows.count, cols.count), W.dtype)
        self._run(cuda.take_block, W=self._rows(W, W.shape), rows=self.tables.axis(rows, W.shape[0]),
                  cols=self.tables.axis(cols, W.shape[1]), out=out)
        return out

    def round_block(self, W: np.ndarray, rows: Any, cols: Kept | None, factor: np.ndarray, kind: str,
                    out: np.ndarray) -> None:
        if W.dtype != np.float32 or not is_straight(out):
            super().round_block(W, rows, cols, factor, kind, out)
            return
        self._run(cuda.round_block, {"OPERAND": OPERANDS.index(kind)}, W=self._rows(W, W.shape),
                  rows=self.tables.axis(rows, W.shape[0]), cols=self.tables.axis(cols, W.shape[1]), out=out,
                  factor=factor)

    def lookup(self, W: np.ndarray, ids: np.ndarray, cols: Kept | None) -> np.ndarray:
        if not is_real(W):
            return super().lookup(W, ids, cols)
        out = self.empty((ids.size, W.shape[1] if cols is None else cols.count), W.dtype)
        self._run(cuda.take_block, W=self._rows(W, W.shape),
                  rows=AxisValue(ids.size, W.shape[0], 0, 1, 1, self.xp.ascontiguousarray(ids)),
                  cols=self.tables.axis(cols, W.shape[1]), out=out)
        return out

    def sum_groups(self, x: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
        if not is_real(x):
            return super().sum_groups(x, order, starts)
        out = self.empty((len(starts), x.shape[1]), x.dtype)
        if len(starts):
            self._run(cuda.sum_groups, x=self._rows(x, x.shape), order=self.asarray(order),
                      bounds=self.asarray(np.append(starts, len(order))), out=out)
        return out

    def table_gradient(self, x: np.ndarray, ids: np.ndarray,
                       rows: int) -> tuple[np.ndarray, Any]:
        if not (is_real(x) and ids.size):
            return super().table_gradient(x, ids, rows)
        ids, next_place = self.xp.ascontiguousarray(ids), self.empty(ids.shape, np.int32)
        places, g = self.empty((rows,), np.int32), self.empty(x.shape, x.dtype)
        places.fill(-1)
        self._run(cuda.link_places, ids=ids, places=places, next=next_place)
        self._run(cuda.sum_places, x=self._rows(x, x.shape), ids=ids, places=places, next=next_place, g=g)
        return g, TableKept(ids, places)

    def multiply_groups(self, x: Any, ends: list[int], factors: np.ndarray) -> Any:
        if not is_real(x) or not ends or not x.size:
            return super().multiply_groups(x, ends, factors)
        y = self.empty(x.shape, x.dtype)
        self._run(cuda.multiply_groups, x=self.xp.ascontiguousarray(x), factors=factors,
                  ends=self.tables.ends(ends), y=y)
        return y

    # -- activations, sums -----------------------------------------------------------------------------------
    def add_to_rows(self, y: np.ndarray, b: np.ndarray) -> None:
        if not is_real(y) or not is_straight(y) or b.dtype != y.dtype:
            super().add_to_rows(y, b)
            return
        self._run(cuda.activate, {"ACTIVATION": 0}, x=y, b=b, y=y, scale=1)

    def relu(self, x: Any) -> Any:
        return self.activate(x, None, "relu", 1)

    def activate(self, x: np.ndarray, b: Any, activation: str, scale: float,
                 out: np.ndarray | None = None) -> np.ndarray:
        if (not is_real(x) or b is not None and b.dtype != x.dtype
                or out is not None and not out.flags.c_contiguous):
            return super().activate(x, b, activation, scale, out)
        y = self.empty(x.shape, x.dtype) if out is None else out
        shape = (math.prod(x.shape[:-1]), x.shape[-1]) if x.ndim > 1 or b is not None else (1, x.size)
        self._run(cuda.activate, {"ACTIVATION": cuda.ACTIVATIONS.index(activation)}, x=self._rows(x, shape),
                  b=b, y=y.reshape(shape), scale=scale)
        return y

    def activate_gradient(self, gy: np.ndarray, y: np.ndarray, activation: str, scale: float) -> np.ndarray:
        if not is_real(gy) or y.dtype != gy.dtype:
            return super().activate_gradient(gy, y, activation, scale)
        gx = self.empty(gy.shape, gy.dtype)
        self._run(cuda.activate_gradient, {"ACTIVATION": cuda.ACTIVATIONS.index(activation)},
                  gy=self._flat(gy), y=self._flat(y), gx=gx.reshape(-1), scale=scale)
        return gx

    def column_sums(self, x: np.ndarray) -> np.ndarray:
        if not is_real(x) or x.ndim != 2 or not x.size:
            return super().column_sums(x)
        out = self.empty(x.shape[1:], x.dtype)
        self._run(cuda.column_sums, x=self._rows(x, x.shape), out=out)
        return out

    def transposed(self, W: np.ndarray) -> Any:
        if not is_real(W):
            return super().transposed(W)
        out = self.empty(W.shape[::-1], W.dtype)
        self._run(cuda.transpose, W=self._rows(W, W.shape), out=out)
        return out

    # -- loss ------------------------------------------------------------------------------------------------
    def cross_entropy(self, x: np.ndarray, label: np.ndarray, probability: np.ndarray,
                      smoothing: float = 0.0, weight: np.ndarray | None = None) -> np.ndarray:
        if not is_real(x) or smoothing:
            return super().cross_entropy(x, label, probability, smoothing, weight)
        logarithm = self.empty(x.shape[:1], x.dtype)
        self._run(cuda.cross_entropy, {"ROW_THREADS": _row_threads(x.shape[1])}, x=self._rows(x, x.shape),
                  label=label, p=probability, logarithm=logarithm, smallest=np.finfo(x.dtype).tiny)
        return logarithm if weight is None else logarithm * weight[label]

    def cross_entropy_gradient(self, probability: np.ndarray, label: np.ndarray, factor: Any,
                               smoothing: float = 0.0, weight: np.ndarray | None = None) -> None:
        if not is_real(probability) or smoothing:
            super().cross_entropy_gradient(probability, label, factor, smoothing, weight)
            return
        if weight is not None:
            factor = factor * weight[label][:, None]
        self._run(cuda.cross_entropy_gradient, {"ROW_THREADS": cuda.ROW_THREADS[0]}, p=probability,
                  label=label, factor=self._flat(factor), factor_step=int(factor.size > 1))

    # -- recurrent networks ----------------------------------------------------------------------------------
    def lstm_step(self, x: Any, product: np.ndarray, c_before: np.ndarray, cont: np.ndarray,
                  activated: np.ndarray, c: Matrix | np.ndarray, squashed: np.ndarray, h: np.ndarray) -> None:
        if not is_real(x):
            super().lstm_step(x, product, c_before, cont, activated, c, squashed, h)
            return
        self._run(cuda.lstm_step, x=self._rows(x, x.shape), product=self._rows(product, product.shape),
                  c_before=self.xp.ascontiguousarray(c_before), cont=self._flat(cont), activated=activated,
                  c=c, squashed=squashed, h=h)

    def lstm_step_gradient(self, activated: np.ndarray, squashed: np.ndarray, c_before: np.ndarray,
                           cont: np.ndarray, dh: np.ndarray, dc: np.ndarray, d: np.ndarray) -> None:
        if not is_real(dh):
            super().lstm_step_gradient(activated, squashed, c_before, cont, dh, dc, d)
            return
        self._run(cuda.lstm_step_gradient, activated=activated, squashed=squashed,
                  c_before=self.xp.ascontiguousarray(c_before), cont=self._flat(cont),
                  dh=self.xp.ascontiguousarray(dh), dc=dc, d=d)

    # -- dropout ---------------------------------------------------------------------------------------------
    def dropout(self, x: np.ndarray, rate: float, scale: float, key: int) -> Any:
        if not is_real(x):
            return super().dropout(x, rate, scale, key)
        return self._dropped(x, rate, scale, key), RedrawnMask(self, x.shape, x.dtype, rate, key)

    def dropout_gradient(self, gy: np.ndarray, mask: np.ndarray | RedrawnMask, scale: float) -> np.ndarray:
        if not isinstance(mask, RedrawnMask):
            return super().dropout_gradient(gy, mask, scale)
        return self._dropped(gy, mask.rate, scale, mask.key)

    def _dropped(self, x, rate, scale, key):
        """Return x * mask * scale with the mask drawn from (rate, key)."""
        y = self.empty(x.shape, x.dtype)
        self._run(cuda.dropout, x=self._flat(x), y=y.reshape(-1), key=key, threshold=dropout_threshold(rate),
                  scale=scale)
        return y

    def dropout_tile(self, shape: tuple[int, int, int], begin: int, strides: tuple[int, int], rate: float,
                     key: Any) -> np.ndarray:
        keep = self.empty(shape, np.bool_)
        self._run(cuda.dropout_tile, keep=keep.view(np.uint8), key=key, threshold=dropout_threshold(rate),
                  begin=begin, stride=strides[0], row_stride=strides[1])
        return keep

    def gaussian(self, shape: Any, dtype: Any, key: int) -> Any:
        if np.dtype(dtype).name not in REALS:
            return super().gaussian(shape, dtype, key)
        out = self.empty(shape, dtype)
        self._run(cuda.gaussian, out=out.reshape(-1), key=key)
        return out


def _row_threads(classes):
    return cuda.ROW_THREADS[classes > cuda.ROWS_OF_A_WARP]


def _as_matrix(shape, kept, axis):
    """Return the equivalent (shape, rows, cols) for a matrix; None if the set is not regular."""
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1:])
    if after == 1:
        return (before, shape[axis]), None, kept
    if before == 1:
        return (shape[axis], after), kept, None
    if kept.on_device:
        return (before, shape[axis] * after), None, kept.spread(after)
    if kept.regular is None:
        return None
    # Every entry of the axis is a run of `after` entries.
    return (before, shape[axis] * after), None, Kept(*(after * n for n in (*kept.regular, kept.total)))
