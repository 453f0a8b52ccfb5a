"""Methods that belong to kinds of layers, as every backend overrides them, equal the generic ones."""

import math

import numpy as np
import pytest
from agreement import GENERIC, memory, same
from cases import in_turn

from minidrop.backend import get_backend
from minidrop.kernels import threads


@pytest.fixture
def backend(any_backend):
    return any_backend


# -- normalization -------------------------------------------------------------------------------------------
CHANNELS = [(1, 1, 1), (4, 3, 1), (3, 5, 7), (2, 4, 300), (1, 9, 129), (2, 0, 5), (0, 3, 4), (2, 3, 0)]


def means(x):
    """The mean over samples and places, 0 where there are none."""
    return x.sum(axis=(0, 2)) / max(1, x.shape[0] * x.shape[2])


@memory
@in_turn("shape", CHANNELS)
def test_sums_and_moments_of_channels(backend, array, close, shape, layout):
    x, y = array(shape, layout), array(shape, layout)
    exact, other = x.astype(float), y.astype(float)
    for on in (backend, GENERIC):
        mine, theirs = on.asarray(x), on.asarray(y)
        mean, variance = on.channel_moments(mine)
        for got, expected in (
                (on.channel_sums(mine), exact.sum(axis=(0, 2))), (mean, means(exact)),
                (variance, means((exact - means(exact)[:, None]) ** 2)),
                (on.channel_products(mine, theirs), (exact * other).sum(axis=(0, 2)))):
            assert got.shape == shape[1:2] and got.dtype == x.dtype
            close(on.to_host(got), expected)


@pytest.mark.parametrize("shape", [(4, 3, 1), (2, 3, 9)])
def test_moments_of_what_is_not_finite_are_not(backend, dtype, shape):
    x = np.ones(shape, dtype)
    x[1, 0, 0], x[1, 1, 0] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        for on in (backend, GENERIC):
            mean, variance = map(on.to_host, on.channel_moments(on.asarray(x)))
            assert np.isfinite(mean).tolist() == np.isfinite(variance).tolist() == [False, False, True]


@memory
@in_turn("given", ["", "centre", "factor", "shift", "centre factor", "centre factor shift"])
@in_turn("shape", CHANNELS)
def test_transform_channels(backend, array, close, shape, given, layout):
    x = array(shape, layout)
    numbers = {name: array(shape[1:2], "strided") for name in given.split()}
    expected = ((x - numbers.get("centre", np.zeros(1))[:, None]) * numbers.get("factor", np.ones(1))[:, None]
                + numbers.get("shift", np.zeros(1))[:, None])
    for on in (backend, GENERIC):
        mine = on.asarray(x)
        got = on.transform_channels(mine, **{name: on.asarray(value) for name, value in numbers.items()})
        close(on.to_host(got), expected)
        assert given or got is mine
        np.testing.assert_array_equal(on.to_host(mine), x)


@memory
@in_turn("shape", CHANNELS)
def test_standardize_channels_and_the_gradients_of_scales(backend, array, close, shape, layout):
    x, gy, factor = array(shape, layout), array(shape, layout), array(shape[1:2], "strided")
    exact, down = x.astype(float), gy.astype(float)
    centred = exact - means(exact)[:, None]
    variance = means(centred ** 2)
    deviation = 1 / np.sqrt(variance + 0.1)
    for on in (backend, GENERIC):
        mine, theirs = on.asarray(x), on.asarray(gy)
        for got, expected in zip(
                (*on.standardize_channels(mine, 0.1), *on.scale_gradients(theirs, mine, on.asarray(factor))),
                (centred * deviation[:, None], means(exact), variance, deviation, down * factor[:, None],
                 (down * exact).sum(axis=(0, 2)), down.sum(axis=(0, 2))), strict=True):
            assert got.dtype == x.dtype
            close(on.to_host(got), expected)


