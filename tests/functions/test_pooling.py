"""Pooling: against Caffe's loops written out, against PyTorch, gradients and kept channels."""

import numpy as np
import pytest

from minidrop import Kept, Tensor, check_gradients, functions
from minidrop.backend import Backend, get_backend
from minidrop.backend.window import Window
from minidrop.errors import KeptError, ShapeError
from minidrop.kept import KeptByGroup


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


# name: (image, size, stride, pad)
WINDOWS = {
    "2 by 2": ((6, 8), (2, 2), (2, 2), (0, 0)),
    "reaching over the end": ((7, 8), (3, 2), (2, 3), (0, 0)),
    "padded": ((7, 8), (3, 3), (2, 2), (1, 1)),
    "a last one behind the image": ((5, 5), (2, 2), (3, 3), (1, 1)),
    "overlapping": ((6, 5), (3, 4), (1, 1), (1, 2)),
    "the whole image": ((4, 5), (4, 5), (1, 1), (0, 0)),
    "larger steps than windows": ((9, 9), (2, 2), (4, 4), (0, 0)),
    "one by one": ((3, 4), (1, 1), (1, 1), (0, 0)),
}
every_window = pytest.mark.parametrize("case", WINDOWS)
rounding = pytest.mark.parametrize("ceil", [True, False])


def window_of(case):
    image, size, stride, pad = WINDOWS[case]
    return image, Window(size, stride, pad, (1, 1))


def caffe(x, window, ceil, method):
    """Return the tops of Caffe's loops (pooling_layer.cpp), and the index of the largest entry."""
    (height, width), (kh, kw), (sh, sw), (ph, pw) = x.shape[2:], window.size, window.stride, window.pad
    rounded = np.ceil if ceil else np.floor
    rows, columns = (int(rounded((n + 2 * p - k) / s)) + 1 for n, k, s, p
                     in zip(x.shape[2:], window.size, window.stride, window.pad, strict=True))
    if ph or pw:
        rows -= (rows - 1) * sh >= height + ph
        columns -= (columns - 1) * sw >= width + pw
    y, index = np.zeros((*x.shape[:2], rows, columns)), np.zeros((*x.shape[:2], rows, columns))
    for n, c, i, j in np.ndindex(y.shape):
        top, left = i * sh - ph, j * sw - pw
        bottom, right = min(top + kh, height + ph), min(left + kw, width + pw)
        size = (bottom - top) * (right - left)
        part = x[n, c, max(top, 0):min(bottom, height), max(left, 0):min(right, width)]
        y[n, c, i, j] = part.max() if method == "MAX" else part.sum() / size
        h, w = np.unravel_index(part.argmax(), part.shape)
        index[n, c, i, j] = (h + max(top, 0)) * width + w + max(left, 0)
    return y, index


@pytest.fixture(params=["cpu", "generic"])
def device(request):
    return get_backend("cpu") if request.param == "cpu" else Backend()


@rounding
@every_window
def test_forward_is_caffes(case, ceil, device):
    image, window = window_of(case)
    x = Tensor(numbers(2, 3, *image), backend=device)
    largest, index = functions.max_pooling(x, window, ceil, with_index=True)
    expected, places = caffe(x.data, window, ceil, "MAX")
    np.testing.assert_array_equal(largest.data, expected)
    np.testing.assert_array_equal(index.data, places)
    means, _ = caffe(x.data, window, ceil, "AVE")
    np.testing.assert_allclose(functions.mean_pooling(x, window, ceil).data, means, rtol=1e-12)


@rounding
@every_window
def test_gradients(case, ceil, device):
    image, window = window_of(case)
    lead = (1, 2) if ceil else (2, 1)       # two channels, or two images
    distinct = np.random.default_rng(1).permutation(2 * image[0] * image[1]).reshape(*lead, *image) / 7.0
    for function in (functions.max_pooling, functions.mean_pooling):
        check_gradients(lambda x, f=function: f(on(device, x), window, ceil), distinct)


