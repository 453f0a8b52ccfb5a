"""Norms of steps, gates, positions, patches: gradients, PyTorch's values, kept sets, far values, mistakes."""

import math

import numpy as np
import pytest
from cases import in_turn

from minidrop import Kept, Tensor, check_gradients, functions
from minidrop.autograd import Parameter
from minidrop.backend import get_backend
from minidrop.errors import KeptError, ShapeError
from minidrop.kept import KeptByGroup

UNITS = 6
KEPT = {"regular": Kept(1, 3, 1, UNITS), "list": Kept.of([0, 1, 5], UNITS), "empty": Kept(9, 9, 2, UNITS),
        "all": Kept.all(UNITS), "wrapped": Kept(-1, 4, 2, UNITS)}
GROUPS = {"even": KeptByGroup([Kept(0, 3, 1, UNITS), Kept(1, 3, 1, UNITS)]),
          "uneven": KeptByGroup([Kept(0, 4, 1, UNITS), Kept.all(UNITS), Kept(9, 9, 2, UNITS)])}


def numbers(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).uniform(-2, 2, shape)


def angles(steps, units, base=10.0, first=0):
    return functions.step_angles(get_backend("cpu"), first, steps, units, base)


def turned(x, heads, base=10.0):
    found = angles(x.shape[0], x.shape[2] // heads, base)
    return functions.rotary(x, np.cos(found).astype(x.dtype), np.sin(found).astype(x.dtype), heads)


X, W, B = numbers(3, 4, UNITS), numbers(UNITS, seed=1), numbers(UNITS, seed=2)
G = numbers(2, 3, UNITS, seed=4)
GRADIENTS = {
    "layer_norm": (functions.layer_norm, G, W, B),
    "layer_norm of two axes": (lambda *xs: functions.layer_norm(*xs, axis=1), G, numbers(3, UNITS),
                               numbers(3, UNITS, seed=1)),
    "layer_norm without bias": (functions.layer_norm, G, W),
    "layer_norm without weight": (functions.layer_norm, G),
    "layer_norm with a bias alone": (lambda x, b: functions.layer_norm(x, None, b), G, B),
    "rms_norm": (functions.rms_norm, G, W),
    "rms_norm without weight": (functions.rms_norm, G),
    "rms_norm of two axes": (lambda *xs: functions.rms_norm(*xs, axis=-2), G, numbers(3, UNITS)),
    "gelu": (functions.gelu, 2 * G),
    "gelu by tanh": (lambda x: functions.gelu(x, "tanh"), 2 * G),
    "swish": (lambda x: functions.swish(x, -1.5), G),
    "swish of nothing": (lambda x: functions.swish(x, 0), G),
    "add_positions": (functions.add_positions, G, numbers(2, UNITS)),
    "add_positions, more rows": (functions.add_positions, G, numbers(5, UNITS)),
    "rotary": (lambda x: turned(x, 1), G),
    "rotary of heads": (lambda x: turned(x, 3), G),
    "permute": (lambda x: functions.permute(x, (2, 0, 1)), G),
    "patches": (lambda x: functions.patches(x, 2), numbers(2, 3, 4, 6)),
}
for _name, _kept in (KEPT | GROUPS).items():
    GRADIENTS |= {
        f"{_name} units, gelu": (lambda x, k=_kept: functions.gelu(functions.take(x, k, 2)),
                               G),
        f"{_name} units, add_positions": (lambda x, P, k=_kept: functions.add_positions(
            functions.take(x, k, 2), P, carry=True), G, numbers(3, UNITS)),
    }


@in_turn("name", GRADIENTS)
def test_gradient(name):
    check_gradients(*GRADIENTS[name])


STREAMS = Kept.of([0, 3], 4)
BEFORE = {"layer_norm": lambda x: functions.layer_norm(x, Tensor(W), Tensor(B), carry=True),
          "rms_norm": lambda x: functions.rms_norm(x, Tensor(W)), "rotary": lambda x: turned(x, 3),
          "add_positions": lambda x: functions.add_positions(x, Tensor(numbers(3, UNITS)), carry=True)}


@in_turn("name", BEFORE)
def test_streams_may_be_missing(name):
    """What is computed of some streams is what dense code computes for them."""
    function = BEFORE[name]
    check_gradients(lambda x: function(functions.take(x, STREAMS, 1)), X)
    some, whole = function(functions.take(Tensor(X), STREAMS, 1)), function(Tensor(X)).numpy()
    assert (some.kept, some.kept_axis) == (STREAMS, 1)
    np.testing.assert_array_equal(some.data, whole[:, STREAMS.index])


@in_turn("name, kept", [(name, kept) for name in (KEPT | GROUPS) for kept in [(KEPT | GROUPS)[name]]])
def test_positions_of_compact_units(name, kept):
    """The gradient of the table is a block of the rows and columns that were read."""
    x, P = Tensor(X, requires_grad=True), Parameter(numbers(5, UNITS))
    y = functions.add_positions(functions.take(x, kept, 2), P, carry=True)
    mask = kept.mask(4, float) if isinstance(kept, KeptByGroup) else kept.mask(float)
    np.testing.assert_array_equal(y.numpy(), (X + P.data[:3, None]) * mask)
    gy = numbers(3, 4, UNITS, seed=3)
    y.backward(y.backend.compact(gy, kept, 2))
    grad = P.dense_grad()
    np.testing.assert_allclose(grad[:3], (gy * mask).sum(axis=1), rtol=1e-12, atol=1e-12)
    assert not grad[3:].any()
    if isinstance(kept, Kept) and not kept.is_all:
        (block,) = P.blocks
        assert block.data.shape == (3, kept.count) and (block.rows, block.cols) == (Kept(0, 5, 3, 5), kept)


def test_positions_of_some_steps():
    x, kept = Tensor(X), Kept.of([0, 2], 3)
    P = Parameter(numbers(5, UNITS))
    y = functions.add_positions(functions.take(x, kept, 0), P, carry=True)
    np.testing.assert_array_equal(y.data, (X + P.data[:3, None])[[0, 2]])
    y.backward(np.ones((2, 4, UNITS)))
    np.testing.assert_array_equal(P.grad, np.array([4, 0, 4, 0, 0])[:, None] * np.ones(UNITS))


@in_turn("name", BEFORE)
def test_streams_that_differ_between_steps(name):
    """Groups of steps, each with streams of its own: positions count from the beginning of all of them."""
    kept = KeptByGroup([Kept.of([0, 3], 4), Kept.of([1, 2], 4), Kept.of([0, 1], 4)])
    some, whole = BEFORE[name](functions.take(Tensor(X), kept, 1)), BEFORE[name](Tensor(X)).numpy()
    np.testing.assert_array_equal(some.numpy(), whole * kept.mask(3)[:, :, None])


def test_against_torch(agrees_with_torch):
    torch = pytest.importorskip("torch", reason="PyTorch (the extra `peers`) is the reference here")
    F = torch.nn.functional
    agrees_with_torch(functions.layer_norm, lambda x, w, b: F.layer_norm(x, (UNITS,), w, b), X, W, B)
    agrees_with_torch(lambda x, w, b: functions.layer_norm(x, w, b, 1, 0.1),
                      lambda x, w, b: F.layer_norm(x, (4, UNITS), w, b, 0.1), X, numbers(4, UNITS),
                      numbers(4, UNITS, seed=1))
    agrees_with_torch(functions.layer_norm, lambda x: F.layer_norm(x, (UNITS,)), X)
    agrees_with_torch(functions.layer_norm, lambda x: F.layer_norm(x, (300,)), 5 + numbers(40, 300))
    agrees_with_torch(functions.rms_norm, lambda x, w: F.rms_norm(x, (UNITS,), w, 1e-6), X, W)
    agrees_with_torch(lambda x: functions.rms_norm(x, eps=0.1), lambda x: F.rms_norm(x, (300,), eps=0.1),
                      numbers(40, 300))
    for x in (X, 10 * X, numbers(1000)):
        agrees_with_torch(functions.gelu, F.gelu, x)
        agrees_with_torch(lambda x: functions.gelu(x, "tanh"), lambda x: F.gelu(x, approximate="tanh"), x)
        agrees_with_torch(functions.swish, F.silu, x)
    agrees_with_torch(lambda x: functions.permute(x, (1, 2, 0)), lambda x: x.permute(1, 2, 0), X)
    images, kernels, bias = numbers(2, 3, 4, 6), numbers(5, 3, 2, 2), numbers(5)
    agrees_with_torch(
        lambda x, W, b: functions.linear(functions.patches(x, 2), functions.reshape(W, (5, 12)), b),
        lambda x, W, b: F.conv2d(x, W, b, stride=2).flatten(2).permute(2, 0, 1), images, kernels, bias)


SMALL = np.geomspace(1e-30, 1, 200)
SPACED = np.concatenate([np.linspace(-14, 14, 20001), SMALL, -SMALL])


def test_exact_in_float64():
    y = functions.gelu(Tensor(SPACED)).numpy()
    expected = np.array([x * math.erfc(-x / math.sqrt(2)) / 2 for x in SPACED])
    assert (abs(y - expected) <= 1e-15 * np.maximum(1, abs(expected))).all()


@in_turn("kind, beta", [("normal", 1), ("tanh", 1), ("logistic", 1), ("logistic", -1.5), ("logistic", 0)])
def test_digits_in_float32(kind, beta):
    """Four units in the last place of y, or of 2^-3 where it is less; of the derivative four of 0.5."""
    x = SPACED.astype(np.float32)
    y, slope = get_backend("cpu").self_gate(x, kind, beta)
    exact, derivative = get_backend("cpu").self_gate(x.astype(float), kind, beta)
    assert y.dtype == slope.dtype == np.float32
    size = abs(exact.astype(np.float32))
    assert (abs(y - exact) <= 4 * np.spacing(np.maximum(np.float32(0.125), size))).all()
    assert abs(slope - derivative).max() <= 4 * 2.0 ** -24
    if kind == "normal":        # the tail as well: there 1 + erf would have lost its digits
        far = size > 1e-30
        assert (abs(y - exact)[far] <= 4 * np.spacing(size[far])).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_values(dtype):
    """Nothing overflows, NaN stays NaN, and 0 stays 0."""
    x = np.array([-1e30, -1e4, 1e4, 1e30, 0, np.nan], dtype)
    for kind in ("normal", "tanh", "logistic"):
        with np.errstate(over="ignore", invalid="ignore"):
            y, slope = get_backend("cpu").self_gate(x, kind)
        assert y[:5].tolist() == [0, 0, x[2], x[3], 0] and np.isnan(y[5]) and np.isnan(slope[5])
        assert slope[1:3].tolist() == [0, 1] and slope[4] == 0.5


def test_angles():
    """t / base^(2 i / units), and the sine and the cosine of each."""
    expected = np.array([[t / 100 ** (2 * i / 5) for i in range(3)] for t in range(2, 6)])
    for first in (2, np.array([2.0], np.float32)):
        found = angles(4, 5, 100.0, first)
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    table = functions.sinusoids(get_backend("cpu"), found, 5, "float64")
    np.testing.assert_array_equal(table, np.stack([np.sin(found[:, 0]), np.cos(found[:, 0]),
                                                   np.sin(found[:, 1]), np.cos(found[:, 1]),
                                                   np.sin(found[:, 2])], axis=1))


def test_rotary_is_relative():
    """Products of queries and keys depend on how far apart they are; the pairs are of halves."""
    q, k = numbers(1, 1, 8), numbers(1, 1, 8, seed=1)
    rows = [turned(Tensor(np.repeat(x, 7, axis=0)), 2).numpy()[:, 0] for x in (q, k)]
    scores = rows[0] @ rows[1].T
    np.testing.assert_allclose(scores[1:, 1:], scores[:-1, :-1], rtol=1e-12)
    assert abs(scores[0, 0] - scores[0, 1]) > 0.1
    one = turned(Tensor(np.eye(4)[None, :1].repeat(2, axis=0)), 1, base=100.0).numpy()[1, 0]
    np.testing.assert_allclose(one, [np.cos(1), 0, np.sin(1), 0], atol=1e-15)


@in_turn("work, text", [
    (lambda: functions.layer_norm(functions.take(Tensor(X), KEPT["list"], 2)), "takes its means over the ax"),
    (lambda: turned(functions.take(Tensor(X), KEPT["list"], 2), 3), "turns steps by angles"),
    (lambda: functions.layer_norm(Tensor(X), functions.take(Tensor(W), KEPT["list"], 0)), "needs all of w"),
])
def test_what_needs_all_units(work, text):
    with pytest.raises(KeptError, match=text):
        work()


@in_turn("work, text", [
    (lambda: functions.layer_norm(Tensor(X), Tensor(numbers(5))), r"bias of shape \(6,\), got \(5,\)"),
    (lambda: functions.add_positions(Tensor(X), Tensor(numbers(2, UNITS))), "3 steps of 6 units need P"),
    (lambda: functions.add_positions(Tensor(X), Tensor(numbers(3, 5))), "3 steps of 6 units need P"),
    (lambda: functions.add_positions(Tensor(X[0]), Tensor(numbers(3, 5))), "needs x"),
    (lambda: functions.rotary(Tensor(X), angles(3, 4), angles(3, 4)), "does not fit x"),
    (lambda: functions.permute(Tensor(X), (0, 1, 1)), "each of the 3 axes of x once"),
    (lambda: functions.patches(Tensor(numbers(2, 3, 4, 6)), 3), "patches of side 3 need images"),
])
def test_shapes_that_do_not_fit(work, text):
    with pytest.raises(ShapeError, match=text):
        work()
