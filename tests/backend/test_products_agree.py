"""Products of matrices are those of the generic backend, whatever they read and write."""

from functools import partial

import numpy as np
import pytest
from agreement import GENERIC, KEPT, TOTAL, memory, same
from cases import in_turn

from minidrop.patterns.grid import BlockGrid


@pytest.fixture
def backend(any_backend):
    return any_backend


@memory
@in_turn("trans_a", [False, True])
@in_turn("trans_b", [False, True])
@in_turn("rows, inner, columns", [(1, 1, 1), (3, 5, 7), (65, 129, 33), (4, 0, 3), (0, 4, 3),
                                  (4, 3, 0)])
def test_gemm(backend, array, close, trans_a, trans_b, rows, inner, columns, layout):
    a = array((inner, rows) if trans_a else (rows, inner), layout)
    b = array((columns, inner) if trans_b else (inner, columns), layout)
    got = backend.to_host(backend.gemm(backend.asarray(a), backend.asarray(b), trans_a, trans_b))
    assert got.shape == (rows, columns) and got.dtype == a.dtype
    close(got, np.einsum("ij,jk->ik", (a.T if trans_a else a).astype(float),
                         (b.T if trans_b else b).astype(float)))
    close(got, GENERIC.gemm(a, b, trans_a, trans_b))


@memory
@in_turn("rows", KEPT.values(), ids=KEPT.keys())
def test_products_of_what_is_kept(product_backend, array, close, rows, layout):
    """A device may read W where it lies; the second product finds what the first one may have gathered."""
    backend = product_backend
    W = array((TOTAL, TOTAL), layout)
    for cols in KEPT.values():
        live = W[np.ix_(*(np.arange(TOTAL) if kept is None else kept.indices
                          for kept in (rows, cols)))].astype(float)
        block = backend.submatrix(backend.asarray(W), rows, cols)
        for trans_b in (True, False):
            x = array((5, live.shape[1 if trans_b else 0]))
            got = backend.gemm(backend.operand(backend.asarray(x)), block, trans_b=trans_b)
            close(backend.to_host(got), x @ (live.T if trans_b else live))
        part = backend.scaled(block, 0.5)
        close(backend.to_host(backend.gemm(backend.asarray(np.eye(len(live), dtype=W.dtype)), part)),
              0.5 * live)


@in_turn("shapes", [[], [(5, 6, 7)], [(5, 6, 7)] * 3, [(5, 6, 7), (5, 6, 6), (5, 5, 7)],
                    [(5, 60, 7), (5, 1, 1)], [(5, 0, 7), (0, 6, 7)]], ids=str)
def test_many_products(product_backend, array, close, shapes):
    """Whatever is taken together: each result is that of its own two matrices, in their order."""
    backend = product_backend
    pairs, expected = [], []
    for m, n, k in shapes:
        for trans_a, trans_b in ((False, True), (True, False)):
            a, b = array((k, m) if trans_a else (m, k)), array((n, k) if trans_b else (k, n))
            pairs.append((backend.asarray(a), backend.asarray(b), trans_a, trans_b))
            expected.append((a.T if trans_a else a).astype(float) @ (b.T if trans_b else b))
    results = [backend.to_host(y) for y in backend.gemms(iter(pairs))]
    assert [y.shape for y in results] == [y.shape for y in expected]
    for got, want in zip(results, expected, strict=True):
        close(got, want)


@in_turn("n, rows, inner, columns", [(1, 1, 1, 1), (3, 5, 4, 7), (6, 1, 8, 2), (4, 9, 0, 3), (0, 2, 3, 4),
                                     (2, 7, 1, 1)])
@in_turn("turned", [False, True])
def test_gemm_stack(product_backend, array, close, n, rows, inner, columns, turned):
    """Of views as attention has them: the matrices of a sample and a head lie side by side."""
    a = array((rows, n, inner + 3))[:, :, :inner].transpose(1, 0, 2)
    b = array((columns, n, inner) if turned else (inner, n, columns))
    b = b.transpose((1, 2, 0) if turned else (1, 0, 2))
    for on in (product_backend, GENERIC):
        got = on.gemm_stack(on.asarray(a), on.asarray(b))
        assert got.shape == (n, rows, columns)
        close(on.to_host(got), a.astype(float) @ b)