@memory
@in_turn("biased", [False, True])
@in_turn("relu, scale", [(False, 1.0), (True, 1.0), (False, 1.3), (True, 2.5)])
@in_turn("shape", CHANNELS)
def test_normalize_channels(backend, array, close, shape, relu, scale, biased, layout):
    x, gy, weight = array(shape, layout), array(shape, layout), array(shape[1:2], "strided")
    bias = array(shape[1:2], "strided") if biased else None
    exact, down = x.astype(float), gy.astype(float)
    variance = means((exact - means(exact)[:, None]) ** 2)
    factor = 1 / np.sqrt(variance + 0.1)
    z = (exact - means(exact)[:, None]) * factor[:, None]
    y = z * weight[:, None] + (0 if bias is None else bias[:, None])
    g = scale * (np.where(y > 0, down, 0) if relu else down)
    y = scale * (np.maximum(y, 0) if relu else y)
    scaled = g * weight[:, None]
    gx = factor[:, None] * (scaled - means(scaled)[:, None] - z * means(scaled * z)[:, None])
    for on in (backend, GENERIC):
        mine, theirs, own, rise = (None if one is None else on.asarray(one) for one in (x, gy, weight, bias))
        found, *numbers = on.normalize_channels(mine, 0.1, own, rise, relu, scale)
        gradients = on.normalize_channels_gradient(theirs, mine, found if relu else None, numbers[0],
                                                   numbers[2], own, scale)
        for got, expected in zip((found, *numbers, *gradients),
                                 (y, means(exact), variance, factor, gx, (g * z).sum(axis=(0, 2)),
                                  g.sum(axis=(0, 2))), strict=True):
            assert got.dtype == x.dtype
            close(on.to_host(got), expected)


@memory
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", CHANNELS)
def test_standardize_gradient(backend, array, close, shape, weighted, layout):
    gy, y, factor = array(shape, layout), array(shape, layout), array(shape[1:2])
    weight = array(shape[1:2], "strided") if weighted else None
    g, own = gy.astype(float), y.astype(float)
    slope = means(g * own) * (weight if weighted else 1)
    expected = factor[:, None] * (g - means(g)[:, None] - own * slope[:, None])
    for on in (backend, GENERIC):
        got = on.standardize_gradient(on.asarray(gy), on.asarray(y), on.asarray(factor),
                                      None if weight is None else on.asarray(weight))
        assert got.dtype == gy.dtype
        close(on.to_host(got), expected)


@memory
@in_turn("parameters", ["", "weight", "weight bias"])
@in_turn("centred", [True, False])
@in_turn("shape", [(1, 1), (3, 7), (1, 64), (40, 65), (130, 200), (0, 5)])
def test_normalize_rows(backend, array, close, shape, centred, parameters, layout):
    x, gy = array(shape, layout), array(shape, layout)
    weight, bias = (array(shape[1:]) if name in parameters else None for name in ("weight", "bias"))
    exact, g, w = x.astype(float), gy.astype(float), 1 if weight is None else weight.astype(float)
    middle = exact.mean(axis=1, keepdims=True) * centred
    slope = 1 / np.sqrt(((exact - middle) ** 2).mean(axis=1, keepdims=True) + 0.1)
    z = (exact - middle) * slope
    lean = (g * w * z).mean(axis=1, keepdims=True)
    expected = (z * w + (0 if bias is None else bias), middle[:, 0], slope[:, 0])
    gradients = (slope * (g * w - (g * w).mean(axis=1, keepdims=True) * centred - z * lean),
                 (g * z).sum(axis=0), g.sum(axis=0))
    for on in (backend, GENERIC):
        mine, w, b = on.asarray(x), *(None if one is None else on.asarray(one) for one in (weight, bias))
        found = on.normalize_rows(mine, w, b, 0.1, centred)
        found += on.normalize_rows_gradient(on.asarray(gy), mine, *found[1:], w, centred)
        for got, want in zip(found, expected + gradients, strict=True):
            assert got.dtype == x.dtype and got.shape == want.shape
            close(on.to_host(got), want)
        np.testing.assert_array_equal(on.to_host(mine), x)


