"""Every method that a backend overrides equals the generic one, which is written in NumPy's terms."""

import inspect
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from agreement import GENERIC, memory, same
from cases import in_turn

from minidrop.backend import Backend, NumpyBackend
from minidrop.backend.cuda.backend import CupyBackend
from minidrop.kernels import threads


@pytest.fixture
def backend(any_backend):
    return any_backend


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_column_sums_do_not_depend_on_the_threads(monkeypatch, columns, count):
    """A matrix of one column alone NumPy would sum in pairs."""
    x = np.random.default_rng(0).standard_normal((9000, columns)).astype(np.float32)
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 1)
    sums = []
    for threads_now in (1, count):
        monkeypatch.setattr(threads, "COUNT", threads_now)
        sums.append(NumpyBackend().column_sums(x))
    np.testing.assert_array_equal(*sums)


@memory
@in_turn("shape", [(1, 1), (129, 7), (0, 3), (3, 0)])
def test_column_sums_and_sum_of_squares(backend, array, close, shape, layout):
    x = array(shape, layout)
    close(backend.to_host(backend.column_sums(backend.asarray(x))), x.astype(float).sum(axis=0))
    close(backend.sum_of_squares(backend.asarray(x)), (x.astype(float) ** 2).sum())
    y = array((4, 5), layout)
    several = x, y, x[:1]
    close(backend.sum_of_squares(*map(backend.asarray, several)),
          sum((a.astype(float) ** 2).sum() for a in several))
    on_device = backend.squares(*map(backend.asarray, several))
    assert on_device.shape == () and on_device.dtype == np.float64
    assert float(on_device) == backend.sum_of_squares(*map(backend.asarray, several))


def test_a_sum_of_squares_leaves_the_device_once(monkeypatch):
    transfers = []

    class Scalar:
        """A number on a device."""

        def __init__(self, value):
            self.value = value

        def __add__(self, other):
            return Scalar(self.value + other.value)

        def __float__(self):
            transfers.append(self.value)
            return self.value

    monkeypatch.setattr(Backend, "xp", SimpleNamespace(zeros=lambda shape, dtype: Scalar(0.0),
                                                       dot=lambda a, b: Scalar(float(np.dot(a, b)))))
    assert Backend().sum_of_squares(*(np.full(3, float(n)) for n in (1, 2, 3))) == 42
    assert transfers == [42]


def test_nothing_has_no_squares(backend):
    assert backend.sum_of_squares() == 0 and type(backend.sum_of_squares()) is float


@memory
@in_turn("shape", [(1, 1), (5, 200), (130, 7), (2, 3, 4), (9,), (0, 3)])
@in_turn("scale", [1, 2.5])
@in_turn("activation", ["none", "relu", "sigmoid", "tanh"])
def test_activate(backend, array, close, activation, scale, shape, layout):
    x, gy, b = array(shape, layout), array(shape, layout), array(shape[-1:], layout)
    for bias in (None, b):
        total = x.astype(float) + (0 if bias is None else bias)
        f = {"none": total, "relu": total * (total > 0), "sigmoid": 1 / (1 + np.exp(-total)),
             "tanh": np.tanh(total)}
        f = f[activation]
        slope = {"none": 1, "relu": total > 0, "sigmoid": f * (1 - f), "tanh": 1 - f * f}[activation]
        for on in (backend, GENERIC):
            y = on.activate(on.asarray(x), None if bias is None else on.asarray(bias), activation, scale)
            close(on.to_host(y), scale * f)
            gx = on.to_host(on.activate_gradient(on.asarray(gy), y, activation, scale))
            assert gx.dtype == gy.dtype
            close(gx, gy * scale * slope)


@memory
@in_turn("shape", [(1, 1), (5, 200), (130, 7), (0, 3)])
@in_turn("scale", [1, 2.5])
@in_turn("activation", ["none", "relu", "sigmoid", "tanh"])
def test_activate_in_place(backend, array, activation, scale, shape, layout):
    x, b = array(shape, layout), array(shape[-1:], layout)
    for on in (backend, GENERIC):
        for bias in (None, on.asarray(b)):
            expected = on.to_host(on.activate(on.asarray(x), bias, activation, scale))
            mine = on.asarray(x.copy())
            assert on.activate(mine, bias, activation, scale, out=mine) is mine
            np.testing.assert_array_equal(on.to_host(mine), expected)


@memory
@in_turn("shape", [(1, 1), (130, 7), (2, 3, 4), (0, 3)])
def test_exponentials(backend, array, close, shape, layout):
    x = -20 * abs(array(shape, layout))
    for on in (backend, GENERIC):
        y = on.asarray(x.copy())
        on.exp_of_nonpositive(y)
        close(on.to_host(y), np.exp(x))


@memory
@in_turn("shape", [(1, 1), (130, 7), (2, 3, 4), (0, 3)])
def test_relu(backend, array, shape, layout):
    x, gy = array(shape, layout), array(shape, layout)
    for on in (backend, GENERIC):
        y = on.relu(on.asarray(x))
        same(on, y, np.where(x > 0, x, 0).astype(x.dtype))
        same(on, on.relu_gradient(on.asarray(gy), y), np.where(x > 0, gy, 0).astype(x.dtype))
        same(on, on.add(on.asarray(x), on.asarray(gy)), x + gy)
        same(on, on.add(on.asarray(x), on.asarray(gy), "relu"), np.maximum(x + gy, 0))


