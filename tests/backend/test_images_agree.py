"""Convolution and pooling on the GPU's overrides against the generic methods: shapes, layouts, precisions."""

import math

import numpy as np
import pytest
from cases import in_turn

from minidrop.autograd import Block
from minidrop.backend import Backend
from minidrop.backend.window import Window
from minidrop.kept import Kept

GENERIC = Backend()
PRECISIONS = {"float64": 1e-11, "float32": 1e-5, "tf32": 4e-3, "float16": 1e-5, "bfloat16": 1e-5}
# (channels, outputs, spatial, window)
SHAPES = {
    "3x2": (4, 6, (7, 9), Window((3, 2), (1, 1), (1, 0), (1, 1))),
    "strides and holes": (4, 6, (11, 9), Window((3, 3), (2, 1), (1, 2), (1, 2))),
    "stride and holes that share a factor": (2, 3, (13, 14), Window((3, 2), (2, 4), (2, 3), (4, 6))),
    "11 by 4": (3, 5, (31, 30), Window.of((11, 11), 4)),
    "pad beyond the window": (3, 5, (4, 5), Window((2, 2), (1, 1), (3, 2), (1, 1))),
    "point": (8, 5, (4, 3), Window.of((1, 1))),
    "point with stride": (8, 5, (5, 4), Window.of((1, 1), 2)),
    "stride beyond the window": (3, 4, (9, 11), Window.of((2, 2), 3)),
    "all of the image": (2, 4, (5, 6), Window.of((5, 6))),
    "one entry": (1, 1, (1, 1), Window.of((1, 1))),
    "lines": (3, 5, (12,), Window((3,), (2,), (1,), (2,))),
    "volumes": (3, 4, (5, 6, 7), Window((3, 2, 3), (1, 2, 1), (1, 0, 1), (1, 1, 2))),
    "no channels": (0, 4, (5, 6), Window.of((3, 3))),
    "no outputs": (3, 0, (5, 6), Window.of((3, 3))),
}


