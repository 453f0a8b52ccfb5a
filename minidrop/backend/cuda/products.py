"""Matrix products on a CUDA device, by cuBLAS with explicit leading dimensions: see `backend.cuda.cublas`.

Gathers are lazy: `submatrix` returns a KeptMatrix, which `gemm` reads in place if it can. With a precision
below float32, operands are rounded on their way into a product, sums are accumulated in float32, and
everything else, weights included, stays float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.backend.cuda.blas import Blas
from minidrop.backend.cuda.cublas import Matrix, batched, kept_product, padded, product
from minidrop.backend.device_sets import MovingKept
from minidrop.backend.generic import Backend
from minidrop.errors import BackendError

if TYPE_CHECKING:
    from minidrop.kept import Kept

_HALF = "float16", "bfloat16"       # operands as the bits of each, uint16: NumPy has no bfloat16


class KeptMatrix:
    """factor * base[rows, cols], not yet computed; rows and cols: Kept or None. Only products can read it."""

    __slots__ = ("base", "rows", "cols", "factor", "shape", "block", "stack")

    ndim = 2

    def __init__(self, base: np.ndarray, rows: Kept | None = None, cols: Kept | None = None,
                 factor: float = 1.0):
        self.base, self.factor = base, factor
        self.rows, self.cols = (None if kept is None or kept.is_all else kept for kept in (rows, cols))
        sides = zip((self.rows, self.cols), base.shape, strict=True)
        self.shape = tuple(n if kept is None else kept.count for kept, n in sides)
        self.block = None       # the array that products read, once it is gathered or rounded
        self.stack = None       # (stack, index) if it is part of a batch: see `CudaProducts.gemms`

    @property
    def dtype(self) -> Any:
        return self.base.dtype


class CudaProducts(Backend):
    """The products of a Backend, for arrays on one CUDA device, by its `blas`."""

    blas: Blas

    def operand(self, x: np.ndarray) -> Any:
        return KeptMatrix(x) if self._kind(x.dtype) in _HALF else x

    def submatrix(self, W: np.ndarray, rows: Kept | None, cols: Kept | None) -> Any:
        whole = all(kept is None or kept.is_all for kept in (rows, cols))
        return self.operand(W) if whole else KeptMatrix(W, rows, cols)

    def scaled(self, x: Any, factor: Any) -> Any:
        if isinstance(x, KeptMatrix):
            return KeptMatrix(x.base, x.rows, x.cols, x.factor * factor)
        return super().scaled(x, factor)

    def _dense(self, x):
        """Return a KeptMatrix as an array of its dtype; anything else unchanged."""
        if not isinstance(x, KeptMatrix):
            return x
        return super().scaled(super().submatrix(x.base, x.rows, x.cols), x.factor)

    def transposed(self, W: np.ndarray) -> Any:
        return super().transposed(self._dense(W))

    # -- one product -----------------------------------------------------------------------------------------
    def gemm(self, a: np.ndarray, b: np.ndarray, trans_a: bool = False, trans_b: bool = False,
             out: np.ndarray | None = None) -> np.ndarray:
        if out is not None and (out.ndim == 3 or not out.flags.c_contiguous):
            out[...] = self.gemm(a, b, trans_a, trans_b).reshape(out.shape)
            return out
        m, k = a.shape[::-1] if trans_a else a.shape
        n, kind = b.shape[0 if trans_b else 1], self._kind(a.dtype)
        out = self.empty((m, n), a.dtype) if out is None else out
        if not out.size or not k:
            out.fill(0)
            return out
        a = self._read(a, kind)
        gathered = not isinstance(b, KeptMatrix) or b.block is not None
        if gathered or not self._in_place(a, b, out, trans_a, trans_b, kind):
            b = self._read(b, kind)
            self.blas.launch(_product(_matrix(a), _matrix(b), trans_a, trans_b), a, b, out, kind)
        return out

    def _in_place(self, a, b, out, trans_a, trans_b, kind):
        """Multiply by a KeptMatrix without gathering it, if possible; return whether it was."""
        matrix = _matrix(b.base)
        moves = any(isinstance(kept, MovingKept) for kept in (b.rows, b.cols))
        if kind in _HALF or b.factor != 1 or matrix is None or moves:
            return False
        calls = _kept_product(_matrix(a), matrix, trans_a, trans_b, b.rows, b.cols)
        if calls is None:
            return False
        self.blas.launch(calls, a, b.base, out, kind)
        return True

    def _read(self, x, kind):
        """Return a matrix as an array for cuBLAS: gathered, rounded or copied only if necessary."""
        if isinstance(x, KeptMatrix):
            if x.block is None:
                x.block = self._rounded(x, kind) if kind in _HALF else self._read(self._dense(x), kind)
            return x.block
        if kind in _HALF:
            return self._rounded(x, kind)
        return self.xp.ascontiguousarray(x) if _matrix(x) is None else x

    # -- many products ---------------------------------------------------------------------------------------
    def gemms(self, products: Any) -> Iterator:
        """As in the generic backend; as one zero-padded strided batch if the shapes are similar."""
        products = list(products)
        outs = [one[4] if len(one) > 4 else None for one in products]
        products = [one[:4] for one in products]
        results: list = [None] * len(products)
        for trans in sorted({one[2:] for one in products}):
            members = [i for i, one in enumerate(products) if one[2:] == trans]
            pairs = [products[i][:2] for i in members]
            shapes = [(*(a.shape[::-1] if trans[0] else a.shape), b.shape[0 if trans[1] else 1])
                      for a, b in pairs]
            size = padded([(m, n, k) for m, k, n in shapes]) if len(pairs) > 1 else None
            if not size:
                for i, (a, b) in zip(members, pairs, strict=True):
                    results[i] = self.gemm(a, b, trans[0], trans[1], outs[i])
                continue
            for i, result in zip(members, self._batch(pairs, trans, size, shapes), strict=True):
                results[i] = result
                if (out := outs[i]) is not None:
                    out[...], results[i] = result.reshape(out.shape), out
        return iter(results)

    def gemm_stack(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        out = self.empty((*a.shape[:2], b.shape[2]), a.dtype)
        if not out.size or not a.shape[2]:
            out.fill(0)
            return out
        kind = self._kind(a.dtype)
        a, b = self._stack(a, kind), self._stack(b, kind)
        call = batched(_matrix(a[0]), _matrix(b[0]), Matrix.contiguous(*out.shape[1:]),
                       (*(x.strides[0] // x.itemsize for x in (a, b)), out[0].size), len(out))
        self.blas.launch([call], a, b, out, kind)
        return out

    def _stack(self, x, kind):
        """Return a stack of matrices as an array for cuBLAS: rounded or copied only if necessary."""
        if kind not in _HALF:
            return x if _matrix(x[0]) is not None else self.xp.ascontiguousarray(x)
        if x.strides[2] != x.itemsize:      # transposed: rounded in the order of its memory
            return self._stack(self.xp.ascontiguousarray(x.transpose(0, 2, 1)), kind).transpose(0, 2, 1)
        flat = self.xp.ascontiguousarray(x).reshape(x.shape[0] * x.shape[1], x.shape[2])
        return self._rounded(flat, kind).reshape(x.shape)

    def _batch(self, pairs, trans, size, shapes):
        """Return the products of the pairs, each as a contiguous array."""
        m, n, k = size
        kind = self._kind(pairs[0][0].dtype)
        a = self._stacked([a for a, _ in pairs], (k, m) if trans[0] else (m, k), kind)
        b = self._stacked([b for _, b in pairs], (n, k) if trans[1] else (k, n), kind)
        out = self.empty((len(pairs), m, n), pairs[0][0].dtype)
        call = batched(_turned(_matrix(a[0]), trans[0]), _turned(_matrix(b[0]), trans[1]),
                       Matrix.contiguous(m, n),
                       (*(x.strides[0] // x.itemsize for x in (a, b)), m * n), len(pairs))
        self.blas.launch([call], a, b, out, kind)
        return [self.xp.ascontiguousarray(block[:rows, :columns])
                for block, (rows, _, columns) in zip(out, shapes, strict=True)]

    def _stacked(self, matrices, shape, kind):
        """Return matrices as one zero-padded array (count, *shape); KeptMatrix objects cache it."""
        stack = getattr(matrices[0], "stack", None)
        if stack is not None and stack[0].shape == (len(matrices), *shape) and all(
                isinstance(x, KeptMatrix) and x.stack is not None and x.stack[0] is stack[0]
                and x.stack[1] == i for i, x in enumerate(matrices)):
            return stack[0]
        full = all(x.shape == shape for x in matrices)
        dtype = np.uint16 if kind in _HALF else matrices[0].dtype
        stack = self._padded(self.empty if full else self.zeros, (len(matrices), *shape), dtype)
        for i, x in enumerate(matrices):
            self._rounded(x, kind, stack[i, :x.shape[0], :x.shape[1]])
            if isinstance(x, KeptMatrix):
                x.stack = stack, i
        return stack

    # -- types -----------------------------------------------------------------------------------------------
    def _kind(self, dtype):
        if dtype not in (np.float32, np.float64):
            raise BackendError(f"{self.name}: products need float32 or float64, got {dtype}")
        return self.precision if dtype == np.float32 else "float64"

    def _padded(self, make, shape, dtype):
        """Return a new array with rows aligned to 16 bytes, which fast tensor core kernels require."""
        whole = 16 // np.dtype(dtype).itemsize
        return make((*shape[:-1], -(-shape[-1] // whole) * whole), dtype)[..., :shape[-1]]

    def _rounded(self, x, kind, out=None):
        """Return a matrix in the dtype of `kind`'s operands, in a new array with aligned rows or in `out`."""
        if out is None:
            out = self._padded(self.empty, x.shape, np.uint16 if kind in _HALF else x.dtype)
        if kind in _HALF:
            x = x if isinstance(x, KeptMatrix) else KeptMatrix(x)
            self.round_block(x.base, x.rows, x.cols, x.factor, kind, out)
        else:
            out[...] = self._dense(x)
        return out


# -- cached: a step's products have the shapes of the step before --------------------------------------------
def _matrix(array):
    """Return the Matrix of an array at offset 0; None if no leading dimension describes its memory."""
    return _layout(array.shape, array.strides, array.itemsize)


@lru_cache(maxsize=4096)
def _layout(shape, strides, itemsize):
    matrix = Matrix.of(shape, strides, itemsize)
    return matrix if matrix and product(matrix, Matrix.contiguous(shape[1], 1),
                                        Matrix.contiguous(shape[0], 1)) else None


@lru_cache(maxsize=4096)
def _product(a, b, trans_a, trans_b):
    a, b = _turned(a, trans_a), _turned(b, trans_b)
    return [product(a, b, Matrix.contiguous(a.rows, b.columns))]


@lru_cache(maxsize=4096)
def _kept_product(a, b, trans_a, trans_b, rows, cols):
    a, (inner, outer) = _turned(a, trans_a), (cols, rows) if trans_b else (rows, cols)
    columns = _turned(b, trans_b).columns if outer is None else outer.count
    return kept_product(a, _turned(b, trans_b), Matrix.contiguous(a.rows, columns), inner, outer)


def _turned(matrix, transpose):
    return matrix.T if transpose else matrix
