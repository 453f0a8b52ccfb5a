"""Embed reads the rows that are named, and its gradient holds those rows alone."""

import tracemalloc

import numpy as np
import pytest

from minidrop import DataError, Kept, Parameter, ShapeError, Tensor, functions

W = np.arange(12.0).reshape(4, 3)


def table(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32, np.float64])
def test_rows_by_number(kind):
    y = functions.embed(Tensor(np.array([[2, 0], [2, 3]], kind)), Tensor(W), Tensor(np.array([0.5, 0, -1])))
    assert y.numpy().tolist() == [[[6.5, 7, 7], [0.5, 1, 1]], [[6.5, 7, 7], [9.5, 10, 10]]]


def test_kept_columns_only():
    kept = Kept.of([0, 2], 3)
    y = functions.embed(Tensor(np.array([3, 1])), Tensor(W), Tensor(np.array([100.0, 200, 300])), kept)
    assert y.data.tolist() == [[109, 311], [103, 305]] and (y.kept, y.kept_axis) == (kept, 1)
    assert y.numpy().tolist() == [[109, 0, 311], [103, 0, 305]]


def test_the_gradient_is_that_of_the_rows_that_occur():
    W_, b = Parameter(W.copy()), Parameter(np.zeros(3))
    y = functions.embed(Tensor(np.array([2, 0, 2, 2])), W_, b, Kept.of([0, 2], 3))
    y.backward(np.array([[1.0, 2], [10, 20], [100, 200], [1000, 2000]]))
    block, = W_.blocks
    assert block.data.tolist() == [[10, 20], [1101, 2202]]
    assert (block.rows, block.cols) == (Kept.of([0, 2], 4), Kept.of([0, 2], 3))
    assert W_.grad.tolist() == [[10, 0, 20], [0, 0, 0], [1101, 0, 2202], [0, 0, 0]]
    assert b.blocks[0].data.tolist() == [1111, 2222] and b.grad.tolist() == [1111, 0, 2222]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0), ()])
def test_few_or_no_indices(shape):
    W_ = Parameter(W.copy())
    y = functions.embed(Tensor(np.ones(shape)), W_)
    assert y.shape == (*shape, 3)
    y.backward(np.ones(y.shape))
    assert W_.blocks[0].rows.count == (shape == ()) and W_.grad.sum() == 3 * (shape == ())


def test_what_one_row_gets_is_added_in_order(dtype):
    """A sum of floats depends on its order, so the order is fixed: the same bits every time."""
    rng = np.random.default_rng(1)
    ids, gy = rng.integers(0, 7, 500), (rng.standard_normal((500, 65))
                                        * 10.0 ** rng.integers(-6, 6, (500, 1))).astype(dtype)
    results = []
    for _ in range(2):
        W_ = Parameter(table(9, 65).astype(dtype))
        functions.embed(Tensor(ids), W_).backward(gy)
        results.append(W_.blocks[0].data)
    expected = np.zeros((7, 65), dtype)
    for i, row in zip(ids, gy, strict=True):
        expected[i] += row
    for got in results:
        np.testing.assert_array_equal(got, expected)


def test_no_array_of_the_tables_size_is_made():
    W_ = Parameter(table(50_000, 20))

    def step():
        functions.embed(Tensor(np.array([1, 5, 49_999])), W_).backward(np.ones((3, 20)))
        W_.backend.sgd_update(W_.data, np.zeros((1, 1)), W_.blocks, 0.1, 0.0, 0.0, False, 1.0)
        W_.clear_grad()

    step()      # compiles
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < W_.data.nbytes / 50


@pytest.mark.parametrize("ids, value, place", [
    ([0, 4, 1], "4", 1), ([0, 1, -1], "-1", 2), ([0.5, 1, 2], "0.5", 0), ([0, np.nan, 9], "nan", 1),
    ([np.inf], "inf", 0), ([[0, 1], [2, 7]], "7", 3),
])
def test_an_index_out_of_range(ids, value, place):
    with pytest.raises(DataError) as caught:
        functions.embed(Tensor(np.array(ids)), Tensor(W))
    assert str(caught.value) == (f"index {value} at place {place} of the batch is out of range: expected a "
                                 f"whole number of 0..3 (the table has 4 rows)")
    assert caught.value.place == place


def test_a_kept_set_that_does_not_fit():
    with pytest.raises(ShapeError) as caught:
        functions.embed(Tensor(np.array([1])), Tensor(W), None, Kept(0, 2, 1, 4))
    assert str(caught.value) == ("embed: Kept(2 of 4: 1 of every 2 from 0) does not fit W of shape (4, 3), "
                                 "which has 3 columns")


def test_indices_get_no_gradient():
    ids, W_ = Tensor(np.array([1.0, 2.0]), requires_grad=True), Tensor(W, requires_grad=True)
    functions.embed(ids, W_).backward(np.ones((2, 3)))
    assert ids.grad is None and W_.grad.tolist() == [[0, 0, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0]]
