"""What is made of exponentials in float32: as exact as numbers of 24 bits allow, wherever arrays lie."""

import numpy as np
import pytest

from minidrop.backend import get_backend
from minidrop.kernels import threads

CPU = get_backend("cpu")
# Dense where functions bend, and every size down to numbers that are not normal.
SIZES = 10.0 ** np.linspace(-44, 1, 2001)
SPREAD = np.concatenate([np.linspace(-30, 30, 60001), np.linspace(-86, 86, 4001), SIZES,
                         -SIZES]).astype(np.float32)


def sigmoid(x):
    e = np.exp(-abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def exp_of_nonpositive(x):
    y = x.copy()
    CPU.exp_of_nonpositive(y)
    return y


FUNCTIONS = {"sigmoid": (lambda x: CPU.activate(x, None, "sigmoid", 1), sigmoid, SPREAD),
             "tanh": (lambda x: CPU.activate(x, None, "tanh", 1), np.tanh, SPREAD),
             "exp": (exp_of_nonpositive, np.exp, -abs(SPREAD))}
functions = pytest.mark.parametrize("mine, exact, x", FUNCTIONS.values(), ids=FUNCTIONS)


@functions
def test_three_units_in_the_last_place(mine, exact, x):
    expected = exact(x.astype(np.float64))
    assert (abs(mine(x) - expected) <= 3 * np.spacing(abs(expected).astype(np.float32))).all()


@functions
def test_far_values(mine, exact, x):
    """Nothing overflows, and NaN stays NaN."""
    far = np.array([-np.inf, -1e30, -100, np.nan, -0.0], np.float32)
    with np.errstate(all="raise"):
        found = mine(far)
    expected = exact(np.array([-np.inf, -1e30, -1e3, np.nan, -0.0]))
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    if x.max() > 0:
        assert mine(np.array([np.inf, 1e30, 100], np.float32)).tolist() == [1, 1, 1]


@functions
def test_no_digit_depends_on_layout_or_threads(monkeypatch, mine, exact, x):
    x = x[:60000].reshape(200, 300)
    expected = mine(x)
    wide = np.zeros((200, 600), np.float32)
    wide[:, ::2] = x
    for other in (np.asfortranarray(x), wide[:, ::2], wide.T[::2].T):
        np.testing.assert_array_equal(mine(other), expected)
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 0)
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "COUNT", count)
        np.testing.assert_array_equal(mine(x), expected)
    np.testing.assert_array_equal([mine(row[:7]) for row in x], expected[:, :7])


def test_an_activation_writes_where_it_is_told(rng):
    x, b = rng.standard_normal((4, 6)).astype(np.float32), rng.standard_normal(6).astype(np.float32)
    for kind in ("sigmoid", "tanh"):
        expected = CPU.activate(x + b, None, kind, 2.5)
        wide = np.zeros((4, 12), x.dtype)
        for room in (np.zeros_like(x), wide[:, ::2], np.asfortranarray(x)):
            assert CPU.activate(x, b, kind, 2.5, out=room) is room
            np.testing.assert_array_equal(room, expected)