def test_a_nan_stays_one(backend, dtype):
    x = backend.asarray(np.array([np.nan, -1, 2], dtype))
    for activation in ("none", "relu"):
        assert np.isnan(backend.to_host(backend.add(x, x, activation))).tolist() == [True, False, False]
    for activation in ("none", "relu", "sigmoid", "tanh"):
        assert np.isnan(backend.to_host(backend.activate(x, None, activation, 1))).tolist() == [True, False,
                                                                                                False]
        y = x[None] * 1
        assert np.isnan(backend.to_host(backend.activate(y, x * 0, activation, 2,
                                                         out=y))).tolist() == [[True, False, False]]


@memory
@in_turn("rows, classes", [(1, 1), (3, 10), (33, 65), (9, 1023), (5, 1024), (5, 1025),
                           (3, 3001), (0, 4)])
def test_cross_entropy(backend, array, close, rows, classes, layout):
    x = array((rows, classes), layout)
    x *= 10
    x[:1, :1] += 200        # one that outweighs all others
    label = np.random.default_rng(2).integers(0, classes, rows)
    label[1:2] = classes - 1
    e = np.exp(x.astype(float) - x.max(axis=1, keepdims=True, initial=-np.inf))
    p = e / e.sum(axis=1, keepdims=True)
    logarithm = np.log(np.maximum(p[np.arange(rows), label], np.finfo(x.dtype).tiny))
    onehot = np.arange(classes) == label[:, None]
    valid = (np.arange(rows) % 3 > 0)[:, None]
    shifted = x.astype(float) - x.max(axis=1, keepdims=True, initial=-np.inf)
    middle = shifted.mean(axis=1) - np.log(e.sum(axis=1))
    counts = np.arange(classes) % 4 / 2        # what classes weigh, some nothing
    each = shifted - np.log(e.sum(axis=1, keepdims=True))
    for on, smoothing in itertools.product((backend, GENERIC), (0.0, 0.2)):
        for factor in (np.array(0.25), 0.25 * valid):
            probability, weight = on.empty(x.shape, x.dtype), on.asarray(counts, x.dtype)
            got = on.cross_entropy(on.asarray(x), on.asarray(label), probability, smoothing, weight)
            target = (1 - smoothing) * counts[label][:, None] * onehot + smoothing / classes * counts
            close(on.to_host(got), (1 - smoothing) * counts[label] * logarithm
                  + smoothing * (each * counts).mean(axis=1))
            on.cross_entropy_gradient(probability, on.asarray(label), on.asarray(factor.astype(x.dtype)),
                                      smoothing, weight)
            close(on.to_host(probability), (p * target.sum(axis=1, keepdims=True) - target) * factor)
            probability = on.empty(x.shape, x.dtype)
            got = on.cross_entropy(on.asarray(x), on.asarray(label), probability, smoothing)
            close(on.to_host(got), (1 - smoothing) * logarithm + smoothing * middle)
            close(on.to_host(probability), p)
            on.cross_entropy_gradient(probability, on.asarray(label), on.asarray(factor.astype(x.dtype)),
                                      smoothing)
            close(on.to_host(probability),
                  (p - (1 - smoothing) * onehot - smoothing / classes) * factor)


@in_turn("classes", [7, 2000])
@in_turn("bad", [np.nan, np.inf])
def test_cross_entropy_shows_what_is_not_finite(backend, dtype, bad, classes):
    """So that a diverging net is noticed; the next row is not touched, and -inf is a probability of 0."""
    x = np.zeros((3, classes), dtype)
    x[0, 3], x[1, 5] = bad, -np.inf
    for on in (backend, GENERIC):
        p = on.empty(x.shape, x.dtype)
        with np.errstate(invalid="ignore"):
            logarithm = on.to_host(on.cross_entropy(on.asarray(x), on.asarray(np.array([0, 0, 1])), p))
        assert np.isnan(logarithm).tolist() == [True, False, False]
        p = on.to_host(p)
        assert np.isnan(p[0]).all() and p[1, 5] == 0
        np.testing.assert_allclose(p[1:].sum(axis=1), 1, rtol=1e-5)


def test_arrays(backend, dtype):
    assert backend.empty((3, 4), dtype).shape == (3, 4)
    zeros = backend.zeros((300, 400), dtype)
    assert zeros.dtype == dtype and not backend.to_host(zeros).any()
    x = backend.asarray([[1, 2], [3, 4]], dtype)
    assert isinstance(x, backend.xp.ndarray) and backend.to_host(x).tolist() == [[1, 2], [3, 4]]
    assert type(backend.to_host(x)) is np.ndarray
    backend.synchronize()
    assert backend.describe().startswith(backend.name)


# Also what a backend is put together from.
OVERRIDES = [kind for one in (NumpyBackend, CupyBackend) for kind in one.__mro__
             if kind not in Backend.__mro__]


@in_turn("kind", OVERRIDES)
def test_signatures_do_not_drift(kind):
    """An override takes the arguments of the method it replaces, and no public method has no generic
    reference."""
    for name, method in vars(kind).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        assert hasattr(Backend, name), f"{kind.__name__}.{name} has no generic reference"
        assert bare(method) == bare(getattr(Backend, name)), name


def bare(method):
    """The signature without its types, which an override may narrow."""
    given = inspect.signature(method)
    return [one.replace(annotation=one.empty) for one in given.parameters.values()]
