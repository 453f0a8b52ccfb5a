"""The arguments of cuBLAS calls for our products, computed without a GPU.

cuBLAS multiplies column-major matrices, C = alpha op(A) op(B) + beta C, each with a leading dimension: the
distance between two of its columns. It reads a row-major matrix as its transpose, so y = a b is computed as
y^T = b^T a^T: cuBLAS's A is in the memory of our b, its B in that of our a. All distances are in elements,
from the first element of each buffer.

A leading dimension larger than necessary skips memory. So these parts of a weight matrix W (outputs x inputs,
row-major) can be read in place; x and y are compact, with the kept inputs and outputs as columns:

    kept of W                 forward y = x W^T          input gradient gx = gy W
    ------------------------  -------------------------  -------------------------------
    rows, one in every step   one product, ld step * ld  one product, ld step * ld
    rows, one run (a slice)   one product, an offset     one product, an offset
    rows, runs of width       a batch, one run each;     gather: each run adds to the
                              cut runs at the ends apart same gx (two runs: two calls)
    columns, one run          one product, an offset     one product, an offset
    columns, runs of width    gather: each run adds to   a batch, one run each
                              the same y (two: two calls)
    columns, one in step      gather: neither axis of the part is contiguous
    a list                    gather

The weight gradient gW = gy^T x does not read W: x and gy are already compact, and gW is written as a compact
block, which the update takes. It is always one product, never a gather.

For W stored as (inputs x outputs), rows and columns in this table are swapped. Kept rows and kept columns
together can be read in place if each can; otherwise both are gathered in one pass, and the compact block
serves forward and input gradient. A batch of narrow runs computes mostly padding, and many calls cost more
than a gather: `LEAST_RUN` and `MOST_CALLS` set the limits (reasoned; not yet measured on a GPU). A kept set
of samples, rows of x and gy, is the summed axis of a weight gradient: both operands are then read with
leading dimensions multiplied by the same step.

Tiles (`patterns.tile`) drop weights in classes, each one product of gathered operands. `padded` says how
classes of similar shapes become one strided-batched product: zero-padded operands give zero-padded results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from minidrop.errors import BackendError

if TYPE_CHECKING:
    from minidrop.kept import Kept

LEAST_RUN = 64      # least width of a run in a batch of runs: the narrowest tile of cuBLAS's fast kernels
MOST_CALLS = 4      # most calls for one product
_INT_MAX = 2**31 - 1


@dataclass(frozen=True)
class Matrix:
    """The layout of a matrix in a buffer: element (i, j) at offset + i * row_stride + j * column_stride."""

    rows: int
    columns: int
    row_stride: int
    column_stride: int
    offset: int = 0

    @classmethod
    def of(cls, shape: tuple[int, int], strides: tuple[int, int], itemsize: int) -> Any:
        """Return the Matrix of an array, at offset 0; None if the itemsize does not divide its strides."""
        if any(stride % itemsize for stride in strides):
            return None
        return cls(*shape, *(stride // itemsize for stride in strides))

    @classmethod
    def contiguous(cls, rows: int, columns: int, offset: int = 0) -> Matrix:
        """Return the Matrix of a C-contiguous array."""
        return cls(rows, columns, max(1, columns), 1, offset)

    @property
    def T(self) -> Matrix:  # noqa: N802
        """The transpose, in the same memory."""
        return Matrix(self.columns, self.rows, self.column_stride, self.row_stride, self.offset)

    def part(self, rows: tuple[int, ...] | None = None, columns: tuple[int, ...] | None = None) -> Matrix:
        """Return the Matrix of some rows and columns, each given as (first, step, count) or None for all."""
        first, step, count = rows or (0, 1, self.rows)
        left, hop, width = columns or (0, 1, self.columns)
        return Matrix(count, width, self.row_stride * step, self.column_stride * hop,
                      self.offset + first * self.row_stride + left * self.column_stride)


@dataclass(frozen=True)
class Gemm:
    """One call, in cuBLAS's order: `a` is in the buffer of our right operand, `b` in that of our left one.

    transa, transb: False for CUBLAS_OP_N, True for CUBLAS_OP_T. In a batch of several, product i begins at
    a + i * stride_a, b + i * stride_b and c + i * stride_c.
    """

    transa: bool
    transb: bool
    m: int
    n: int
    k: int
    a: int
    lda: int
    b: int
    ldb: int
    c: int
    ldc: int
    alpha: float = 1.0
    beta: float = 0.0
    batch: int = 1
    stride_a: int = 0
    stride_b: int = 0
    stride_c: int = 0

    @property
    def routine(self) -> str:
        """The name of the routine, without its type prefix."""
        return "gemm" if self.batch == 1 else "gemmStridedBatched"


def product(a: Matrix, b: Matrix, c: Matrix, alpha: float = 1.0, beta: float = 0.0) -> Gemm | None:
    """Return the Gemm of c = alpha a b + beta c for row-major Matrix a, b and c; None if BLAS has none.

    a (m, k), b (k, n), c (m, n), none empty. a and b must have stride 1 along rows or columns, c along rows.
    Raises BackendError if the shapes are incompatible.
    """
    if (a.columns, a.rows, b.columns) != (b.rows, c.rows, c.columns):
        raise BackendError(f"product: ({a.rows}, {a.columns}) times ({b.rows}, {b.columns}) does not give "
                           f"({c.rows}, {c.columns})")
    left, right, out = _stored(a), _stored(b), _stored(c, transposed=(False,))
    if left is None or right is None or out is None:
        return None
    return Gemm(right[0], left[0], b.columns, a.rows, a.columns, b.offset, right[1], a.offset, left[1],
                c.offset, out[1], alpha, beta)


def batched(a: Matrix, b: Matrix, c: Matrix, strides: tuple[int, ...], batch: int, alpha: float = 1.0) -> Any:
    """Return the Gemm of `batch` products c_i = alpha a_i b_i, or None as `product` does.

    strides: from one a, b and c to the next.
    """
    call = product(a, b, c, alpha)
    return call and replace(call, batch=batch, stride_b=strides[0], stride_a=strides[1], stride_c=strides[2])


def _stored(matrix, transposed=(False, True)):
    """Return (transposed, leading dimension) of a matrix for cuBLAS to read as its transpose, or None."""
    for flip in transposed:
        m = matrix.T if flip else matrix
        # The stride of an axis of length 1 does not matter: use the least legal one.
        step = m.row_stride if m.rows > 1 else max(1, m.columns)
        beside = m.column_stride == 1 or m.columns == 1
        if beside and m.columns <= step <= _INT_MAX and m.rows <= _INT_MAX:
            return flip, step
    return None


# -- kept sets -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Runs:
    """Part of a kept set: `runs` runs of `width` entries, `step` apart; at `at` in compact data."""

    first: int
    width: int
    step: int
    runs: int
    at: int

    @property
    def count(self) -> int:
        return self.width * self.runs

    @property
    def simple(self) -> tuple[int, ...] | None:
        """(first, step, count) if a single stride describes it, else None."""
        if self.runs == 1:
            return self.first, 1, self.width
        return (self.first, self.step, self.runs) if self.width == 1 else None

    def each(self) -> list[Runs]:
        """Return every run as a part of its own."""
        return [Runs(self.first + i * self.step, self.width, 1, 1, self.at + i * self.width)
                for i in range(self.runs)]


def runs_of(kept: Kept | None, total: int) -> list[Runs] | None:
    """Return a kept set of an axis of length `total` (None: all of it) as Runs, in order; None for a list.

    There are at most three: a partial first run, whole runs, and a partial last one.
    """
    if kept is None or kept.is_all:
        return [Runs(0, total, 1, 1, 0)] if total else []
    if not kept.count:
        return []
    if kept.regular is None:
        first, last = int(kept.indices[0]), int(kept.indices[-1])
        return [Runs(first, kept.count, 1, 1, 0)] if last - first == kept.count - 1 else None
    start, step, width = kept.regular
    if width == step:       # runs without gaps
        first = max(0, start)
        return [Runs(first, kept.total - first, 1, 1, 0)]
    if width == 1:
        return [Runs(start, 1, step, kept.count, 0)]
    parts, at, first = [], 0, start
    if start < 0:           # the first run begins before the axis
        at = min(start + width, kept.total)
        parts, first = [Runs(0, at, 1, 1, 0)], start + step
    runs = max(0, (kept.total - first - width) // step + 1)
    if runs:
        parts.append(Runs(first, width, step, runs, at))
    last, at = first + runs * step, at + runs * width
    if last < kept.total:
        parts.append(Runs(last, kept.total - last, 1, 1, at))
    return parts


def kept_product(a: Matrix, b: Matrix, c: Matrix, inner: Kept | None = None, outer: Kept | None = None,
                 least_run: int = LEAST_RUN, most_calls: int = MOST_CALLS) -> list[Gemm] | None:
    """Return the calls of c = a b[inner, outer] that read b in place; None if it has to be gathered.

    a (m, kept k), b (k, n), c (m, kept n); inner and outer: Kept of b's rows and columns, None for all. The
    order of the calls matters: a later one may add to the result of an earlier one. There are none if a kept
    set is empty.
    """
    inner_runs, outer_runs = runs_of(inner, b.rows), runs_of(outer, b.columns)
    if inner_runs is None or outer_runs is None:
        return None
    # Parts that no single stride describes are summed run by run.
    inner_runs = [one for part in inner_runs
                  for one in ([part] if part.simple else part.each()[:most_calls + 1])]
    calls: list[Gemm] = []
    for part in outer_runs:
        for number, sum_part in enumerate(inner_runs):
            call = _partial(a, b, c, sum_part, part, float(number > 0), least_run)
            if call is None or len(calls) == most_calls:
                return None
            calls.append(call)
    return calls


def _partial(a, b, c, inner, outer, beta, least_run):
    """Return the Gemm of one part of the sum and one part of the columns; None if impossible or too slow."""
    a = a.part(columns=(inner.at, 1, inner.count))
    c = c.part(columns=(outer.at, 1, outer.count if outer.simple else outer.width))
    if outer.simple:
        return product(a, b.part(inner.simple, outer.simple), c, beta=beta)
    if outer.width < least_run:
        return None
    call = product(a, b.part(inner.simple, (outer.first, 1, outer.width)), c, beta=beta)
    return call and replace(call, batch=outer.runs, stride_a=outer.step * b.column_stride,
                            stride_c=outer.width)


# -- many products at once -----------------------------------------------------------------------------------
def padded(shapes: list[tuple[int, ...]], most_waste: float = 0.25) -> tuple[int, ...] | None:
    """Return the (m, n, k) that products of `shapes` are padded to in one batch; None if it does not pay.

    Each is the largest of its kind. A batch pays if padding adds at most the share `most_waste` of work.
    """
    largest = tuple(max(shape[i] for shape in shapes) for i in range(3))
    asked = sum(m * n * k for m, n, k in shapes)
    computed = len(shapes) * largest[0] * largest[1] * largest[2]
    return largest if asked and computed <= (1 + most_waste) * asked else None