def on(device, x):
    """The same tensor, computed by another backend."""
    x.backend = device
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_lines_of_many_vectors(step, dtype):
    """Equal entries, infinities, NaN, windows of nothing but -infinity, the last places beyond the image."""
    rng = np.random.default_rng(step)
    for width, size, pad in ((90, 2, 0), (67, 3, 1), (35, 5, 2), (131, 1, 0)):
        x = rng.integers(-3, 4, (2, 3, 9, width)).astype(dtype)
        x[rng.random(x.shape) < 0.2] = -np.inf
        x[0][rng.random(x[0].shape) < 0.05] = np.nan
        x[1, 2] = -np.inf
        window = Window((3, size), (2, step), (1, pad), (1, 1))
        more = -(-(width + 2 * pad - size) // step) + 1
        more -= (more - 1) * step >= width + pad
        for places in (window.places(x.shape[2:]), (5, more)):
            with np.errstate(invalid="ignore"):
                for name in ("max_pool", "mean_pool"):
                    found, expected = (getattr(one, name)(x, window, places)
                                       for one in (get_backend("cpu"), Backend()))
                    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_equal_entries_and_nan(device):
    """Of equal entries the first gets the gradient; NaN is the largest, so that divergence is noticed."""
    x = Tensor(np.zeros((1, 1, 2, 4)), True, device)
    functions.max_pooling(x, Window.of((2, 2), 2)).backward(np.ones((1, 1, 1, 2)))
    np.testing.assert_array_equal(x.grad[0, 0], [[1, 0, 1, 0], [0, 0, 0, 0]])
    x = np.array([[[[1.0, np.nan, 2.0, 3.0], [4.0, 0.0, -np.inf, -np.inf]]]])
    y = functions.max_pooling(Tensor(x, backend=device), Window.of((2, 2), 2)).data
    assert np.isnan(y[0, 0, 0, 0]) and y[0, 0, 0, 1] == 3
    lowest = Tensor(np.full((1, 1, 2, 2), -np.inf), backend=device)
    y, index = functions.max_pooling(lowest, Window.of((2, 2)), with_index=True)
    assert y.data.item() == -np.inf and index.data.item() == 0


@pytest.mark.parametrize("size, stride, pad", [(2, 2, 0), (3, 2, 0), (3, 2, 1)])
def test_against_pytorch(size, stride, pad):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    x = numbers(2, 3, 9, 9)
    ours, theirs = Tensor(x, True), torch.tensor(x, requires_grad=True)
    y = functions.max_pooling(ours, Window.of((size, size), stride, pad), ceil=False)
    expected = torch.nn.functional.max_pool2d(theirs, size, stride, pad)
    np.testing.assert_array_equal(y.data, expected.detach().numpy())
    gy = numbers(*y.shape, seed=1)
    y.backward(gy)
    np.testing.assert_allclose(ours.grad, torch.autograd.grad(expected, theirs, torch.tensor(gy))[0].numpy())


class TestStochastic:
    WINDOW = Window.of((2, 2), 2)

    def test_draws_in_proportion_to_the_values(self):
        x = np.tile(np.array([[1.0, 2.0], [3.0, 4.0]]), (100, 200))[None, None]
        y = functions.stochastic_pooling(Tensor(x), self.WINDOW, key=7).data
        shares = [(y == value).mean() for value in (1, 2, 3, 4)]
        assert y.size == 20000 and np.allclose(shares, [0.1, 0.2, 0.3, 0.4], atol=0.015)

    def test_gradient_goes_to_what_was_drawn(self):
        x = Tensor(abs(numbers(2, 3, 5, 7)), True)
        y, index = functions.stochastic_pooling(x, self.WINDOW, key=3, with_index=True)
        y.backward(np.ones(y.shape))
        assert x.grad.sum() == y.data.size
        taken = np.take_along_axis(x.data.reshape(2, 3, 35), index.data.reshape(2, 3, -1).astype(int), 2)
        np.testing.assert_array_equal(taken.reshape(y.shape), y.data)

    def test_in_a_test_the_mean_weighted_by_the_values(self):
        x = np.array([[[[1.0, 3.0, 0.0, 0.0], [0.0, 4.0, 0.0, 0.0]]]])
        y = functions.stochastic_pooling(Tensor(x), self.WINDOW, key=None).data
        np.testing.assert_allclose(y[0, 0, 0], [26 / 8, 0])

    def test_the_same_key_draws_the_same(self):
        x = Tensor(abs(numbers(2, 3, 6, 6)))
        one, two, other = (functions.stochastic_pooling(x, self.WINDOW, key).data for key in (5, 5, 6))
        assert (one == two).all() and (one != other).any()


@pytest.mark.parametrize("kept", [Kept(0, 2, 1, 6), Kept(9, 9, 2, 6), KeptByGroup([Kept.of([0, 2, 4], 6),
                                                                                  Kept.of([1], 6)])])
@pytest.mark.parametrize("function", [functions.max_pooling, functions.mean_pooling])
def test_kept_channels_are_passed_on(function, kept):
    x, window = Tensor(numbers(4, 6, 5, 5)), Window.of((3, 3), 2)
    y = function(functions.take(x, kept, 1), window)
    assert y.kept == kept
    mask = (kept.mask(4) if isinstance(kept, KeptByGroup) else kept.mask()[None])[..., None, None]
    np.testing.assert_array_equal(y.numpy(), function(x, window).data * mask)


def test_kept_places_are_refused():
    with pytest.raises(KeptError, match="pooling would mix the entries of .* on axis 2"):
        lines = functions.take(Tensor(numbers(1, 2, 6, 6)), Kept(0, 2, 1, 6), 2)
        functions.max_pooling(lines, Window.of((2, 2)))


@pytest.mark.parametrize("window, words", [
    (Window((2, 3), (1, 1), (1, 3), (1, 1)), r"pad \(1, 3\) must be smaller than the window, \(2, 3\)"),
    (Window.of((2, 2), dilation=2), r"a window has no holes, got dilation \(2, 2\)")])
def test_windows_without_an_entry_and_with_holes_are_refused(window, words):
    x = Tensor(numbers(1, 2, 6, 6))
    for function in (functions.max_pooling, functions.mean_pooling,
                     lambda x, window: functions.stochastic_pooling(x, window, 3)):
        with pytest.raises(ShapeError, match=words):
            function(x, window)


def test_the_weighted_mean_hides_no_nan(device):
    x = Tensor(np.array([[[[np.nan, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]]]]), backend=device)
    y = functions.stochastic_pooling(x, Window.of((2, 2), 2), key=None).data
    assert np.isnan(y[0, 0, 0, 0]) and y[0, 0, 0, 1] == 0