def test_gemms_of(product_backend, array, close):
    """Products of groups, which may run at once; one writes to a run of rows."""
    pairs = [(array((rows, 40)), array((70, 40))) for rows in (33, 1, 64)]
    for on in (product_backend, GENERIC):
        y = on.empty((100, 70), pairs[0][0].dtype)
        own = [(on.asarray(a), on.asarray(b), False, True, out)
               for (a, b), out in zip(pairs, (y[:33], None, y[36:]), strict=True)]
        made = on.gemms_of([partial(tuple, one) for one in own], 10 ** 6)
        for got, (a, b) in zip(made, pairs, strict=True):
            close(on.to_host(got), a.astype(float) @ b.T)
        close(on.to_host(y[36:]), pairs[2][0].astype(float) @ pairs[2][1].T)


def test_products_of_samples_between_others(product_backend, array, close):
    """Groups of (T, N, units): the rows of a product lie apart, so `out` has three axes."""
    pairs = [(array((3 * n, 40)), array((70, 40))) for n in (5, 2)] + [(array((14, 40)), array((9, 40)))]
    for on in (product_backend, GENERIC):
        y, own = on.zeros((3, 8, 80), pairs[0][0].dtype), on.empty((2, 7, 9), pairs[0][0].dtype)
        places = y[:, :5, :70], y[:, 6:, :70], own
        products = [(on.asarray(a), on.asarray(b), False, True, out)
                    for (a, b), out in zip(pairs, places, strict=True)]
        for at_once in (True, False):
            makers = [partial(tuple, one) for one in products]
            list(on.gemms_of(makers, 10 ** 6) if at_once else on.gemms(iter(products)))
            for place, (a, b) in zip(places, pairs, strict=True):
                close(on.to_host(place), (a.astype(float) @ b.T).reshape(place.shape))
            assert not on.to_host(y[:, 5]).any() and not on.to_host(y[:, :, 70:]).any()
            y.fill(0)


def test_gemm_of_a_matrix_with_itself(backend, array, close):
    a = backend.asarray(array((40, 70)))
    host = backend.to_host(a).astype(float)
    close(backend.to_host(backend.gemm(a, a, trans_b=True)), host @ host.T)


@memory
@in_turn("shape, ends", [((1, 1, 1), (1,)), ((130, 9, 1), (64, 128, 130)),
                         ((20, 5, 7), (3, 20)), ((6, 150, 2), (1, 2, 3, 4, 5, 6)),
                         ((0, 4, 1), ()), ((3, 0, 1), (3,))])
def test_multiply_groups(backend, array, shape, ends, layout):
    x, factors = array(shape, layout), array((len(ends), shape[1]))
    group = np.repeat(np.arange(len(ends)), np.diff([0, *ends]))
    for on in (backend, GENERIC):
        same(on, on.multiply_groups(on.asarray(x), list(ends), on.asarray(factors)),
             x * factors[group][:, :, None])


@memory
@in_turn("shape, block", [((1, 1, 1), (1, 1)), ((130, 9, 1), (64, 4)), ((20, 5, 7), (3, 9)),
                          ((6, 150, 2), (1, 64)), ((0, 4, 1), (2, 2)), ((3, 0, 1), (2, 2))])
def test_multiply_blocks(backend, array, rng, shape, block, layout):
    lives = rng.random((-(-shape[0] // block[0]), -(-shape[1] // block[1]))) < 0.5
    grid = BlockGrid(lives.astype(np.uint8), *block)
    x = array(shape, layout)
    for on in (backend, GENERIC):
        same(on, on.multiply_blocks(on.asarray(x), grid, 1.7),
             x * (grid.mask(*shape[:2]) * x.dtype.type(1.7))[:, :, None])


@memory
@in_turn("trans_a, trans_b", [(False, True), (False, False), (True, False)])
@in_turn("block", [(64, 32), (7, 9)])
def test_block_product(backend, array, rng, close, trans_a, trans_b, block, layout):
    """More of it in test_block_products.py."""
    samples, units, columns = 130, 96, 70
    depth = samples if trans_a else units
    a, b = array((samples, units), layout), array((columns, depth) if trans_b else (depth, columns), layout)
    bias = array((columns,))
    a_grid, n_grid = (BlockGrid((rng.random((-(-samples // block[0]), -(-n // block[1])))
                                 < 0.5).astype(np.uint8), *block)
                      for n in (units, columns))
    left, right = a * a_grid.mask(samples, units), b.T if trans_b else b
    n_mask = n_grid.mask(samples, columns)
    expected = 2 * (left.T @ (right * n_mask) if trans_a else left @ right * n_mask) + bias
    for on in (backend, GENERIC):
        assert not on.block_products(a.dtype)       # in these types all of them gather
        same(on, on.block_mask(a_grid), a_grid.lives)
        got = on.block_product(on.asarray(a), on.asarray(b), trans_a, trans_b, a_grid, n_grid, 2.0,
                               on.asarray(bias))
        close(on.to_host(got), expected)
