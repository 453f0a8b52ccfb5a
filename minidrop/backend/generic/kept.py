"""Gathering the entries of kept sets from arrays, and scattering them back."""

from typing import Any

import numpy as np

from minidrop.backend.generic.nn import Neural
from minidrop.kept import Kept, KeptByGroup


class KeptSets(Neural):
    """Gathers, scatters and sums by kept sets and by index."""

    def compact(self, x: np.ndarray, kept: Kept | KeptByGroup | None, axis: int) -> np.ndarray:
        """Return only the kept entries of `axis`, as `take`; of each group of samples its own."""
        if not isinstance(kept, KeptByGroup):
            return self.take(x, kept, axis)
        axis %= x.ndim
        shape = tuple(kept.count if i == axis else n for i, n in enumerate(x.shape))
        out = (self.empty if kept.is_even else self.zeros)(shape, x.dtype)
        for place, own in _places(kept, axis, x.shape):
            out[(*place, slice(0, own.count))] = self.take(x[place], own, axis)
        return out

    def expand(self, x: np.ndarray, kept: Kept | KeptByGroup | None, axis: int) -> np.ndarray:
        """Return `x` with `axis` at full length, zero where it is not kept: the transpose of `compact`."""
        if not isinstance(kept, KeptByGroup):
            return self.put(x, kept, axis)
        axis %= x.ndim
        out = self.empty(tuple(kept.total if i == axis else n for i, n in enumerate(x.shape)), x.dtype)
        for place, own in _places(kept, axis, x.shape):
            out[place] = self.put(x[(*place, slice(0, own.count))], own, axis)
        return out

    def add_kept(self, whole: np.ndarray, x: np.ndarray, kept: Kept | KeptByGroup | None, axis: int,
                 activation: str = "none") -> np.ndarray:
        """Return f(whole + expand(x, kept, axis)); f: `activation`, as for `add`."""
        return self.add(whole, self.expand(x, kept, axis), activation)

    def take(self, x: np.ndarray, kept: Kept | None, axis: int) -> np.ndarray:
        """Return only the kept entries of `axis`; `x` itself if `kept` is None."""
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
        """out[..., kept] = x for two or three axes (None: all columns); other columns are left unchanged."""
        out[..., slice(None) if kept is None else self._index(kept)] = x

    def add_block(self, out: np.ndarray, rows: Kept | None, cols: Kept | None, x: np.ndarray) -> None:
        """out[rows, cols] += x for two kept sets of a matrix (None: all).

        A vector has at most one. If both are None, `x` may have any shape of the size of `out`.
        """
        if rows is None and cols is None:
            out += x.reshape(out.shape)
            return
        at: list[Any] = [slice(None) if kept is None else self._index(kept) for kept in (rows, cols)]
        if out.ndim == 1:
            at = [at[1] if rows is None else at[0]]
        elif not any(isinstance(index, slice) for index in at):
            at[0] = at[0][:, None]      # two index arrays: outer indexing, not pairwise
        out[tuple(at)] += x

    def submatrix(self, W: Any, rows: Kept | None, cols: Kept | None) -> np.ndarray:
        """Return W[rows, cols] for two kept sets (None: all).

        Only products and `scaled` may read the result: a device may gather lazily.
        """
        return self.take(self.take(W, rows, 0), cols, 1)

    def round_block(self, W: np.ndarray, rows: Any, cols: Any, factor: np.ndarray, kind: str,
                    out: Any) -> None:
        """out = the bits of factor * W[rows, cols] as "float16" or "bfloat16": float32 -> uint16.

        Rounds to nearest, ties to even; NaN stays NaN.
        """
        xp = self.xp
        x = xp.ascontiguousarray(
            self.xp.multiply(KeptSets.submatrix(self, W, rows, cols), W.dtype.type(factor)))
        if kind == "float16":
            out[...] = x.astype(np.float16).view(np.uint16)
            return
        bits = x.view(np.uint32)
        bits = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
                >> np.uint32(16)).astype(np.uint16)
        out[...] = xp.where(xp.isnan(x), np.uint16(0x7FC0), bits)

    def lookup(self, W: np.ndarray, ids: np.ndarray, cols: Kept | None) -> np.ndarray:
        """Return W[ids][:, cols]: ids an int64 array of row numbers, cols a kept set (None: all)."""
        return self.take(W[ids], cols, 1)

    def table_gradient(self, x: np.ndarray, ids: np.ndarray, rows: int) -> tuple[np.ndarray, Kept]:
        """Return (g, kept): g[j] = sum of x[i] over all i with ids[i] = kept[j], the gradient of W[ids].

        ids: int64 (places,) in 0 .. rows-1; x (places, columns); kept: the rows that occur. Contributions to
        one row are added in the order of their places. `kept` may be a `TableKept`, which only a device can
        read.
        """
        ids = self.to_host(ids)
        order = np.argsort(ids, kind="stable")      # stable: the places of one row stay in their order
        ordered = ids[order]
        is_first = np.ones(len(ordered), bool)
        np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
        starts = np.flatnonzero(is_first)
        return self.sum_groups(x, order, starts), Kept.of(ordered[starts], rows)

    def sum_groups(self, x: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the sums of groups of rows of a matrix, deterministic: (rows, columns) -> (groups, columns).

        Group i has the rows order[starts[i]:starts[i + 1]]; the last extends to the end. `order` and `starts`
        are int64 arrays on the host; no group is empty.
        """
        xp = self.xp
        if not len(starts):
            return self.zeros((0, x.shape[1]), x.dtype)
        return xp.add.reduceat(x[xp.asarray(order)], xp.asarray(starts), axis=0)

    def multiply_groups(self, x: np.ndarray, ends: list[int], factors: np.ndarray) -> np.ndarray:
        """Return x (rows, features, rest) times the factors (groups, features) of each row's group.

        Group i has the rows ends[i - 1] .. ends[i] - 1; `ends` are host integers, the last of them `rows`.
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


def _places(kept, axis, shape):
    """Yield (index of the axes up to that of samples, Kept) for each group of a KeptByGroup on `axis`."""
    for first, last, own in kept.parts(shape[axis - 1]):
        yield (*[slice(None)] * (axis - 1), slice(first, last)), own
