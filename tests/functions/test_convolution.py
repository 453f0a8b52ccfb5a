"""Convolution and its transpose: against PyTorch over a grid of shapes, gradients, and kept channels."""

import numpy as np
import pytest
from cases import every_pair, in_turn

from minidrop import Kept, ShapeError, Tensor, check_gradients, functions
from minidrop.backend import Backend, get_backend
from minidrop.backend.numpy import direct
from minidrop.backend.window import Window
from minidrop.functions.convolution import Depthwise
from minidrop.kept import KeptByGroup
from minidrop.kernels import vectors


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


# name: (images, inputs, outputs, groups, spatial, size, stride, pad, dilation)
SHAPES = {
    "3x2": (3, 4, 6, 1, (7, 9), (3, 2), (1, 1), (1, 0), (1, 1)),
    "strides and holes": (3, 4, 6, 1, (11, 9), (3, 3), (2, 1), (1, 2), (1, 2)),
    "groups": (3, 4, 6, 2, (7, 9), (3, 3), (2, 1), (1, 2), (1, 2)),
    "one channel": (1, 1, 5, 1, (12, 12), (5, 5), (1, 1), (0, 0), (1, 1)),
    "11 by 4": (2, 3, 5, 1, (40, 41), (11, 11), (4, 4), (0, 0), (1, 1)),
    "pad beyond the window": (2, 3, 5, 1, (4, 5), (2, 2), (1, 1), (3, 2), (1, 1)),
    "point": (2, 8, 5, 1, (4, 3), (1, 1), (1, 1), (0, 0), (1, 1)),
    "point in groups": (2, 8, 6, 2, (4, 3), (1, 1), (1, 1), (0, 0), (1, 1)),
    "point with stride": (2, 8, 5, 1, (5, 4), (1, 1), (2, 2), (0, 0), (1, 1)),
    "window as large as the image": (3, 2, 4, 1, (5, 6), (5, 6), (1, 1), (0, 0), (1, 1)),
    "rest at the border": (2, 2, 3, 1, (8, 9), (3, 3), (4, 4), (0, 0), (1, 1)),
    "lines": (2, 3, 5, 1, (12,), (3,), (2,), (1,), (2,)),
    "volumes": (2, 3, 4, 1, (5, 6, 7), (3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 2)),
    "each channel": (3, 4, 4, 4, (7, 18), (3, 3), (1, 1), (1, 1), (1, 1)),
    "each channel twice, strides": (2, 3, 6, 3, (9, 21), (3, 5), (2, 2), (1, 3), (2, 1)),
    "each channel of volumes": (2, 3, 3, 3, (4, 5, 6), (2, 3, 2), (1, 2, 1), (1, 1, 0), (1, 1, 1)),
    "bands of an image": (1, 150, 3, 1, (60, 61), (3, 3), (1, 1), (1, 1), (1, 1)),
}
every_shape = pytest.mark.parametrize("shape", SHAPES)


