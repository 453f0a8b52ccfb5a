"""Scores over many classes: work in pieces that never changes a result, and no array too many."""

import tracemalloc
import warnings

import numpy as np
import pytest

from minidrop import Tensor, functions
from minidrop.backend import Backend, NumpyBackend
from minidrop.backend.numpy import chunks
from minidrop.kernels import threads

PLACES, CLASSES = 37, 1001


@pytest.fixture
def scores(rng, dtype):
    return (rng.standard_normal((PLACES, CLASSES)) * 5).astype(dtype), rng.integers(0, CLASSES, PLACES)


def everything(backend, x, label, ignore_label=None, axis=1):
    """(loss, gradient, accuracy, accuracies by class, perplexity) as arrays."""
    tensor, label = Tensor(x.copy(), requires_grad=True, backend=backend), Tensor(label, backend=backend)
    loss = functions.softmax_cross_entropy(tensor, label, axis, ignore_label)
    loss.backward(np.asarray(0.7))
    measures = (*functions.accuracy(tensor, label, 3, axis, ignore_label, per_class=True),
                functions.perplexity(tensor, label, axis, ignore_label))
    return [loss.data, tensor.grad, *(tensor.data for tensor in measures)]


@pytest.mark.parametrize("ignored", [False, True])
def test_pieces_and_threads_change_no_bit(monkeypatch, scores, ignored):
    x, label = scores
    ignore_label = label[5] if ignored else None
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 0)
    results = []
    for count, rows in ((1, 1000), (1, 1), (1, 2), (1, 5), (3, 1), (3, 4), (2, 1000)):
        monkeypatch.setattr(threads, "COUNT", count)
        monkeypatch.setattr(chunks, "_BYTES", rows * x[0].nbytes + 1)
        results.append(everything(NumpyBackend(), x, label, ignore_label))
    for result in results[1:]:
        for got, expected in zip(result, results[0], strict=True):
            assert got.dtype == expected.dtype
            np.testing.assert_array_equal(got, expected)
    for got, expected in zip(results[0], everything(Backend(), x, label, ignore_label), strict=True):
        np.testing.assert_allclose(got, expected, rtol=8 * np.finfo(x.dtype).eps)


@pytest.mark.parametrize("axis", [0, 1])
def test_few_classes_too(monkeypatch, rng, dtype, axis):
    x, label = rng.standard_normal((4, 3, 5)).astype(dtype), rng.integers(0, 3, 60 // (4, 3)[axis])
    whole = everything(NumpyBackend(), x, label, 2, axis)
    monkeypatch.setattr(chunks, "_BYTES", 40)
    for got, expected in zip(everything(NumpyBackend(), x, label, 2, axis), whole, strict=True):
        np.testing.assert_array_equal(got, expected)


class Counting(NumpyBackend):
    """Hands out fresh arrays, and remembers their sizes."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def empty(self, shape, dtype):
        array = np.empty(shape, dtype)
        self.sizes.append(array.nbytes)
        return array


@pytest.mark.parametrize("axis", [1, 2])
def test_one_array_of_the_size_of_the_scores(rng, axis, monkeypatch):
    """700 tokens, 10,000 classes: probabilities, which become the gradient, and nothing else of that size."""
    monkeypatch.setattr(threads, "COUNT", 2)        # each has a chunk of its own
    backend = Counting()
    x = np.moveaxis(rng.standard_normal((35, 20, 10_000), np.float32), -1, axis)
    x = np.ascontiguousarray(x)
    tensor, label = Tensor(x, requires_grad=True, backend=backend), Tensor(rng.integers(0, 10_000, (35, 20)),
                                                                           backend=backend)
    tracemalloc.start()
    try:
        loss = functions.softmax_cross_entropy(tensor, label, axis, ignore_label=7)
        loss.backward()
        peak = tracemalloc.get_traced_memory()[1]
        assert sum(size >= x.nbytes // 2 for size in backend.sizes) == 1
        assert x.nbytes < peak < 1.1 * x.nbytes
        assert tensor.grad.shape == x.shape
        if axis == 2:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            functions.accuracy(tensor, label, 5, axis)
            functions.perplexity(tensor, label, axis)
            assert tracemalloc.get_traced_memory()[1] - before < 0.1 * x.nbytes
    finally:
        tracemalloc.stop()


def test_backward_leaves_the_scores_alone(scores):
    x, label = scores
    tensor = Tensor(x.copy(), requires_grad=True)
    functions.softmax_cross_entropy(tensor, Tensor(label)).backward()
    np.testing.assert_array_equal(tensor.data, x)


@pytest.mark.parametrize("count", [1, 3])
def test_threads_warn_where_the_caller_would_be_warned(monkeypatch, count):
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 0)
    monkeypatch.setattr(threads, "COUNT", count)
    x, label = Tensor(np.full((6, 3), np.inf)), Tensor(np.zeros(6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with np.errstate(invalid="ignore"):
            assert np.isnan(float(functions.softmax_cross_entropy(x, label)))
        with np.errstate(invalid="raise"), pytest.raises(FloatingPointError):
            functions.softmax_cross_entropy(x, label)


class TestPerplexity:
    def test_is_the_exponential_of_the_loss(self, backend, dtype, rng):
        for axis, label_shape in ((1, (4, 3)), (2, (4, 5)), (-1, (4, 5))):
            x, classes = rng.standard_normal((4, 5, 3)), (5, 3)[axis != 1]
            label = rng.integers(0, classes, label_shape)
            for ignore_label in (None, 1):
                x_, label_ = Tensor(backend.asarray(x.astype(dtype))), Tensor(backend.asarray(label))
                got = functions.perplexity(x_, label_, axis, ignore_label)
                assert got.dtype == dtype and got.shape == () and not got.requires_grad
                loss = float(functions.softmax_cross_entropy(x_, label_, axis, ignore_label))
                assert float(got) == pytest.approx(np.exp(loss), rel=1e-5)

    def test_of_equal_scores_is_the_number_of_classes(self, dtype):
        assert float(functions.perplexity(Tensor(np.zeros((6, 250), dtype)),
                                          Tensor(np.arange(6)))) == pytest.approx(250)

    @pytest.mark.parametrize("far", [1e4, np.inf])
    def test_too_large_is_infinite_without_a_warning(self, dtype, far):
        x = Tensor(np.array([[0, -far], [0, 0]], dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert float(functions.perplexity(x, Tensor([1, 0]))) == np.inf
            assert float(functions.perplexity(x, Tensor([1, 0]), ignore_label=1)) == pytest.approx(2)

    def test_nan_scores_stay_visible(self):
        assert np.isnan(float(functions.perplexity(Tensor(np.array([[0, np.nan]])), Tensor([0]))))

    def test_no_place_that_counts(self):
        assert float(functions.perplexity(Tensor(np.zeros((2, 3))), Tensor([9, 9]), ignore_label=9)) == 1

    def test_sees_dropped_units_as_zero(self):
        from minidrop import Kept
        x = functions.take(Tensor(np.array([[5.0, 7.0, 5.0]])), Kept(0, 2, 1, 3))
        assert float(functions.perplexity(x, Tensor([1]))) == pytest.approx(2 * np.exp(5) + 1)
