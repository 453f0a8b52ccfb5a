"""The arguments of cuBLAS's products, run by an interpreter of them on the host, against NumPy."""

import numpy as np
import pytest
from cases import in_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from minidrop.backend.cuda.cublas import Gemm, Matrix, Runs, batched, kept_product, padded, product, runs_of
from minidrop.errors import BackendError
from minidrop.kept import Kept
from minidrop.patterns.tile import TilePattern

SIDES = st.integers(1, 9)


def whole_numbers(shape, seed=0):
    """Small whole numbers as floats: their products are exact in any order."""
    return np.random.default_rng([seed, *shape]).integers(-9, 10, shape).astype(np.float64)


def laid_out(values, layout):
    """Return (flat buffer, Matrix) that hold some values in a memory layout; NaN stands where nothing may be
    read."""
    rows, columns = values.shape
    gap, offset = layout.get("gap", 0), layout.get("offset", 0)
    long = (columns if not layout.get("transposed") else rows) + gap
    step = layout.get("step", 1)
    matrix = Matrix(rows, columns, long * step, 1, offset) if not layout.get("transposed") else (
        Matrix(rows, columns, 1, long * step, offset))
    last = offset + (rows - 1) * matrix.row_stride + (columns - 1) * matrix.column_stride
    buffer = np.full(last + 1, np.nan)          # not one element more: the interpreter checks the ends
    buffer[places(matrix)] = values
    return buffer, matrix


def places(matrix):
    return (matrix.offset + np.arange(matrix.rows)[:, None] * matrix.row_stride
            + np.arange(matrix.columns) * matrix.column_stride)


layouts = st.fixed_dictionaries({"transposed": st.booleans(), "gap": st.integers(0, 3),
                                 "step": st.integers(1, 4), "offset": st.integers(0, 5)})


@given(SIDES, SIDES, SIDES, layouts, layouts, layouts, st.sampled_from([1.0, -0.5]),
       st.sampled_from([0.0, 1.0, 2.0]))
@settings(deadline=None)
def test_any_layout(interpret, m, n, k, of_a, of_b, of_c, alpha, beta):
    a_values, b_values = whole_numbers((m, k), 1), whole_numbers((k, n), 2)
    c_values = whole_numbers((m, n), 3) if beta else np.full((m, n), np.nan)
    (a, a_matrix), (b, b_matrix) = laid_out(a_values, of_a), laid_out(b_values, of_b)
    c, c_matrix = laid_out(c_values, {**of_c, "transposed": False})
    before, place = c.copy(), places(c_matrix)
    call = product(a_matrix, b_matrix, c_matrix, alpha, beta)
    interpret([call], a, b, c)
    expected = alpha * a_values @ b_values
    np.testing.assert_array_equal(c[place], expected + beta * c_values if beta else expected)
    before[place] = c[place]
    np.testing.assert_array_equal(c, before)        # nothing else was written


def test_one_call_by_hand():
    """y (2, 3) = x (2, 4) W (3, 4)^T, all contiguous: y^T (3 x 2) = W x^T, where cuBLAS reads W^T and x^T as
    stored."""
    call = product(Matrix.contiguous(2, 4), Matrix.contiguous(3, 4).T, Matrix.contiguous(2, 3))
    assert call == Gemm(transa=True, transb=False, m=3, n=2, k=4, a=0, lda=4, b=0, ldb=4, c=0, ldc=3)
    assert call.routine == "gemm"


def test_kept_rows_by_hand():
    """Of W (10, 4) rows 1, 4, 7 lie 3 * 4 elements from each other, the first at 4."""
    x, W, y = Matrix.contiguous(2, 4), Matrix.contiguous(10, 4), Matrix.contiguous(2, 3)
    assert kept_product(x, W.T, y, outer=Kept(1, 3, 1, 8)) is not None
    assert kept_product(x, W.part(rows=(0, 1, 8)).T, y, outer=Kept(1, 3, 1, 8)) == [
        Gemm(transa=True, transb=False, m=3, n=2, k=4, a=4, lda=12, b=0, ldb=4, c=0, ldc=3)]