def case(shape, transposed=False):
    """Return (x, W, b, window, groups, and PyTorch's function of them)."""
    images, inputs, outputs, groups, spatial, size, stride, pad, dilation = SHAPES[shape]
    window = Window(size, stride, pad, dilation)
    if transposed:
        x = numbers(images, outputs, *window.places(spatial))
        W, b = numbers(outputs, inputs // groups, *size, seed=1), numbers(inputs, seed=2)
    else:
        x, W, b = (numbers(images, inputs, *spatial), numbers(outputs, inputs // groups, *size, seed=1),
                   numbers(outputs, seed=2))
    return x, W, b, window, groups


@every_pair(("shape", list(SHAPES)), ("activation, scale", [("none", 1.5), ("relu", 2.0), ("tanh", 1.0)]),
            ("biased", [True, False]))
def test_convolution_against_pytorch(shape, biased, activation, scale):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    x, W, b, window, groups = case(shape)
    inputs = [Tensor(a, requires_grad=True) for a in ((x, W, b) if biased else (x, W))]
    y = functions.convolution(*inputs[:2], inputs[2] if biased else None, window, groups,
                              activation=activation, scale=scale)
    own = [torch.tensor(a, requires_grad=True) for a in (x, W, b)[:len(inputs)]]
    convolution = (torch.nn.functional.conv1d, torch.nn.functional.conv2d,
                   torch.nn.functional.conv3d)[len(window.size) - 1]
    expected = convolution(own[0], own[1], own[2] if biased else None, window.stride, window.pad,
                           window.dilation, groups)
    expected = scale * {"none": lambda z: z, "relu": torch.relu, "tanh": torch.tanh}[activation](expected)
    np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    gy = numbers(*y.shape, seed=3)
    y.backward(gy)
    for tensor, gradient in zip(inputs, torch.autograd.grad(expected, own, torch.tensor(gy)), strict=True):
        np.testing.assert_allclose(tensor.grad, gradient.numpy(), rtol=1e-9, atol=1e-9)


@in_turn("biased", [True, False])
@every_shape
def test_deconvolution_against_pytorch(shape, biased):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    x, W, b, window, groups = case(shape, transposed=True)
    inputs = [Tensor(a, requires_grad=True) for a in ((x, W, b) if biased else (x, W))]
    y = functions.deconvolution(*inputs[:2], inputs[2] if biased else None, window, groups, scale=1.5)
    own = [torch.tensor(a, requires_grad=True) for a in (x, W, b)[:len(inputs)]]
    transposed = (torch.nn.functional.conv_transpose1d, torch.nn.functional.conv_transpose2d,
                  torch.nn.functional.conv_transpose3d)[len(window.size) - 1]
    expected = 1.5 * transposed(own[0], own[1], own[2] if biased else None, window.stride, window.pad,
                                groups=groups, dilation=window.dilation)
    np.testing.assert_allclose(y.data, expected.detach().numpy(), rtol=1e-9, atol=1e-9)
    gy = numbers(*y.shape, seed=3)
    y.backward(gy)
    for tensor, gradient in zip(inputs, torch.autograd.grad(expected, own, torch.tensor(gy)), strict=True):
        np.testing.assert_allclose(tensor.grad, gradient.numpy(), rtol=1e-9, atol=1e-9)


@in_turn("dtype", ["float32", "float64"])
@in_turn("in_place", [True, False])
@every_shape
def test_the_cpu_loops_agree_with_the_generic_methods(shape, dtype, in_place, monkeypatch):
    """Both kinds: where the images are (as many as can), and windows side by side."""
    x, W, b, window, groups = (a.astype(dtype) if isinstance(a, np.ndarray) else a for a in case(shape))
    monkeypatch.setattr(direct, "_LEAST_SHARE", 0 if in_place else 2)
    found = []
    for backend in (get_backend("cpu"), Backend()):
        inputs = [Tensor(a, requires_grad=True, backend=backend) for a in (x, W, b)]
        y = functions.convolution(*inputs, window, groups)
        y.backward(numbers(*y.shape, seed=3).astype(dtype))
        found.append([y.data, *(tensor.grad for tensor in inputs)])
    bound = 1e-3 if dtype == "float32" else 1e-10
    for got, expected in zip(*found, strict=True):
        assert got.dtype == expected.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=bound, atol=bound)


SETS = {"regular": Kept(1, 2, 1, 6), "list": Kept.of([0, 3, 4], 6), "empty": Kept(9, 9, 2, 6),
        "all": Kept.all(6), "one group alone": Kept.of([0, 1, 2], 6)}
BY_GROUP = {"even": KeptByGroup([Kept(0, 2, 1, 6), Kept(1, 2, 1, 6)]),
            "uneven": KeptByGroup([Kept.of([0, 2, 4, 5], 6), Kept.of([1], 6), Kept.of([3, 4], 6)]),
            "more than images": KeptByGroup([Kept.of([i], 6) for i in range(6)])}
KINDS = {"dense": (functions.convolution, 6, 6, 1), "in groups": (functions.convolution, 6, 6, 2),
         "transposed": (functions.deconvolution, 6, 6, 1),
         "transposed, in groups": (functions.deconvolution, 6, 6, 3)}


def expected_of(function, x, W, b, window, groups, in_kept, out_kept):
    """The same function with all channels, dropped ones multiplied by 0."""
    samples = len(x.data)

    def mask(kept, like):
        if kept is None:
            return like
        own = kept.mask(samples) if isinstance(kept, KeptByGroup) else np.tile(kept.mask(), (samples, 1))
        own = own.astype(np.float64).reshape(*own.shape, 1, 1) * np.ones((1, 1, *like.shape[2:]))
        return functions.multiply(like, Tensor(own))

    return mask(out_kept, function(mask(in_kept, x), W, b, window, groups))


def assert_kept_as_masked(function, groups, in_kept, out_kept, window=None):
    """A function of compact channels equals that of all channels with masks, and so do the gradients."""
    window = window or Window.of((3, 2), pad=1)
    results = []
    for compact in (True, False):
        x, W, b = (Tensor(a, requires_grad=True) for a in (
            numbers(5, 6, 4, 5), numbers(6, 6 // groups, *window.size, seed=1), numbers(6, seed=2)))
        if compact:
            own = x if in_kept is None else functions.take(x, in_kept, 1)
            y = functions.expand(function(own, W, b, window, groups, out_kept=out_kept))
        else:
            y = expected_of(function, x, W, b, window, groups, in_kept, out_kept)
        y.backward(numbers(*y.shape, seed=3))
        results.append([y.data, *(t.grad if t.grad is not None else np.zeros(t.shape) for t in (x, W, b))])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


@in_turn("outputs", [None, *SETS])
@in_turn("inputs", [None, *SETS])
@in_turn("kind", KINDS)
def test_kept_channels(kind, inputs, outputs):
    function, _, _, groups = KINDS[kind]
    assert_kept_as_masked(function, groups, SETS.get(inputs), SETS.get(outputs))


@in_turn("outputs", [None, "regular", *BY_GROUP])
@in_turn("inputs", [None, "list", *BY_GROUP])
@in_turn("kind", KINDS)
def test_channels_kept_by_groups_of_samples(kind, inputs, outputs):
    function, _, _, groups = KINDS[kind]
    sets = SETS | BY_GROUP
    assert_kept_as_masked(function, groups, sets.get(inputs), sets.get(outputs))


@pytest.mark.parametrize("kept", [*SETS, *BY_GROUP])
@in_turn("factor", [1, 2])
def test_each_channel_keeps_its_own_outputs(kept, factor):
    kept = (SETS | BY_GROUP)[kept]
    x, W, b = (Tensor(a, requires_grad=True) for a in (
        numbers(5, 6, 4, 5), numbers(6 * factor, 1, 3, 3, seed=1), numbers(6 * factor, seed=2)))
    y = functions.convolution(functions.take(x, kept, 1), W, b, groups=6)
    assert y.kept == kept.spread(factor)
    dense = Tensor(x.data)
    expected = functions.convolution(dense, W, b, groups=6)
    mask = y.kept.mask(5) if isinstance(kept, KeptByGroup) else np.tile(y.kept.mask(), (5, 1))
    mask = mask[..., None, None]
    np.testing.assert_allclose(y.numpy(), expected.data * mask, rtol=1e-12, atol=1e-12)
    check_gradients(lambda x, W, b: functions.convolution(functions.take(x, kept, 1), W, b, groups=6),
                    numbers(3, 6, 3, 4), W.data, b.data)        # two places of each of three images


@pytest.mark.parametrize("function", [functions.convolution, functions.deconvolution])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients(function, groups):
    window = Window((2, 3), (2, 1), (1, 0), (1, 2))
    check_gradients(lambda x, W, b: function(x, W, b, window, groups), numbers(2, 4, 5, 6),
                    numbers(4, 4 // groups, 2, 3, seed=1), numbers(4, seed=2))


def test_channels_on_a_later_axis():
    """Axes before that of the channels are images of their own."""
    x, W = numbers(2, 3, 4, 5, 6), numbers(7, 4, 3, 3, seed=1)
    y = functions.convolution(Tensor(x), Tensor(W), axis=2)
    flat = functions.convolution(Tensor(x.reshape(6, 4, 5, 6)), Tensor(W))
    assert y.shape == (2, 3, 7, 3, 4)
    np.testing.assert_array_equal(y.data, flat.data.reshape(y.shape))
    check_gradients(lambda x, W: functions.convolution(x, W, axis=2), x, W)


def test_a_batch_without_images():
    x, W, b = (Tensor(a, True) for a in (np.zeros((0, 3, 5, 5)), numbers(4, 3, 3, 3), np.zeros(4)))
    y = functions.convolution(x, W, b)
    assert y.shape == (0, 4, 3, 3)
    y.backward(np.zeros(y.shape))
    assert not W.grad.any() and x.grad.shape == x.shape


def test_wrong_channels_are_refused():
    W = Tensor(numbers(4, 3, 3, 3))
    with pytest.raises(ShapeError, match="x has 5 channels, but W expects 3"):
        functions.convolution(Tensor(numbers(2, 5, 6, 6)), W)
    with pytest.raises(ShapeError, match="a kept set on axis 2; only the axis of the channels, 1, can"):
        functions.convolution(functions.take(Tensor(numbers(2, 3, 6, 6)), Kept(0, 2, 1, 6), 2), W)


def test_a_convolution_of_each_channel_is_one():
    assert isinstance(functions.convolution(Tensor(numbers(2, 4, 5, 5), True), Tensor(numbers(4, 1, 3, 3)),
                                            groups=4).creator, Depthwise)


@in_turn("side_by_side", [False, True])
@in_turn("groups", [1, 6])
def test_results_do_not_depend_on_the_number_of_cores(groups, side_by_side, monkeypatch):
    """Parts of a batch are summed in an order of their own."""
    from minidrop.kernels import threads
    if side_by_side:
        monkeypatch.setattr(direct, "suits", lambda *which: False)
    found = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "COUNT", count)
        for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
            monkeypatch.setattr(threads, least, 0)
        x, W = (Tensor(numbers(*shape).astype("f"), True)
                for shape in ((7, 6, 20, 20), (12, 6 // groups, 3, 3)))
        y = functions.convolution(x, W, groups=groups)
        y.backward(numbers(*y.shape, seed=3).astype("f"))
        found.append([y.data.tobytes(), W.grad.tobytes(), x.grad.tobytes()])
    assert found[0] == found[1] == found[2]


# -- where the images are ------------------------------------------------------------------------------------
IN_PLACE = pytest.mark.skipif(not vectors.BITS, reason="needs AVX2 with FMA, or AVX-512")


@IN_PLACE
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@in_turn("outputs", [1, 3, 8, 13])
@in_turn("channels", [1, 7])
@in_turn("lines, columns, window", [
    (1, 40, Window((3, 5), (1, 1), (1, 2), (1, 1))), (9, 7, Window((3, 5), (1, 1), (1, 2), (1, 1))),
    (13, 31, Window((3, 5), (1, 1), (1, 2), (1, 1))), (14, 19, Window((3, 5), (2, 3), (1, 2), (1, 1))),
    (11, 20, Window((1, 2), (3, 2), (0, 1), (1, 1))), (6, 9, Window((2, 1), (1, 2), (3, 2), (1, 1))),
    (12, 9, Window((2, 3), (1, 2), (0, 0), (3, 1)))])
def test_every_remainder_of_blocks_bands_and_vectors(outputs, channels, lines, columns, window, dtype,
                                                     monkeypatch):
    """Whole images, and bands of two lines with squares of 5 channels; vectors of outputs and of places."""
    x, W, b, gy = (numbers(*shape).astype(dtype) for shape in (
        (3, channels, lines, columns), (outputs, channels, *window.size), (outputs,),
        (3, outputs, *window.places((lines, columns)))))
    monkeypatch.setattr(direct, "_LEAST_SHARE", 0)
    monkeypatch.setattr(direct, "_FEW_CHANNELS", 0)
    monkeypatch.setattr(direct, "_MOST_PHASES", 9)
    assert direct.phases(window) is not None

    def results(backend):
        y, gx = np.full(gy.shape, np.nan, dtype), np.full(x.shape, np.nan, dtype)
        backend.convolve(x, W, b, window, y, relu=True, scale=1.5)
        return y, backend.convolve_gradients(x, W, gy, window, gx), gx

    expected, bound = results(Backend()), 1e-4 if dtype == "float32" else 1e-11
    for in_bands in (False, True):
        if in_bands:
            monkeypatch.setattr(direct, "_bands", lambda *given: (min(2, given[2]), -(-given[2] // 2)))
            monkeypatch.setattr(direct, "_SQUARE", 5)
        for cost in (0, 1e9):
            monkeypatch.setattr(direct, "_DOT_COST", cost)
            for got, wanted in zip(results(get_backend("cpu")), expected, strict=True):
                np.testing.assert_allclose(got, wanted, rtol=bound, atol=bound)


@IN_PLACE
def test_what_is_not_finite_stays_in_its_image_and_channel():
    x, W = numbers(3, 2, 9, 9), numbers(4, 2, 3, 3)
    window, y = Window.of((3, 3), pad=1), np.empty((3, 4, 9, 9))
    x[1, 1, 8, 8], x[1, 0, 0, 0] = np.nan, np.inf
    get_backend("cpu").convolve(x, W, None, window, y)
    assert np.isfinite(y[[0, 2]]).all()
    lost = ~np.isfinite(y[1])
    assert lost[:, :2, :2].all() and lost[:, 7:, 7:].all() and lost.sum() == 4 * 8
    gW = get_backend("cpu").convolve_gradients(np.where(np.isinf(x), 0, x), W, np.ones_like(y), window)
    assert np.isfinite(gW.reshape(4, 2, 9)[:, 0]).all()
    x = numbers(1, 4, 8, 8)
    x[0, 2] = np.nan
    each = np.empty_like(x)
    get_backend("cpu").convolve_each(x, numbers(4, 1, 3, 3), window, each)
    assert np.isfinite(each[:, [0, 1, 3]]).all()


@in_turn("size, stride, pad", [(3, 2, 1), (2, 3, 1), (1, 2, 0), (5, 4, 3), (7, 3, 2), (4, 1, 2)])
def test_phases_of_a_window_name_every_entry_that_reaches_a_line(size, stride, pad):
    """Each pair of a line and an entry once, at the place p with line = p stride + entry - pad."""
    found = set()
    for phase in direct.phases(Window.of((size, size), stride, pad)):
        entries, turned = range(size)[phase.entries[0]], phase.window
        for m in range(6 if turned else 0):
            for j in range(turned.size[0]):         # W is turned round: its last entry first
                place = m + j - turned.pad[0]
                found.add((phase.first[0] + m * stride, entries[::-1][j], place))
    expected = {(place * stride + entry - pad, entry, place)
                for place in range(-9, 30) for entry in range(size)}
    assert found == {one for one in expected if 0 <= one[0] < 6 * stride}


def test_a_stride_with_holes_has_no_phases():
    assert direct.phases(Window.of((3, 3), stride=2, dilation=2)) is None


@in_turn("stride, expected", [((1, 1), True), ((2, 2), True), ((1, 4), True), ((3, 2), False),
                              ((1 << 40, 1 << 40), False)])
def test_many_phases_are_not_taken(stride, expected):
    """They are not even counted: a stride of 1000 has a million."""
    window = Window((2, 4), stride, (0, 0), (1, 1))
    W, gx = numbers(1, 8, 8, 2, 4), np.empty((2, 8, 64, 64))
    gy = numbers(2, 8, *window.places((64, 64)))
    taken = direct.image_gradient(get_backend("cpu"), W, gy, window, gx, 0, 0)
    assert taken is (expected and bool(vectors.BITS))


@IN_PLACE
def test_what_no_window_reads_is_in_no_gradient(monkeypatch):
    """A NaN in the last line of 20 with windows of 3 and a stride of 2, and in a corner with one of 1."""
    for place, window, read in (((0, 1, 19, 7), Window.of((3, 3), stride=2), 0),
                                ((0, 1, 5, 0), Window.of((3, 3)), 3)):
        x = numbers(2, 3, 20, 20)
        x[place] = np.nan
        gy = numbers(2, 4, *window.places((20, 20)))
        for cost in (0, 1e9):
            monkeypatch.setattr(direct, "_DOT_COST", cost)
            gW = get_backend("cpu").convolve_gradients(x, numbers(4, 3, 3, 3), gy, window).reshape(4, 3, 9)
            assert np.isnan(gW[:, 1]).sum() == 4 * read and np.isfinite(gW[:, [0, 2]]).all()
        own = get_backend("cpu").convolve_each_weight_gradient(x, gy[:, :3], window)
        assert np.isnan(own).sum() == read


@IN_PLACE
def test_layers_of_common_nets_are_convolved_where_they_are():
    """And those are not whose vectors would hold little: windows that fit in a few places."""
    def suits(channels, side, size, dtype="f", **more):
        window = Window.of((size, size), **more)
        return direct.suits(np.empty((1, channels, side, side), dtype), window, window.places((side, side)))
    assert suits(3, 32, 5, pad=2) and suits(16, 28, 3, pad=1) and suits(3, 227, 11, stride=4)
    assert suits(64, 7, 3, pad=1, dtype="d")
    assert not suits(512, 7, 7) and not suits(4, 28, 3, dtype="i8")