def lrn_by_hand(x, axes, size, alpha, beta, k):
    """Return (s, the function that adds up windows), place by place."""
    def windows(values):
        total = np.zeros(values.shape)
        for place in np.ndindex(values.shape):
            total[place] = values[tuple(
                slice(max(0, i - size // 2), i + size // 2 + 1) if axis in axes else slice(i, i + 1)
                for axis, i in enumerate(place))].sum()
        return total
    return k + alpha * windows(x * x), windows


@memory
@in_turn("beta", [0.75, 0.5, 1.3])
@in_turn("shape, axes, size", [
    ((2, 7, 3, 2), (1,), 5), ((1, 3, 270), (1,), 3), ((2, 4, 1, 1), (1,), 9), ((3, 6), (1,), 1),
    ((0, 4, 5), (1,), 3), ((2, 3, 4, 5), (2, 3), 3), ((1, 2, 1, 7), (2, 3), 5), ((2, 2, 3, 3), (2, 3), 9),
    ((2, 0, 3, 3), (2, 3), 3), ((2, 3, 4), (1, 2), 3)])
def test_lrn(backend, array, close, shape, axes, size, beta, layout):
    x, gy = array(shape, layout), array(shape, layout)
    exact, g = x.astype(float), gy.astype(float)
    window = axes, size, 0.7, beta, 1.5
    s, windows = lrn_by_hand(exact, *window)
    gradient = g * s ** -beta - 2 * 0.7 * beta * exact * windows(g * exact * s ** (-beta - 1))
    for on in (backend, GENERIC):
        mine = on.asarray(x)
        got, got_gradient = on.lrn(mine, *window), on.lrn_gradient(on.asarray(gy), mine, *window)
        assert got.dtype == got_gradient.dtype == x.dtype
        close(on.to_host(got), exact * s ** -beta)
        close(on.to_host(got_gradient), gradient)
        np.testing.assert_array_equal(on.to_host(mine), x)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_normalizations_do_not_depend_on_the_threads(monkeypatch, count):
    cpu, shape = get_backend("cpu"), (20, 5, 11, 37)
    x, gy = (np.random.default_rng(seed).standard_normal(shape).astype(np.float32) for seed in range(2))
    channels, g, factor = x.reshape(20, 5, -1), gy.reshape(20, 5, -1), x[0, :, 0, 0].copy()

    def results():
        yield from cpu.channel_moments(channels)
        yield cpu.channel_sums(channels)
        yield cpu.channel_products(channels, g)
        yield cpu.transform_channels(channels, factor, factor, factor)
        yield cpu.standardize_gradient(g, channels, factor)
        yield from cpu.standardize_channels(channels, 1e-5)
        yield from cpu.scale_gradients(g, channels, factor)
        y, mean, _, own = cpu.normalize_channels(channels, 1e-5, factor, factor, True)
        yield y
        yield from cpu.normalize_channels_gradient(g, channels, y, mean, own, factor)
        rows, down = x.reshape(-1, 37), gy.reshape(-1, 37)
        found = cpu.normalize_rows(rows, rows[0], rows[1], 1e-5, True)
        yield from found
        yield from cpu.normalize_rows_gradient(down, rows, *found[1:], rows[0], True)
        for kind in ("normal", "tanh", "logistic"):
            yield from cpu.self_gate(x, kind)
        yield cpu.rotate(x[0, :, :, :36], rows[:5, :6], down[:5, :6], 3)
        for window in (((1,), 5, 0.1, 0.75, 1.0), ((2, 3), 3, 0.1, 0.75, 1.0)):
            yield cpu.lrn(x, *window)
            yield cpu.lrn_gradient(gy, x, *window)

    expected = list(results())
    monkeypatch.setattr(threads, "COUNT", count)
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 1)
    for got, one in zip(results(), expected, strict=True):
        np.testing.assert_array_equal(got, one)


# -- transformers --------------------------------------------------------------------------------------------
@memory
@in_turn("kind", ["normal", "tanh", "logistic"])
@in_turn("shape", [(1,), (3, 5), (300,), (0, 4), (7, 9, 11)])
def test_self_gate(backend, array, close, shape, kind, layout):
    x = 3 * array(shape, layout)
    exact = x.astype(float)
    inner, slope = {"normal": (exact, 1), "logistic": (1.5 * exact, 1.5), "tanh": (
        math.sqrt(8 / math.pi) * (exact + 0.044715 * exact ** 3),
        math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * exact ** 2))}[kind]
    if kind == "normal":
        share = np.vectorize(lambda v: math.erfc(-v / math.sqrt(2)) / 2, otypes=[float])(exact)
        density = np.exp(-exact ** 2 / 2) / math.sqrt(2 * math.pi)
    else:
        share = 1 / (1 + np.exp(-inner))
        density = share * (1 - share) * slope
    for on in (backend, GENERIC):
        mine = on.asarray(x)
        y, derivative = on.self_gate(mine, kind, 1.5)
        assert y.dtype == derivative.dtype == x.dtype
        close(on.to_host(y), exact * share)
        close(on.to_host(derivative), share + exact * density)
        np.testing.assert_array_equal(on.to_host(mine), x)