@pytest.fixture(params=["emulated", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def device(request):
    """device(precision) -> a backend with the GPU's overrides."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated_cuda")
    request.getfixturevalue("backend_of_name")(request.param)
    from minidrop.backend.cuda.backend import CupyBackend
    return lambda precision="float32": CupyBackend(0, precision)


def numbers(*shape, seed=0, dtype="float64"):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def rounded(x, precision):
    """Return what products in a precision read instead of x, as float32."""
    if precision == "float16":
        return x.astype(np.float16).astype(np.float32)
    bits = np.empty((len(x), x.size // max(1, len(x))), np.uint16)
    GENERIC.round_block(x.reshape(bits.shape), None, None, 1, "bfloat16", bits)
    return (bits.astype(np.uint32) << 16).view(np.float32).reshape(x.shape)


def convolve(on, precision, images, channels, outputs, spatial, window, around):
    """Yield the results of a convolution and its gradients; `around`: for channels in the midst of others.

    The generic backend is given the operands as products of that precision round them.
    """
    dtype = "float64" if precision == "float64" else "float32"
    bounds, outs = [None if around is None else (1, 1 + n) for n in (channels, outputs)]
    room, places = 0 if around is None else 2, window.places(spatial)

    def make(*shape, seed=0, multiplied=False):
        x = numbers(*shape, seed=seed, dtype=dtype)
        return on.asarray(rounded(x, precision) if multiplied and on is GENERIC and "16" in precision else x)

    x, W = make(images, channels + room, *spatial, multiplied=True), make(outputs, channels, *window.size,
                                                                          seed=1, multiplied=True)
    b = make(outputs, seed=2)
    for bias, relu, scale in ((None, False, 1.0), (b, True, 2.0)):
        y = make(images, outputs + room, *places, seed=3)
        on.convolve(x, W, bias, window, y, bounds, outs, relu, scale)
        yield y
    gx = make(images, channels + room, *spatial, seed=4)
    gy = make(images, outputs + room, *places, seed=3, multiplied=True)
    yield on.convolve_gradients(x, W, gy, window, gx, bounds, outs)
    yield gx
    transposed = make(images, channels + room, *spatial, seed=4)
    assert on.convolve_gradients(None, W, gy, window, transposed, bounds, outs, False) is None
    yield transposed


def agree(device, precision, work, *arguments):
    on = device("float32" if precision == "float64" else precision)
    with on.active():
        got = [on.to_host(x) for x in work(on, precision, *arguments)]
    for number, (a, b) in enumerate(zip(got, work(GENERIC, precision, *arguments), strict=True)):
        assert a.dtype == b.dtype and a.shape == b.shape
        bound = PRECISIONS[precision] * max(1, abs(b).max(initial=0))
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=f"result {number}")


@in_turn("precision", PRECISIONS)
@in_turn("shape", SHAPES)
def test_convolution(device, shape, precision):
    for around in (None, "others"):
        agree(device, precision, convolve, 3, *SHAPES[shape], around)


def test_no_images(device):
    agree(device, "float32", convolve, 0, *SHAPES["3x2"], None)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_images_are_lowered_in_parts(device, precision, monkeypatch):
    """As many at once as fit into column_bytes, at least one."""
    channels, _, spatial, window = SHAPES["3x2"]
    one = channels * window.entries * math.prod(window.places(spatial)) * 4
    for at_once in (0, 1, 2, 4):
        for kind in (type(device()), Backend):
            monkeypatch.setattr(kind, "column_bytes", at_once * one)
        agree(device, precision, convolve, 5, *SHAPES["3x2"], "others")


def each(on, dtype, factor, channels, spatial, window):
    """Yield the results of the convolution of each channel with `factor` filters, and of its gradients."""
    def make(*shape, seed=0):
        return on.asarray(numbers(*shape, seed=seed, dtype=dtype))

    places = window.places(spatial)
    x, W, y = make(3, channels, *spatial), make(channels * factor, 1, *window.size, seed=1), make(
        3, channels * factor, *places, seed=3)
    gy, gx = make(3, channels * factor, *places, seed=4), make(3, channels, *spatial, seed=5)
    on.convolve_each(x, W, window, y)
    on.convolve_each_image_gradient(W, gy, window, gx)
    yield from (y, gx, on.convolve_each_weight_gradient(x, gy, window))


@in_turn("factor", [1, 3])
@in_turn("shape", SHAPES)
def test_filters_of_each_channel(device, dtype, shape, factor):
    channels, _, spatial, window = SHAPES[shape]
    agree(device, dtype, each, factor, channels, spatial, window)


# (spatial, window, places)
POOLS = {
    "halves": ((8, 6), Window.of((2, 2), 2), (4, 3)),
    "overlapping": ((7, 9), Window.of((3, 3), 2), (3, 4)),
    "past the end": ((7, 8), Window.of((3, 3), 2), (3, 4)),
    "pad and past the end": ((6, 7), Window((3, 2), (2, 1), (1, 1), (1, 1)), (4, 8)),
    "gaps": ((9, 11), Window.of((2, 2), 3), (3, 4)),
    "all": ((5, 6), Window.of((5, 6)), (1, 1)),
    "each entry": ((5, 6), Window.of((1, 1)), (5, 6)),
}


def images_to_pool(kind, spatial):
    """Random images; with equal entries; and with some that are not finite."""
    x = numbers(3, 4, *spatial)
    if kind == "equal":
        return np.floor(x)
    if kind == "not finite":
        for value in (np.nan, np.inf, -np.inf):
            x[np.random.default_rng(1).random(x.shape) < 0.2] = value
        x[0] = -np.inf
        x[1, 1] = np.nan
    return x


@in_turn("layout", ["contiguous", "channels last"])
@in_turn("kind", ["any", "equal", "not finite"])
@in_turn("shape", POOLS)
def test_largest_entries(device, dtype, shape, kind, layout):
    spatial, window, places = POOLS[shape]
    x, gy = images_to_pool(kind, spatial).astype(dtype), numbers(3, 4, *places, dtype=dtype)
    if layout != "contiguous":
        x, gy = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, gy))
    on, results = device(), []
    for which in (on, GENERIC):
        y, index = which.max_pool(which.asarray(x), window, places)
        gx = which.max_pool_gradient(which.asarray(gy), index, window, x.shape)
        results.append([which.to_host(a) for a in (y, index, gx)])
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


@in_turn("shape", POOLS)
def test_means(device, dtype, shape):
    spatial, window, places = POOLS[shape]
    x, gy = numbers(3, 4, *spatial, dtype=dtype), numbers(3, 4, *places, dtype=dtype)
    on, results = device(), []
    for which in (on, GENERIC):
        results.append([which.to_host(a) for a in (
            which.mean_pool(which.asarray(x), window, places),
            which.mean_pool_gradient(which.asarray(gy), window, x.shape))])
    for got, expected in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-6)


@in_turn("momentum", [0.0, 0.9])
@in_turn("rows, cols", [(None, None), (Kept(1, 2, 1, 6), None), (None, Kept.of([0, 2], 4)),
                        (Kept.of([0, 1, 4], 6), Kept(0, 3, 1, 4))])
def test_updates_of_filters(device, dtype, rows, cols, momentum):
    """Their gradients are blocks of the filters as a matrix."""
    on, W, cols = device(), numbers(6, 4, 3, 2, dtype=dtype), None if cols is None else cols.spread(6)
    g = GENERIC.submatrix(numbers(6, 24, seed=1, dtype=dtype), rows, cols)
    results = []
    for which in (on, GENERIC):
        own = [which.asarray(a.copy()) for a in (W, W)]
        which.sgd_update(*own, [Block(which.asarray(g), rows, cols)], 0.1, momentum, 0.0, False, 0.5)
        results.append(np.stack([which.to_host(a) for a in own]))
    np.testing.assert_allclose(*results, rtol=1e-6)
    assert (results[0][0] != W).any()


def test_integers_and_nothing_at_all(device):
    """What no kernel takes goes the generic way."""
    on, window = device(), Window.of((2, 2))
    x = np.arange(24).reshape(1, 2, 3, 4)
    np.testing.assert_array_equal(on.to_host(on.columns(on.asarray(x), window)), GENERIC.columns(x, window))
    nothing = np.zeros((0, 2, 3, 4), np.float32)
    y, index = on.max_pool(on.asarray(nothing), window, (2, 3))
    for result in (y, index, on.mean_pool(on.asarray(nothing), window, (2, 3))):
        assert result.shape == (0, 2, 2, 3)
    for gx in (on.max_pool_gradient(y, index, window, nothing.shape),
               on.mean_pool_gradient(y, window, nothing.shape)):
        assert gx.shape == nothing.shape


@pytest.mark.parametrize("shape", ["3x2", "stride beyond the window", "all of the image"])
def test_stochastic_pooling(device, shape):
    """What is drawn, and its mean: the same numbers of a key on every device."""
    _, _, spatial, window = SHAPES[shape]
    window = Window(window.size, window.stride, (0, 0), (1, 1))
    places, x = window.places(spatial), abs(numbers(2, 3, *spatial))
    on = device()
    drawn, index = on.draw_pool(on.asarray(x), window, places, 7)
    expected, where = GENERIC.draw_pool(x, window, places, 7)
    np.testing.assert_array_equal(on.to_host(drawn), expected)
    np.testing.assert_array_equal(on.to_host(index), where)
    np.testing.assert_allclose(on.to_host(on.weighted_pool(on.asarray(x), window, places)),
                               GENERIC.weighted_pool(x, window, places), rtol=1e-12)
    uniform = on.to_host(on.uniform((40, 50), "float64", 9))
    np.testing.assert_array_equal(uniform, GENERIC.uniform((40, 50), "float64", 9))
    assert uniform.min() > 0 and uniform.max() <= 1 and abs(uniform.mean() - 0.5) < 0.02
