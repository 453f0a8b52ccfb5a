"""Products on a CUDA device that skip dropped blocks of activations: see kernels/block_products.cu.

The kernels read which blocks live from a small table in device memory, so shapes and launches are the same
for every draw, and a captured step can be replayed with another table. That is how BLOCK is multiplied in
float16 and bfloat16. In float32, tf32 and float64 the kernels do not use tensor cores: there the living
blocks are gathered and multiplied group by group (`functions.pieces`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend.cuda.launches import KernelLaunches
from minidrop.backend.device_sets import DeviceGrid
from minidrop.backend.generic import check_block_product
from minidrop.errors import BackendError
from minidrop.kernels import cuda, grids
from minidrop.kernels.loader import OPERANDS, REALS

if TYPE_CHECKING:
    from minidrop.patterns.grid import BlockGrid

_LARGEST = 2**30        # axis length: kernels count entries, and the end of a last block, in 32 bits


class CudaBlocks(KernelLaunches):
    """Overrides the products with dropped blocks; `_kind` and `_read` come from `CudaProducts`."""

    reads_grids = True
    _kind: Callable[[np.dtype], str]
    _read: Callable[[Any, str], np.ndarray]

    def block_products(self, dtype: Any) -> bool:
        return self._kind(dtype) in OPERANDS

    def block_mask(self, grid: BlockGrid) -> np.ndarray:
        # A captured step must not read a cached table, which never changes.
        return (super().block_mask(grid) if self.capturing or isinstance(grid, DeviceGrid)
                else self.tables.lives(grid))

    def block_product(self, a: Any, b: Any, trans_a: bool = False, trans_b: bool = False, a_grid: Any = None,
                      n_grid: Any = None, scale: Any = 1, bias: Any = None) -> Any:
        check_block_product(a, b, trans_a, trans_b, a_grid, n_grid)
        if max(*a.shape, *b.shape) > _LARGEST:
            raise BackendError(f"block_product: the GPU kernels take axes of up to 2**30 entries; one of a "
                               f"{a.shape} and b {b.shape} is longer")
        kind = self._kind(a.dtype)
        operand = OPERANDS.index(kind) if kind in OPERANDS else 0
        c = self.empty((a.shape[1] if trans_a else a.shape[0], b.shape[0] if trans_b else b.shape[1]),
                       a.dtype)
        if not c.size or not all(a.shape):
            c.fill(0)
            if bias is not None:
                self.add_to_rows(c, bias)
            return c
        a, b = (self._rows(x, x.shape) for x in (self._read(a, kind), self._read(b, kind)))
        if operand:
            a, b = a.view(np.uint16), b.view(np.uint16)
        else:
            a, b = (x.astype(c.dtype, copy=False) for x in (a, b))
        m, n = c.shape
        tile_m, tile_n = self._tile(m, n, trans_a, a_grid, n_grid) if operand else grids.TILES[0]
        macros = {"OPERAND": operand, "TRANS_A": int(trans_a), "TRANS_B": int(trans_b), "TILE_M": tile_m,
                  "TILE_N": tile_n}
        self._run(cuda.block_product, macros, a=a, b=b, c=c, bias=None if bias is None else self._flat(bias),
                  scale=scale, **self._mask_of("a", a_grid), **self._mask_of("n", n_grid))
        return c

    def _mask_of(self, name, grid):
        """Return the kernel arguments that describe a grid."""
        lives = None if grid is None else self.block_mask(grid)
        samples, units = (1, 1) if grid is None else grid.block_shape
        return {f"{name}_lives": lives, f"{name}_samples": min(samples, _LARGEST),
                f"{name}_units": min(units, _LARGEST)}

    def _tile(self, m, n, trans_a, a_grid, n_grid):
        """Return the tile size for a result (m, n): one that divides the blocks, if there is one."""
        rows = [grid.block_samples for grid in (a_grid, n_grid) if grid is not None and not trans_a]
        rows += [a_grid.block_units] if trans_a and a_grid is not None else []
        return grids.tile_of_product(m, n, tuple(rows), () if n_grid is None else (n_grid.block_units,))

    def multiply_blocks(self, x: np.ndarray, grid: Any, scale: float) -> np.ndarray:
        if x.dtype.name not in REALS or not x.size:
            return super().multiply_blocks(x, grid, scale)
        y = self.empty(x.shape, x.dtype)
        self._run(cuda.multiply_blocks, x=self.xp.ascontiguousarray(x), lives=self.block_mask(grid), y=y,
                  scale=scale, samples=grid.block_samples, units=grid.block_units)
        return y