@memory
@in_turn("shape, heads", [((1, 1, 2), 1), ((5, 3, 12), 3), ((70, 2, 128), 2), ((0, 3, 4), 1), ((3, 0, 4), 2)])
def test_rotate(backend, array, close, shape, heads, layout):
    x, half = array(shape, layout), shape[2] // heads // 2
    cosine, sine = (array((shape[0], half), layout) for _ in range(2))
    pairs = x.astype(float).reshape(*shape[:2], heads, 2, half)
    turned = ((pairs[..., 0, :] + 1j * pairs[..., 1, :])
              * (cosine.astype(float) + 1j * sine.astype(float))[:, None, None])
    expected = np.stack((turned.real, turned.imag), axis=3).reshape(shape)
    for on in (backend, GENERIC):
        got = on.rotate(on.asarray(x), on.asarray(cosine), on.asarray(sine), heads)
        assert got.dtype == x.dtype
        close(on.to_host(got), expected)


# -- recurrent networks --------------------------------------------------------------------------------------
@memory
@in_turn("shape", [(1, 1), (3, 5), (31, 33), (64, 32), (129, 65), (0, 4), (4, 0)])
def test_transposed(backend, array, shape, layout):
    W = array(shape, layout)
    for on in (backend, GENERIC):
        got = on.transposed(on.asarray(W))
        same(on, got, W.T)
        assert got.flags.c_contiguous


@memory
@in_turn("trans_b", [False, True])
@in_turn("rows, inner, columns", [(1, 1, 1), (3, 5, 7), (31, 8, 33), (32, 9, 5), (33, 9, 5),
                                  (20, 0, 3), (20, 4, 0), (0, 4, 3)])
def test_thin_gemm(backend, array, close, trans_b, rows, inner, columns, layout):
    """Whatever way its memory runs, and however few the rows are; it may be written to."""
    a, b = array((rows, inner), layout), array((columns, inner) if trans_b else (inner, columns), layout)
    expected = a.astype(float) @ (b.T if trans_b else b).astype(float)
    for on in (backend, GENERIC):
        got = on.thin_gemm(on.asarray(a), on.asarray(b), trans_b)
        assert got.shape == (rows, columns) and got.dtype == a.dtype
        close(on.to_host(got), expected)
        got += 1
        close(on.to_host(got), expected + 1)


@memory
@in_turn("trans_b", [False, True])
def test_thin_operand(backend, array, close, trans_b, layout):
    """Weights large enough to be packed; see also test_thin_products.py."""
    a, b = array((20, 129), layout), array((131, 129) if trans_b else (129, 131), layout)
    expected = a.astype(float) @ (b.T if trans_b else b).astype(float)
    for on in (backend, GENERIC):
        operand = on.thin_operand(on.asarray(b), trans_b, 20, 8)
        for _ in range(2):
            got = on.thin_gemm(on.asarray(a), operand, trans_b)
            assert got.shape == (20, 131) and got.dtype == a.dtype
            close(on.to_host(got), expected)


