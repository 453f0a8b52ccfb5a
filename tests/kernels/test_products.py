"""Products that are cut for the kernels' threads equal those of NumPy."""

import numpy as np
import pytest
from cases import in_turn

from minidrop.kernels import products, threads


@pytest.fixture(autouse=True)
def cuts(monkeypatch):
    """As of three threads, whatever BLAS has here."""
    numbers = [3]
    monkeypatch.setattr(threads, "_blas", lambda: (lambda: numbers[-1], numbers.append))
    monkeypatch.setattr(threads, "CUTS", True)
    monkeypatch.setattr(threads, "COUNT", 3)
    yield numbers
    assert numbers[-1] == 3


def numbers(*shape):
    return np.random.default_rng(shape).standard_normal(shape)


@in_turn("shape", [(300, 200, 170), (170, 200, 300), (1, 2000, 1200), (1200, 2000, 1), (2, 3, 4), (0, 3, 4),
                   (3, 0, 2)])
@in_turn("turned", ["", "a", "b", "ab"])
def test_dot(shape, turned):
    rows, inner, columns = shape
    a = numbers(inner, rows).T if "a" in turned else numbers(rows, inner)
    b = numbers(columns, inner).T if "b" in turned else numbers(inner, columns)
    out = np.empty((rows, columns))
    assert products.dot(a, b, out) is out
    np.testing.assert_allclose(out, a @ b, rtol=0, atol=1e-11)
    wide = np.empty((rows, columns + 5))
    assert products.matmul(a, b, wide[:, 2:-3]) is not None
    np.testing.assert_allclose(wide[:, 2:-3], a @ b, rtol=0, atol=1e-11)


def test_a_product_with_its_own_transpose():
    a = numbers(400, 500)
    np.testing.assert_allclose(products.dot(a, a.T, np.empty((400, 400))), a @ a.T, rtol=0, atol=1e-11)


@in_turn("shape", [(301, 77, 1001), (1003, 50, 211), (128, 300, 10_000)])
def test_the_bits_do_not_depend_on_who_computes_a_part(shape, monkeypatch):
    """Threads that are busy leave all parts to the one that asks."""
    rows, inner, columns = shape
    a, b = numbers(rows, inner).astype("float32"), numbers(inner, columns).astype("float32")
    shared = products.dot(a, b, np.empty((rows, columns), "float32"))
    monkeypatch.setattr(threads, "by_rows", lambda some, parts, work: some(0, parts))
    np.testing.assert_array_equal(products.dot(a, b, np.empty_like(shared)), shared)


def test_a_product_within_a_part_of_other_work_is_not_cut(monkeypatch):
    monkeypatch.setattr(threads, "by_rows", None)
    monkeypatch.setattr(threads._here, "is_worker", True, raising=False)
    a = numbers(400, 500)
    np.testing.assert_array_equal(products.dot(a, a.T, np.empty((400, 400))), np.dot(a, a.T))


def test_stacks():
    a, b = numbers(7, 100, 80), numbers(7, 90, 80).transpose(0, 2, 1)
    np.testing.assert_allclose(products.matmul(a, b, np.empty((7, 100, 90))), a @ b, rtol=0, atol=1e-11)
