"""Gathering what kept sets keep, and scattering it back, by Numba loops and straight copies."""

from __future__ import annotations

import math

import numpy as np

from minidrop.backend.generic import Backend
from minidrop.kept import Kept, KeptByGroup
from minidrop.kernels import threads

_LONG_RUN = 16              # neighbours; runs of 15 take half as long again as entry by entry, of 16 half


class KeptSets(Backend):
    """Gathers, scatters and sums by kept sets and by index."""

    def take(self, x: np.ndarray, kept: Kept | None, axis: int) -> np.ndarray:
        if kept is None or kept.is_all:
            return x
        if isinstance(kept.index, slice) and x.ndim == 1:
            return x[kept.index]
        if x.ndim == 2 and kept.runs is not None:
            return self._straight(x, *((kept, None) if axis % 2 == 0 else (None, kept)))
        if x.ndim == 2 and axis % 2 == 1 and x.flags.c_contiguous:
            from minidrop.kernels import cpu
            out = self.empty((x.shape[0], kept.count), x.dtype)
            if _has_long_runs(kept):
                threads.by_rows(cpu.take_runs, x.shape[0], 2 * out.size, x, None, *kept.run_ends, out)
            else:
                threads.by_rows(cpu.take_columns, x.shape[0], x.size, x, kept.indices, out)
            return out
        shape = list(x.shape)
        shape[axis] = kept.count
        out, indices = self.empty(tuple(shape), x.dtype), kept.indices
        # mode="clip" writes straight into `out`; the default mode copies through a buffer.
        if axis or x.ndim == 1 or not x.flags.c_contiguous:     # NumPy copies all of a strided x in each call
            return np.take(x, indices, axis=axis, out=out, mode="clip")

        def some(first, last):      # does not hold the GIL
            np.take(x, indices[first:last], axis=0, out=out[first:last], mode="clip")

        # As in `submatrix`: a gathered element costs about as much as two streamed ones.
        threads.by_rows(some, kept.count, 2 * out.size)
        return out

    def put_columns(self, out: np.ndarray, kept: Kept | None, x: np.ndarray) -> None:
        if kept is None or kept.is_all or isinstance(kept.index, slice):
            super().put_columns(out, kept, x)
            return
        from minidrop.kernels import cpu, cpu_kept
        if out.ndim == 3:
            if not _along_rows(cpu_kept.put_of_samples, out, x, kept, 2):
                super().put_columns(out, kept, x)
            return
        if _has_long_runs(kept):
            threads.by_rows(cpu.put_runs, x.shape[0], x.size, x, *kept.run_ends, out)
        else:
            threads.by_rows(cpu.put_columns, x.shape[0], x.size, x, kept.indices, out)

    def add_block(self, out: np.ndarray, rows: Kept | None, cols: Kept | None, x: np.ndarray) -> None:
        if cols is None or isinstance(cols.index, slice) or out.ndim != 2 or not (
                out.flags.c_contiguous and out.dtype == x.dtype):
            super().add_block(out, rows, cols, x)
            return
        from minidrop.kernels import cpu
        places = np.arange(len(out)) if rows is None else rows.indices
        threads.by_rows(cpu.add_block, len(x), 2 * x.size, out, places, cols.indices, x)

    def add_kept(self, whole: np.ndarray, x: np.ndarray, kept: Kept | KeptByGroup | None, axis: int,
                 activation: str = "none") -> np.ndarray:
        if kept is not None and whole.flags.c_contiguous and activation in ("none", "relu"):
            from minidrop.kernels import cpu_kept
            out = self.empty(whole.shape, whole.dtype)
            more = whole, activation == "relu"
            if (_along_rows(cpu_kept.add_to_samples, out, x, kept, axis, more)
                    or _along_channels(cpu_kept.add_to_channels, out, x, kept, axis, "places", more)):
                return out
        return super().add_kept(whole, x, kept, axis, activation)

    def compact(self, x: np.ndarray, kept: Kept | KeptByGroup | None, axis: int) -> np.ndarray:
        if kept is None or x.ndim < 3 and not isinstance(kept, KeptByGroup):
            return super().compact(x, kept, axis)
        from minidrop.kernels import cpu_kept
        even = not isinstance(kept, KeptByGroup) or kept.is_even
        shape = tuple(kept.count if i == axis % x.ndim else n for i, n in enumerate(x.shape))
        out = (self.empty if even else self.zeros)(shape, x.dtype)
        if (_along_rows(cpu_kept.take_of_samples, x, out, kept, axis)
                or _along_channels(cpu_kept.take_of_channels, x, out, kept, axis)):
            return out
        return super().compact(x, kept, axis)

    def expand(self, x: np.ndarray, kept: Kept | KeptByGroup | None, axis: int) -> np.ndarray:
        if kept is None:
            return x
        from minidrop.kernels import cpu_kept
        shape = tuple(kept.total if i == axis % x.ndim else n for i, n in enumerate(x.shape))
        if axis % x.ndim == x.ndim - 1:
            out = self.zeros(shape, x.dtype)
            if _along_rows(cpu_kept.put_of_samples, out, x, kept, axis):
                return out
        elif _along_channels(cpu_kept.put_of_channels, out := self.empty(shape, x.dtype), x, kept, axis,
                              "places"):
            return out
        return super().expand(x, kept, axis)

    def submatrix(self, W: np.ndarray, rows: Kept | None, cols: Kept | None) -> np.ndarray:
        rows = None if rows is not None and rows.is_all else rows
        cols = None if cols is not None and cols.is_all else cols
        if rows is None or cols is None or not W.flags.c_contiguous:
            return self.take(self.take(W, rows, 0), cols, 1)
        if rows.runs is not None and cols.runs is not None:
            return self._straight(W, rows, cols)
        from minidrop.kernels import cpu
        out = self.empty((rows.count, cols.count), W.dtype)
        if _has_long_runs(cols):
            threads.by_rows(cpu.take_runs, rows.count, 2 * out.size, W, rows.indices, *cols.run_ends, out)
            return out
        # W is usually in main memory: a gathered element costs about as much as two streamed ones.
        threads.by_rows(cpu.take_block, rows.count, 2 * rows.count * W.shape[1], W, rows.indices,
                        cols.indices, out)
        return out

    def lookup(self, W: np.ndarray, ids: np.ndarray, cols: Kept | None) -> np.ndarray:
        if cols is None or cols.is_all:
            # mode="clip" writes straight into `out`; see `take`.
            return np.take(W, ids, axis=0, out=self.empty((ids.size, W.shape[1]), W.dtype), mode="clip")
        from minidrop.kernels import cpu
        out = self.empty((ids.size, cols.count), W.dtype)
        threads.by_rows(cpu.take_block, ids.size, 2 * ids.size * W.shape[1], W, ids, cols.indices, out)
        return out

    def sum_groups(self, x: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
        from minidrop.kernels import cpu
        out = self.empty((starts.size, x.shape[1]), x.dtype)
        threads.by_rows(cpu.sum_groups, starts.size, x.size, x, order, np.append(starts, order.size), out)
        return out

    def _straight(self, W, rows, cols):
        """Return W[rows, cols], copied block by block; each side is None (all) or has one or two runs."""
        row_runs = (slice(0, W.shape[0]),) if rows is None else rows.runs
        col_runs = (slice(0, W.shape[1]),) if cols is None else cols.runs
        if cols is None and len(row_runs) == 1 and W.flags.c_contiguous:
            return W[row_runs[0]]
        # Copied into a contiguous array: NumPy's dot would copy a view of some columns as well.
        count = [W.shape[i] if kept is None else kept.count for i, kept in enumerate((rows, cols))]
        out = self.empty(tuple(count), W.dtype)
        i = 0
        for row_run in row_runs:
            j, i_end = 0, i + row_run.stop - row_run.start
            for col_run in col_runs:
                j_end = j + col_run.stop - col_run.start
                out[i:i_end, j:j_end] = W[row_run, col_run]
                j = j_end
            i = i_end
        return out


def _has_long_runs(kept):
    """Whether a set is better copied run by run than entry by entry."""
    return kept.regular is not None and kept.regular[2] >= _LONG_RUN


def _along_rows(loop, whole, part, kept, axis, more=()):
    """Run a loop of cpu_kept.py over the rows of two arrays, one of which lacks entries of its last axis.

    more: what the loop takes besides, arrays in the shape of `whole`.
    Returns False, and does nothing, if that is not the axis or the arrays are no rows.
    """
    # Of three axes the first two may be strided, as those of a group of streams are.
    straight = whole.ndim == 3 or whole.flags.c_contiguous and part.flags.c_contiguous
    if axis % whole.ndim + 1 != whole.ndim or whole.ndim < 2 or not straight or whole.dtype != part.dtype:
        return False
    samples, lead = whole.shape[-2], math.prod(whole.shape[:-2])
    parts = kept.parts(samples) if isinstance(kept, KeptByGroup) else [(0, samples, kept)]
    whole, part = (x.reshape(lead, samples, x.shape[-1]) for x in (whole, part))
    more = [x.reshape(whole.shape) if isinstance(x, np.ndarray) else x for x in more]
    for first, last, own in parts:
        rows = lead * (last - first)
        work = rows * (2 * own.count + whole.shape[-1] * bool(more))     # with more, all of `whole` is read
        threads.by_rows(loop, rows, work, whole, part, own.indices, first, last - first, *more)
    return True


def _along_channels(loop, whole, part, kept, axis, numbers="indices", more=()):
    """As `_along_rows`, where it is channels that one of two arrays (samples, channels, ...) lacks.

    numbers: the attribute of a Kept that the loop reads.
    """
    straight = whole.flags.c_contiguous and part.flags.c_contiguous
    if axis % whole.ndim != 1 or whole.ndim < 3 or not straight or whole.dtype != part.dtype:
        return False
    parts = kept.parts(len(whole)) if isinstance(kept, KeptByGroup) else [(0, len(whole), kept)]
    places = math.prod(whole.shape[2:])
    wide, narrow = (x.reshape(*x.shape[:2], places) for x in (whole, part))
    more = [x.reshape(wide.shape) if isinstance(x, np.ndarray) else x for x in more]
    for first, last, own in parts:
        work = (last - first) * places * (2 * own.count + wide.shape[1] * bool(more))
        threads.by_rows(loop, last - first, work, wide, narrow, getattr(own, numbers), first, *more)
    return True
