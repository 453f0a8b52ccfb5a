"""Products of matrices, whole and with dead blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend.device_sets import DeviceGrid
from minidrop.errors import CaptureError, ShapeError

if TYPE_CHECKING:
    from minidrop.backend.cuda.cublas import Matrix
    from minidrop.patterns.grid import BlockGrid


class Products:
    """Dense products, and products that leave blocks of activations out."""

    def gemm(self, a: Any, b: np.ndarray, trans_a: bool = False, trans_b: bool = False) -> np.ndarray:
        """Return op(a) op(b) for matrices, op(m) = m or m^T."""
        a = a.T if trans_a else a
        b = b.T if trans_b else b
        return self.xp.matmul(a, b, out=self.empty((a.shape[0], b.shape[1]), a.dtype))

    def gemms(self, products: Iterator) -> Iterator:
        """Yield gemm(*product) for each (a, b, trans_a, trans_b), in order. A device may take them all at
        once."""
        for one in products:
            yield self.gemm(*one)

    def operand(self, x: np.ndarray) -> np.ndarray:
        """Return a matrix in the form in which several products read it best: for them alone."""
        return x

    def scaled(self, x: np.ndarray, factor: Any) -> np.ndarray:
        """Return factor * x, for products and for others; `x` itself where the factor is 1."""
        return x if factor == 1 else self.xp.multiply(x, x.dtype.type(factor),
                                                      out=self.empty(x.shape, x.dtype))

    def thin_gemm(self, a: Matrix | np.ndarray, b: Any, trans_b: bool = False) -> Any:
        """Return a op(b), as `gemm`, where `a` has few rows; the result's memory may run along its
        columns."""
        return self.gemm(a, b, trans_b=trans_b)

    def pays(self, rows: float, kept_share: float, calls: int = 1) -> bool:
        """Whether products that leave out all but `kept_share` of a side are faster than one whole product
        with zeros.

        rows: of each of them. calls: 1 where other patterns stand beside each other in one batch, whose
        gathers and gradients each cost their own (135 rows at half kept lost a third of the speed); else how
        many products follow one another anyway, of which each becomes smaller (20 rows at half kept gained
        nothing, 100 a seventh). Measured: docs/benchmarks.md, "NR STEP" and "RH STEP".
        """
        if calls == 1:
            return rows * (1 - kept_share) >= 400 * kept_share
        return calls >= 4 and rows * (1 - kept_share) >= 32 * kept_share

    def add_to_rows(self, y: np.ndarray, b: Any) -> None:
        """y += b for every row of a matrix, in place."""
        y += b

    def column_sums(self, x: np.ndarray) -> np.ndarray:
        """Return the sum of the rows of a matrix: (rows, columns) -> (columns,)."""
        return x.sum(axis=0)

    def block_products(self, dtype: np.dtype) -> bool:
        """Whether `block_product` is how this device best leaves out dead blocks; else what lives is
        gathered."""
        return False

    def block_mask(self, grid: Any) -> np.ndarray:
        """Return which blocks live on this device, as the array `lives` of a BlockGrid: for reading only."""
        if isinstance(grid, DeviceGrid):
            return grid.table
        if self.capturing:
            raise CaptureError("which blocks live is drawn on the host in every iteration; a captured step "
                               "needs it on the device (a DeviceGrid)")
        return self.asarray(grid.lives)

    def block_product(self, a: np.ndarray, b: np.ndarray, trans_a: bool = False, trans_b: bool = False,
                      a_grid: BlockGrid | None = None, n_grid: BlockGrid | None = None, scale: float = 1,
                      bias: np.ndarray | None = None) -> np.ndarray:
        """Return scale * op(a) op(b) + bias (b and bias as in `gemm` and `add_to_rows`), dead blocks counting
        as zeros.

        a_grid: BlockGrid of `a`, stored as (samples, units) whatever trans_a. n_grid: of what has the same
        samples and the result's columns: the result itself, whose dead blocks are the bias, or with trans_a,
        where samples are summed, b. None: all lives. Not both trans_a and trans_b. Raises ShapeError.
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
        """Return a matrix with zeros where blocks are dead."""
        if grid is None:
            return x
        rows, columns = (self.xp.arange(n) // size
                         for n, size in zip(x.shape, grid.block_shape, strict=True))
        return self.xp.where(self.block_mask(grid)[rows[:, None], columns] != 0, x, x.dtype.type(0))

    def multiply_blocks(self, x: Any, grid: Any, scale: float) -> Any:
        """Return x (samples, units, rest) times `scale` where blocks live, times 0 where they are dead."""
        rows, columns = (self.xp.arange(n) // size
                         for n, size in zip(x.shape, grid.block_shape, strict=False))
        factors = self.block_mask(grid)[rows[:, None], columns].astype(x.dtype) * x.dtype.type(scale)
        return self.xp.multiply(x, factors[:, :, None], out=self.empty(x.shape, x.dtype))


def check_block_product(a: Any, b: np.ndarray, trans_a: bool, trans_b: bool, a_grid: BlockGrid | None,
                        n_grid: BlockGrid | None) -> None:
    """Raise ShapeError where the arguments of `block_product` do not fit each other."""
    depth, columns = b.shape[::-1] if trans_b else b.shape
    if trans_a and trans_b or a.shape[0 if trans_a else 1] != depth:
        raise ShapeError(f"block_product: a {a.shape}{' transposed' * trans_a} times b "
                         f"{b.shape}{' transposed' * trans_b} is no product that it knows")
    for grid, units in ((a_grid, a.shape[1]), (n_grid, columns)):
        if grid is not None:
            grid.check(a.shape[0], units)