@pytest.mark.parametrize("matrix", [Matrix(3, 4, 8, 2), Matrix(3, 4, 0, 1), Matrix(3, 4, -4, 1),
                                    Matrix(3, 4, 4, -1), Matrix(3, 4, 3, 1), Matrix(3, 4, 2**31, 1)],
                         ids=["both strided", "broadcast", "reversed", "mirrored", "overlapping",
                              "too far apart"])
def test_what_blas_cannot_read_is_not_asked_for(matrix):
    good = Matrix.contiguous(4, 5)
    assert product(matrix, good, Matrix.contiguous(3, 5)) is None
    assert product(good.T, matrix.T, Matrix.contiguous(5, 3)) is None
    assert product(Matrix.contiguous(3, 5), Matrix.contiguous(5, 4), matrix) is None
    assert batched(matrix, good, Matrix.contiguous(3, 5), (0, 0, 0), 2) is None


def test_a_result_along_columns_is_not_asked_for():
    assert product(Matrix.contiguous(3, 4), Matrix.contiguous(4, 5), Matrix.contiguous(5, 3).T) is None


def test_shapes_that_do_not_fit():
    with pytest.raises(BackendError, match=r"^product: \(3, 4\) times \(5, 6\) does not give \(3, 6\)$"):
        product(Matrix.contiguous(3, 4), Matrix.contiguous(5, 6), Matrix.contiguous(3, 6))


def test_of_array():
    array = np.zeros((6, 10), np.float32)
    misaligned = np.zeros(6, np.dtype([("a", "i1"), ("b", "f4")]))["b"].reshape(3, 2)
    for view, expected in ((array, Matrix.contiguous(6, 10)), (array[1::2, 3:7].T, Matrix(4, 3, 1, 20)),
                           (misaligned, None)):
        assert Matrix.of(view.shape, view.strides, view.itemsize) == expected


# -- kept sets -----------------------------------------------------------------------------------------------
@st.composite
def kept_sets(draw, most=24):
    total = draw(st.integers(1, most))
    step = draw(st.integers(1, total + 2))
    width = draw(st.integers(1, step))
    kind = draw(st.sampled_from(["regular", "regular", "regular", "list", "all", "none"]))
    if kind == "none":
        return None, total
    if kind == "all":
        return Kept.all(total), total
    if kind == "list":
        mask = draw(st.lists(st.booleans(), min_size=total, max_size=total))
        return Kept.of(np.flatnonzero(mask), total), total
    return Kept(draw(st.integers(1 - width, total)), step, width, total), total


def indices(kept, total):
    return np.arange(total) if kept is None else kept.indices


@given(kept_sets())
def test_runs_have_every_kept_entry_in_its_place(drawn):
    kept, total = drawn
    parts = runs_of(kept, total)
    expected = indices(kept, total)
    if parts is None:
        assert kept.regular is None
        return
    assert len(parts) <= 3
    found = np.full(len(expected), -1)
    for part in parts:
        for j in range(part.count):
            found[part.at + j] = part.first + j // part.width * part.step + j % part.width
        if part.simple:
            first, step, count = part.simple
            assert [first + i * step for i in range(count)] == found[part.at:part.at + part.count].tolist()
        assert [(one.first, one.at) for one in part.each()] == [
            (part.first + i * part.step, part.at + i * part.width) for i in range(part.runs)]
    np.testing.assert_array_equal(found, expected)


def test_runs_by_hand():
    assert runs_of(Kept(-3, 10, 5, 27), 27) == [Runs(0, 2, 1, 1, 0), Runs(7, 5, 10, 2, 2)]
    assert runs_of(Kept(4, 10, 5, 27), 27) == [Runs(4, 5, 10, 2, 0), Runs(24, 3, 1, 1, 10)]
    assert runs_of(Kept(1, 3, 1, 27), 27) == [Runs(1, 1, 3, 9, 0)]
    assert runs_of(Kept.of([4, 5, 6], 27), 27) == [Runs(4, 3, 1, 1, 0)]
    assert runs_of(Kept.of([4, 6], 27), 27) is None
    assert runs_of(Kept.of([], 27), 27) == []


