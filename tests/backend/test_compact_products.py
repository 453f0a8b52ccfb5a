"""Products with what is kept of a matrix, gathered where it is used: entries, bits, and nets of groups."""

import numpy as np
import pytest
from cases import in_turn
from nets import IMAGES, LOSS, drop, ip, layer, net_of

from minidrop.backend import get_backend
from minidrop.backend.numpy import compact
from minidrop.backend.numpy.compact import KeptWeight
from minidrop.kept import Kept
from minidrop.kernels import threads, vectors
from minidrop.testing import assert_matches_masked_dense

pytestmark = pytest.mark.skipif(not vectors.BITS, reason="needs AVX2 with FMA, or AVX-512")
BACKEND = get_backend("cpu")
ROWS, COLS = 61, 139
SIDES = {
    "runs": (Kept(-3, 7, 5, ROWS), Kept(6, 30, 15, COLS)),
    "to the last entry": (Kept(0, 4, 2, ROWS), Kept(-2, 47, 17, COLS)),
    "all columns": (Kept(5, 9, 2, ROWS), None),
    "all rows": (None, Kept(9, 40, 31, COLS)),
    "lists": (Kept.of([0, 5, 60], ROWS), Kept.of([0, 1, 2, 50, 99, 100, 138], COLS)),
}


@pytest.fixture
def smallest(monkeypatch):
    for name in ("LEAST_ENTRIES", "LEAST_SIDE", "LEAST_RUN"):
        monkeypatch.setattr(compact, name, 0)
    monkeypatch.setattr(threads, "_LEAST_ELEMENTS", 0)
    # What a product does not write is no number.
    monkeypatch.setattr(type(BACKEND), "empty", lambda self, shape, dtype: np.full(shape, np.nan, dtype))


@pytest.mark.parametrize("rows, cols", SIDES.values(), ids=SIDES.keys())
@in_turn("dtype, samples", [("d", 19), ("d", 32), ("f", 32)])
def test_both_products_are_right_on_any_number_of_threads(rows, cols, dtype, samples, smallest, monkeypatch):
    rng = np.random.default_rng(samples)
    W = rng.standard_normal((ROWS, COLS)).astype(dtype)
    kept = np.ascontiguousarray(BACKEND.submatrix(W, rows, cols))
    x, gy = (rng.standard_normal((samples, n)).astype(dtype) for n in kept.shape[::-1])
    found = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "COUNT", count)
        weight = BACKEND.kept_operand(W, rows, cols, samples)
        assert isinstance(weight, KeptWeight)
        np.testing.assert_array_equal(weight.array(), kept)
        found.append((BACKEND.gemm(x, weight, trans_b=True), BACKEND.gemm(gy, weight)))
    close = {"rtol": 0, "atol": 1e-12 if dtype == "d" else 2e-4}
    for got, again, expected in zip(*found, (x @ kept.T, gy @ kept), strict=True):
        np.testing.assert_array_equal(got, again)
        np.testing.assert_allclose(got, expected, **close)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("family", ["PERIODIC", "UNIT", "SLICE"])
def test_the_contract(family, groups, smallest, monkeypatch):
    """Also where one group keeps more than another: 61 units are no multiple of any step."""
    made, begin = [], KeptWeight.__init__
    monkeypatch.setattr(KeptWeight, "__init__",
                        lambda self, *given: made.append(self) or begin(self, *given))
    settings = f"groups: {groups}" + " step: 7" * (family == "PERIODIC")
    net = net_of(IMAGES.replace("dim: 6", "dim: 64")
                 + ip("ip1", "data", 61) + layer("ReLU", "relu1", "ip1")
                 + drop("drop1", "ip1", family, "d1", settings) + ip("ip2", "d1", 37)
                 + drop("drop2", "ip2", family, "d2", settings) + ip("ip3", "d2", 7) + LOSS % "ip3")
    rng = np.random.default_rng(0)
    assert_matches_masked_dense(net, 1, {"data": rng.standard_normal((64, 13)),
                                         "label": rng.integers(0, 7, 64)})
    assert len(made) >= groups


def test_where_kept_rows_are_gathered_while_they_are_multiplied():
    """Not beside a thin side, nor where neighbours are few: BLAS is faster there."""
    def is_gathered(shape, rows, cols, samples=64):
        return isinstance(BACKEND.kept_operand(np.zeros(shape, "f"), rows, cols, samples), KeptWeight)

    half = Kept(0, 32, 16, 1024)
    assert is_gathered((1024, 1024), half, half)
    assert not is_gathered((1024, 1024), half, Kept(0, 2, 1, 1024))
    assert not is_gathered((24, 8192), None, Kept(0, 32, 16, 8192))
    assert not is_gathered((1024, 1024), half, half, 65)
