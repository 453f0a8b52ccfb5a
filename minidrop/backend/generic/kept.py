"""Taking what kept sets keep out of arrays, and putting it back."""

from typing import Any

import numpy as np

from minidrop.kept import Kept


class KeptSets:
    """Gathers, scatters and sums by kept sets and by index."""

    def take(self, x: np.ndarray, kept: Kept | None, axis: int) -> np.ndarray:
        """Return only the kept entries of `axis`; all of `x` where `kept` is None."""
        if kept is None:
            return x
        return x[self._at(kept, axis, x.ndim)]

    def put(self, x: np.ndarray, kept: Kept | None, axis: int) -> np.ndarray:
        """Return `x` with `axis` at full length, zero where it is not kept: the transpose of `take`."""
        if kept is None:
            return x
        shape = list(x.shape)
        shape[axis] = kept.total
        out = self.zeros(tuple(shape), x.dtype)
        out[self._at(kept, axis, x.ndim)] = x
        return out

    def put_columns(self, out: np.ndarray, kept: Kept | None, x: np.ndarray) -> None:
        """out[:, kept] = x for matrices; the other columns stay as they are (None: all)."""
        out[:, slice(None) if kept is None else self._index(kept)] = x

    def add_block(self, out: np.ndarray, rows: Kept | None, cols: Kept | None, x: np.ndarray) -> None:
        """out[rows, cols] += x for two kept sets of a matrix (None: all); a vector has at most one. `x` may
        be any array of `out`'s size where both are None."""
        if rows is None and cols is None:
            out += x.reshape(out.shape)
            return
        at: list[Any] = [slice(None) if kept is None else self._index(kept) for kept in (rows, cols)]
        if out.ndim == 1:
            at = [at[1] if rows is None else at[0]]
        elif not any(isinstance(index, slice) for index in at):
            at[0] = at[0][:, None]      # two lists: crossed, not paired
        out[tuple(at)] += x

    def submatrix(self, W: Any, rows: Kept | None, cols: Kept | None) -> np.ndarray:
        """Return W[rows, cols] for two kept sets (None: all), for products and `scaled` alone: devices may
        gather later."""
        return self.take(self.take(W, rows, 0), cols, 1)

    def round_block(self, W: np.ndarray, rows: Any, cols: Any, factor: np.ndarray, kind: str,
                    out: Any) -> None:
        """out = the bits of factor * W[rows, cols] as "float16" or "bfloat16": float32 -> uint16.

        To the nearest, to even where halfway; NaN stays NaN.
        """
        xp = self.xp
        x = xp.ascontiguousarray(self.xp.multiply(KeptSets.submatrix(self, W, rows, cols),
                                                  W.dtype.type(factor)))
        if kind == "float16":
            out[...] = x.astype(np.float16).view(np.uint16)
            return
        bits = x.view(np.uint32)
        bits = ((bits + np.uint32(0x7FFF)
                 + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)
        out[...] = xp.where(xp.isnan(x), np.uint16(0x7FC0), bits)

    def lookup(self, W: np.ndarray, ids: np.ndarray, cols: Kept | None) -> np.ndarray:
        """Return W[ids][:, cols]: ids any row numbers in an int64 array, repeated or not, cols a kept set
        (None: all)."""
        return self.take(W[ids], cols, 1)

    def table_gradient(self, x: np.ndarray, ids: np.ndarray, rows: int) -> tuple[np.ndarray, Kept]:
        """Return (g, kept): the sum of what each row of a table has got, where row ids[i] has got x[i]; kept
        are rows of it.

        ids: int64 (places,) of 0 .. rows-1, x (places, columns). What one row gets from several places is
        added in their order. `kept` may be a `TableKept`, which only a device knows.
        """
        ids = self.to_host(ids)
        order = np.argsort(ids, kind="stable")      # stable: the places of one row stay in their order
        ordered = ids[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        return self.sum_groups(x, order, starts), Kept.of(ordered[starts], rows)

    def sum_groups(self, x: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the sums of groups of rows of a matrix, the same for every call with the same arguments.

        Group i are the rows order[starts[i]:starts[i + 1]], the last goes to the end: (rows, columns) ->
        (groups, columns). `order` and `starts` are int64 arrays on the host; no group is empty.
        """
        xp = self.xp
        if not len(starts):
            return self.zeros((0, x.shape[1]), x.dtype)
        return xp.add.reduceat(x[xp.asarray(order)], xp.asarray(starts), axis=0)

    def multiply_groups(self, x: np.ndarray, ends: list[int], factors: np.ndarray) -> np.ndarray:
        """Return x (rows, features, rest) times the factors (groups, features) of each row's group.

        Group i has the rows ends[i - 1] .. ends[i] - 1; `ends` are host integers, the last is the number of
        rows.
        """
        y, first = self.empty(x.shape, x.dtype), 0
        for last, factor in zip(ends, factors, strict=True):
            self.xp.multiply(x[first:last], factor[:, None], out=y[first:last])
            first = last
        return y

    def _index(self, kept):
        return kept.index

    def _at(self, kept, axis, ndim):
        return (slice(None),) * (axis % ndim) + (self._index(kept),)