@given(kept_sets(), kept_sets(), SIDES, st.booleans(), st.integers(1, 3), st.integers(1, 9),
       st.integers(0, 3))
@settings(deadline=None, max_examples=300)
def test_weights_read_in_place(interpret, rows, cols, samples, stored_by_column, least_run, most_calls, gap):
    """Forward, input gradient and weight gradient of a product with dropped outputs (rows) and inputs
    (columns)."""
    (rows, outputs), (cols, inputs) = rows, cols
    live_rows, live_cols = indices(rows, outputs), indices(cols, inputs)
    values = whole_numbers((outputs, inputs))
    W, matrix = laid_out(values, {"transposed": stored_by_column, "gap": gap, "offset": 2})
    for b, inner, outer, expected_b in ((matrix.T, cols, rows, values.T[np.ix_(live_cols, live_rows)]),
                                        (matrix, rows, cols, values[np.ix_(live_rows, live_cols)])):
        k, n = expected_b.shape
        x_values = whole_numbers((samples, k), 5)
        x, y = x_values.ravel().copy(), np.full(samples * n, np.nan)
        calls = kept_product(Matrix.contiguous(samples, k), b, Matrix.contiguous(samples, n), inner, outer,
                             least_run, most_calls)
        if calls is None:
            continue
        assert len(calls) <= most_calls
        interpret(calls, x, W, y)
        if k:
            np.testing.assert_array_equal(y.reshape(samples, n), x_values @ expected_b)
        else:
            assert calls == []


@in_turn("rows, cols, forward, gradient", [
    # W (200, 300) by rows: calls of forward and of input gradient; None: gathered. The table in
    # backend/cublas.py.
    (None, None, 1, 1),
    (Kept(1, 3, 1, 200), None, 1, 1),
    (Kept(20, 200, 70, 200), None, 1, 1),
    (Kept(0, 100, 70, 200), None, 1, 2),
    (Kept(-30, 100, 70, 200), None, 3, 3),
    (Kept(0, 10, 5, 200), None, None, None),
    (Kept.of([1, 5, 6], 200), None, None, None),
    (None, Kept(40, 300, 80, 300), 1, 1),
    (None, Kept(0, 150, 80, 300), 2, 1),
    (None, Kept(1, 3, 1, 300), None, None),
    (None, Kept.of([1, 5, 6], 300), None, None),
    (Kept(1, 3, 1, 200), Kept(40, 300, 80, 300), 1, 1),
    (Kept(20, 200, 70, 200), Kept(40, 300, 80, 300), 1, 1),
    (Kept(1, 3, 1, 200), Kept(1, 3, 1, 300), None, None),
])
def test_the_table(rows, cols, forward, gradient):
    W = Matrix.contiguous(200, 300)
    n, k = len(indices(rows, 200)), len(indices(cols, 300))
    x, y = Matrix.contiguous(8, k), Matrix.contiguous(8, n)
    for expected, calls in ((forward, kept_product(x, W.T, y, cols, rows)),
                            (gradient, kept_product(y, W, x, rows, cols))):
        assert (calls and len(calls)) == expected


def test_a_batch_of_runs_is_one_call():
    W = Matrix.contiguous(400, 300)
    [call] = kept_product(Matrix.contiguous(8, 300), W.T, Matrix.contiguous(8, 280),
                          outer=Kept(5, 100, 70, 400))
    assert (call.batch, call.stride_a, call.stride_b, call.stride_c) == (4, 100 * 300, 0, 70)
    assert call.routine == "gemmStridedBatched"


def test_kept_samples_are_the_inner_axis_of_a_weight_gradient(interpret):
    """gW = gy[kept]^T x[kept]: both operands strided alike, by their leading dimensions."""
    gy, x = whole_numbers((9, 4), 1), whole_numbers((9, 5), 2)
    part = (1, 3, 3)
    call = product(Matrix.contiguous(9, 4).part(rows=part).T, Matrix.contiguous(9, 5).part(rows=part),
                   Matrix.contiguous(4, 5))
    assert (call.ldb, call.lda) == (12, 15)
    out = np.full(20, np.nan)
    interpret([call], gy.ravel(), x.ravel(), out)
    np.testing.assert_array_equal(out.reshape(4, 5), gy[1::3].T @ x[1::3])