@memory
@in_turn("shape", [(1, 1), (129, 7), (0, 3), (3, 0)])
def test_add_to_rows(backend, array, shape, layout):
    y, b = array(shape), array(shape[1:], layout)
    for on in (backend, GENERIC):
        on_device = on.asarray(y.copy())
        assert on.add_to_rows(on_device, on.asarray(b)) is None
        same(on, on_device, y + b)


def lstm_arrays(array, streams, units, layout="contiguous"):
    """x, product, c before, cont, dh, dc of one step; `layout` is that of what products write."""
    cont = (np.arange(streams) % 3 > 0).astype(array((1,)).dtype)[:, None]
    return (array((streams, 4 * units)), array((streams, 4 * units), layout), array((streams, units)), cont,
            array((streams, units), layout), array((streams, units)))


def lstm_step(on, x, product, c_before, cont, dh, dc):
    """Return activated, c, squashed, h, and d, dc before, of a backend, on the host."""
    streams, units = c_before.shape
    made = [on.empty((streams, n), x.dtype) for n in (4 * units, units, units, units)]
    x, product, c_before, cont, dh = (on.asarray(a) for a in (x, product, c_before, cont, dh))
    on.lstm_step(x, product, c_before, cont, *made)
    d, dc = on.empty(made[0].shape, made[0].dtype), on.asarray(dc.copy())
    on.lstm_step_gradient(made[0], made[2], c_before, cont, dh, dc, d)
    return [on.to_host(a) for a in (*made, d, dc)]


@memory
@pytest.mark.parametrize("streams, units", [(1, 1), (3, 5), (20, 33), (33, 64), (2, 0)])
def test_lstm_step(backend, array, close, streams, units, layout):
    arrays = lstm_arrays(array, streams, units, layout)
    before = [a.copy() for a in arrays]
    x, product, c_before, cont, dh, dc = (a.astype(float) for a in arrays)
    i, f, o, g = np.split(x + product, 4, axis=1)
    i, f, o, g = *(1 / (1 + np.exp(-gate)) for gate in (i, f, o)), np.tanh(g)
    c = f * c_before * cont + i * g
    s = np.tanh(c)
    total = dc + dh * o * (1 - s * s)
    d = np.concatenate([total * g * i * (1 - i), total * c_before * cont * f * (1 - f), dh * s * o * (1 - o),
                        total * i * (1 - g * g)], axis=1)
    expected = [np.concatenate([i, f, o, g], axis=1), c, s, o * s, d, total * f * cont]
    for on in (backend, GENERIC):
        for name, got, wanted in zip(("gates", "c", "tanh c", "h", "d", "dc"), lstm_step(on, *arrays),
                                     expected, strict=True):
            assert got.dtype == arrays[0].dtype
            close(got, wanted, name)
    for array_now, then in zip(arrays, before, strict=True):         # nothing that is only read has changed
        np.testing.assert_array_equal(array_now, then)


def test_lstm_step_of_large_arguments(backend, array, dtype):
    """Saturated gates are 0 and 1 to rounding, and nothing overflows."""
    x, product, c_before, cont, dh, dc = lstm_arrays(array, 3, 4)
    x[...], product[...] = np.where(x > 0, 1e4, -1e4), 0
    for on in (backend, GENERIC):
        with np.errstate(all="raise", under="ignore"):
            gates, *rest = lstm_step(on, x, product, c_before, cont, dh, dc)
        np.testing.assert_array_equal(gates[:, :12], x[:, :12] > 0)
        np.testing.assert_array_equal(gates[:, 12:], np.sign(x[:, 12:]))
        assert all(np.isfinite(a).all() for a in rest)
