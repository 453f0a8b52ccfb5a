"""Matrix products, dense and with dropped blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend.device_sets import DeviceGrid
from minidrop.backend.generic.arrays import Arrays
from minidrop.backend.late import Late
from minidrop.errors import CaptureError, ShapeError

if TYPE_CHECKING:
    from minidrop.kept import Kept
    from minidrop.patterns.grid import BlockGrid


class Products(Arrays):
    """Dense products, and products that skip dropped blocks of activations."""

    # With how many rows, at half kept, a product for each run of steps pays; and one for each group of
    # streams where there was one for all.
    rows_of_run, rows_of_group = 400, 0

    def gemm(self, a: Any, b: np.ndarray, trans_a: bool = False, trans_b: bool = False,
             out: np.ndarray | None = None) -> np.ndarray:
        """Return op(a) op(b) for matrices, op(m) = m or m^T, written to `out` if that is given.

        out: a matrix, or an array of three axes, of which the first two are the rows of the product.
        """
        a = a.T if trans_a else a
        b = b.T if trans_b else b
        place = self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None or out.ndim == 3 else out
        product = self.xp.matmul(a, b, out=place)
        if out is None or out is place:
            return product
        out[...] = product.reshape(out.shape)
        return out

    def gemms(self, products: Iterator) -> Iterator:
        """Yield gemm(*product) for each (a, b, trans_a, trans_b[, out]) in order; a device may batch them."""
        for one in products:
            yield self.gemm(*one)

    def gemms_of(self, makers: Sequence[Callable[[], Any]], terms: int) -> list:
        """Return [gemm(*make()) for make in makers]; they may run at once.

        A `Late` product that one makes is returned as it is. terms: how many products of two numbers there
        are, about.
        """
        return list(self.gemms(make() for make in makers))

    def late_product(self, a: Any, b: Any, cols: Kept | None = None) -> Late | None:
        """Return a^T b as a `Late` where the update can use the factors, None where it is better computed.

        It has copies of them. cols: the columns of the parameter that those of b belong to, None for all.
        """
        return None

    def late_norm(self, W: np.ndarray, blocks: Any, separate: bool) -> float | None:
        """Return the norm of a gradient of W in blocks of `late_product`, which stay late.

        None where they are not, or where it is not surely as exact as the norm of what they will be.
        separate: whether no two of them overlap.
        """
        return None

    def gemm_stack(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the products of matrices, (n, rows, inner) and (n, inner, columns) -> (n, rows, columns).

        Both may be views, as long as one of the last two axes is contiguous: nothing is copied then.
        """
        out = self.empty((*a.shape[:2], b.shape[2]), a.dtype)
        return self.xp.matmul(a, b, out=out)

    def operand(self, x: np.ndarray) -> np.ndarray:
        """Return a matrix in the form that is best for several products; nothing else may read it."""
        return x

    def scaled(self, x: np.ndarray, factor: Any) -> np.ndarray:
        """Return factor * x, for products or other operations; `x` itself if the factor is 1."""
        return (x if factor == 1
                else self.xp.multiply(x, x.dtype.type(factor), out=self.empty(x.shape, x.dtype)))

    def thin_operand(self, b: np.ndarray, trans_b: bool, rows: int, uses: int) -> Any:
        """Return b in the form that is best for `uses` calls of `thin_gemm` with it, `rows` rows each.

        It holds what b is now, and only `thin_gemm` with the same `trans_b` may read it.
        """
        return b

    def thin_gemm(self, a: np.ndarray, b: Any, trans_b: bool = False) -> Any:
        """Return a op(b), as `gemm` does, for an `a` with few rows; the result may lie in memory in any way.

        b: a matrix, or what `thin_operand` made of one.
        """
        return self.gemm(a, b, trans_b=trans_b)

    def pays(self, rows: float, kept_share: float, calls: int = 1, held: int = 1, split: float = 0) -> bool:
        """Whether products that compute only `kept_share` of a side are faster than one dense product.

        rows: that have one pattern. calls: 1 if the batch is split into several products, one per pattern,
        each with gathers and gradients of its own; otherwise the number of consecutive products there are
        anyway, each of which becomes smaller; those of one pattern gather its weights once (20 rows at half
        kept gained nothing, 100 a seventh). held: the steps in a row that have one pattern; those of single
        steps lie strewn over the batch (135 rows at half kept lost a third of the speed). split: the rows of
        a group of streams, where each of several calls becomes one for each group; 0: it stays one. Measured:
        docs/benchmarks.md, "NR STEP" and "RH STEP".
        """
        dropped = rows * (1 - kept_share)
        if calls == 1:
            return dropped >= (self.rows_of_run if held > 1 else 400) * kept_share
        if calls < 4 or dropped < 32 * kept_share:
            return False
        return not split or split * (1 - kept_share) >= self.rows_of_group * kept_share

    def add_to_rows(self, y: np.ndarray, b: Any) -> None:
        """y += b for every row of a matrix, in place."""
        y += b

    def column_sums(self, x: np.ndarray) -> np.ndarray:
        """Return the sums of the columns of a matrix: (rows, columns) -> (columns,)."""
        return x.sum(axis=0)

    def block_products(self, dtype: np.dtype) -> bool:
        """Whether `block_product` pays on this device; otherwise the living blocks are gathered."""
        return False

    def block_mask(self, grid: Any) -> np.ndarray:
        """Return the array `lives` of a BlockGrid on this device, read-only."""
        if isinstance(grid, DeviceGrid):
            return grid.table
        if self.capturing:
            raise CaptureError("which blocks live is drawn on the host in every iteration; a captured step "
                               "needs it on the device (a DeviceGrid)")
        return self.asarray(grid.lives)

    def block_product(self, a: np.ndarray, b: np.ndarray, trans_a: bool = False, trans_b: bool = False,
                      a_grid: BlockGrid | None = None, n_grid: BlockGrid | None = None, scale: float = 1,
                      bias: np.ndarray | None = None) -> np.ndarray:
        """Return scale * op(a) op(b) + bias, as `gemm` and `add_to_rows`, with dropped blocks as zeros.

        a_grid: BlockGrid of `a`, which is stored as (samples, units) regardless of trans_a. n_grid: BlockGrid
        of the result, whose dropped blocks are the bias; with trans_a, which sums over samples, of b instead.
        None: all blocks live. trans_a and trans_b exclude each other. Raises ShapeError.
        """
        check_block_product(a, b, trans_a, trans_b, a_grid, n_grid)
        a = self._masked(a, a_grid)
        if trans_a:
            y = self.gemm(a, self._masked(b, n_grid), True, trans_b)
        else:
            y = self._masked(self.gemm(a, b, False, trans_b), n_grid)
        y = self.scaled(y, scale)
        if bias is not None:
            self.add_to_rows(y, bias)
        return y

    def _masked(self, x, grid):
        """Return a matrix with zeros in dropped blocks."""
        if grid is None:
            return x
        rows, columns = (self.xp.arange(n) // size
                         for n, size in zip(x.shape, grid.block_shape, strict=True))
        return self.xp.where(self.block_mask(grid)[rows[:, None], columns] != 0, x, x.dtype.type(0))

    def multiply_blocks(self, x: Any, grid: Any, scale: float) -> Any:
        """Return x (samples, units, rest) times `scale` where blocks live, times 0 where they are dropped."""
        rows, columns = (self.xp.arange(n) // size
                         for n, size in zip(x.shape, grid.block_shape, strict=False))
        factors = self.block_mask(grid)[rows[:, None], columns].astype(x.dtype) * x.dtype.type(scale)
        return self.xp.multiply(x, factors[:, :, None], out=self.empty(x.shape, x.dtype))


def check_block_product(a: Any, b: np.ndarray, trans_a: bool, trans_b: bool, a_grid: BlockGrid | None,
                        n_grid: BlockGrid | None) -> None:
    """Raise ShapeError if the shapes of the arguments of `block_product` are incompatible."""
    depth, columns = b.shape[::-1] if trans_b else b.shape
    if trans_a and trans_b or a.shape[0 if trans_a else 1] != depth:
        problem = "is not supported" if trans_a and trans_b else "has incompatible shapes"
        raise ShapeError(f"block_product: a {a.shape}{' transposed' * trans_a} times b "
                         f"{b.shape}{' transposed' * trans_b} {problem}")
    for grid, units in ((a_grid, a.shape[1]), (n_grid, columns)):
        if grid is not None:
            grid.check(a.shape[0], units)