# -- tiles ---------------------------------------------------------------------------------------------------
@given(st.integers(2, 5), st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), SIDES, st.integers(0, 4))
@settings(deadline=None)
def test_classes_of_tiles_in_one_batch(interpret, period, outputs, inputs, size, samples, offset):
    """Gathered, filled up with zeros and multiplied at once, all classes give the product with the tiles as a
    mask."""
    pattern = TilePattern(0.5, 1.0, period, offset % period, size, drops="weights")
    W, x, gy = whole_numbers((outputs, inputs)), whole_numbers((samples, inputs),
                                                               1), whole_numbers((samples, outputs), 2)
    masked = W * pattern.weight_mask(outputs, inputs)
    classes = pattern.tiles(outputs, inputs)
    m, n, k = padded([(samples, outs.count, ins.count) for outs, ins in classes],
                     most_waste=np.inf) or (0, 0, 0)
    if not m:
        assert not masked.any()
        return
    count = len(classes)
    weights, xs, gys = np.zeros((count, n, k)), np.zeros((count, m, k)), np.zeros((count, m, n))
    for i, (outs, ins) in enumerate(classes):
        weights[i, :outs.count, :ins.count] = W[np.ix_(outs.indices, ins.indices)]
        xs[i, :, :ins.count], gys[i, :, :outs.count] = x[:, ins.indices], gy[:, outs.indices]
    of_x, of_w, of_y = (Matrix.contiguous(*shape) for shape in ((m, k), (n, k), (m, n)))
    y, gx, gW = np.zeros((samples, outputs)), np.zeros((samples, inputs)), np.zeros((outputs, inputs))
    for a, b, matrices, out in ((xs, weights, (of_x, of_w.T, of_y), np.full((count, m, n), np.nan)),
                                (gys, weights, (of_y, of_w, of_x), np.full((count, m, k), np.nan)),
                                (gys, xs, (of_y.T, of_x, of_w), np.full((count, n, k), np.nan))):
        call = batched(*matrices, [array[0].size for array in (a, b, out)], count)
        assert (call.batch, call.routine) == (count, "gemm" if count == 1 else "gemmStridedBatched")
        interpret([call], a.ravel(), b.ravel(), out.reshape(-1))
        for i, (outs, ins) in enumerate(classes):
            if b is xs:
                gW[np.ix_(outs.indices, ins.indices)] = out[i, :outs.count, :ins.count]
            elif a is xs:
                y[:, outs.indices] = out[i, :, :outs.count]
            else:
                gx[:, ins.indices] = out[i, :, :ins.count]
    np.testing.assert_array_equal(y, x @ masked.T)
    np.testing.assert_array_equal(gx, gy @ masked)
    np.testing.assert_array_equal(gW, gy.T @ x * pattern.weight_mask(outputs, inputs))


def test_padding_is_worth_it_up_to_a_quarter():
    assert padded([(8, 100, 90), (8, 96, 90)]) == (8, 100, 90)
    assert padded([(8, 100, 90), (8, 30, 90)]) is None
    assert padded([(8, 100, 90), (8, 100, 30)]) is None
    assert padded([(8, 0, 90), (8, 4, 0)]) is None


def test_the_interpreter_finds_mistakes(interpret):
    """A check that cannot fail proves nothing."""
    good = dict(transa=False, transb=False, m=3, n=2, k=4, a=0, lda=3, b=0, ldb=4, c=0, ldc=3)
    a, b = whole_numbers((2, 4)), whole_numbers((4, 3))
    c = np.empty(6)
    interpret([Gemm(**good)], a.ravel(), b.ravel(), c)
    np.testing.assert_array_equal(c.reshape(2, 3), a @ b)
    for change, error in ({"a": 1}, IndexError), ({"ldb": 5},
                                                  IndexError), ({"lda": 2},
                                                                ValueError), ({"k": 0}, ValueError), (
            {"c": -1}, IndexError), ({"batch": 2}, ValueError), ({"transa": True}, ValueError):
        with pytest.raises(error):
            interpret([Gemm(**{**good, **change})], a.ravel(), b.ravel(), c)
