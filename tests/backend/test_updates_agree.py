"""The update of SGD is that of the generic backend, whatever blocks a gradient has."""

import itertools

import numpy as np
import pytest
from agreement import GENERIC, KEPT, TOTAL, same
from cases import in_turn

from minidrop.autograd import Block
from minidrop.backend import NumpyBackend
from minidrop.kept import Kept
from minidrop.patterns.tile import TilePattern


@pytest.fixture
def backend(any_backend):
    return any_backend


@pytest.mark.parametrize("rows, shape", [
    *((rows, shape) for rows in KEPT for shape in ((TOTAL, TOTAL), (TOTAL,))),
    ("None", (200, TOTAL)), ("None", (3, 2))])
def test_sgd_update(backend, array, close, rows, shape):
    rows, all_cols = KEPT[rows], KEPT.values() if shape[-1] == TOTAL and len(shape) == 2 else [None]
    for cols, decay, momentum, l1 in itertools.product(all_cols, (0.0, 0.01), (0.0, 0.9), (False, True)):
        W, history, dense = array(shape), array(shape), array(shape)
        block = GENERIC.submatrix(dense, rows, cols) if len(shape) == 2 else GENERIC.take(dense, rows, 0)
        gradient = Block(block, rows, cols).dense(GENERIC, shape).astype(float)
        expected = momentum * history + 0.1 * (0.5 * gradient + decay
                                               * (np.sign(W) if l1 else W.astype(float)))
        expected_W = W - expected
        expected = expected if momentum or decay else history.copy()       # nobody would read it
        W, history = backend.asarray(W), backend.asarray(history)
        backend.sgd_update(W, history, [Block(backend.asarray(block), rows, cols)], 0.1, momentum, decay, l1,
                           0.5)
        close(backend.to_host(history), expected, f"history, columns {cols}")
        close(backend.to_host(W), expected_W, f"W, columns {cols}")


@in_turn("cols", [None, "list", "one in three"])
@in_turn("rows", ["None", "list", "empty", "runs"])
def test_without_momentum_and_decay_only_what_has_a_gradient_is_touched(backend, array, rows, cols):
    """Bit for bit what the update of everything does; other weights may hold what no arithmetic would leave
    alone."""
    rows, cols = KEPT[rows], KEPT.get(cols)
    W, g = array((TOTAL, TOTAL)), array((TOTAL if rows is None else rows.count, TOTAL if cols is None
                                         else cols.count))
    touched = Block(np.ones_like(g), rows, cols).dense(GENERIC, W.shape) > 0
    W[~touched] = np.nan
    expected = W.copy()
    gradient = Block(g, rows, cols).dense(GENERIC, W.shape)
    expected[touched] -= (W.dtype.type(0.3) * W.dtype.type(0.5) * gradient)[touched]
    for on in (backend, GENERIC):
        on_device, history = on.asarray(W.copy()), on.asarray(np.full_like(W, np.inf))
        on.sgd_update(on_device, history, [Block(on.asarray(g), rows, cols)], 0.3, 0.0, 0.0, False, 0.5)
        if on is backend:
            same(on, on_device, expected)
        np.testing.assert_allclose(on.to_host(on_device), expected, rtol=1e-6)
        same(on, history, np.full_like(W, np.inf))


def test_without_momentum_it_is_the_update_with_a_momentum_of_next_to_nothing(array):
    """The smallest momentum takes the other way through the code, and rounds to the same bits."""
    on, W, g = NumpyBackend(), array((TOTAL, TOTAL)), array((5, TOTAL))
    results = []
    for momentum in (0.0, 1e-30):
        results.append(W.copy())
        on.sgd_update(results[-1], np.zeros_like(W), [Block(g, KEPT["list"])], 0.3, momentum, 0.0, False, 0.5)
    same(on, *results)
    assert (results[0] != W).sum() == g.size


def test_without_momentum_blocks_may_overlap(backend, array, close):
    W, rows = array((TOTAL, 30)), (KEPT["list"], KEPT["list"], None)
    blocks = [Block(array((TOTAL if kept is None else kept.count, 30)), kept) for kept in rows]
    expected = W - 0.1 * sum(block.dense(GENERIC, W.shape).astype(float) for block in blocks)
    for on in (backend, GENERIC):
        on_device = on.asarray(W.copy())
        on.sgd_update(on_device, on.asarray(W), [Block(on.asarray(b.data), b.rows) for b in blocks], 0.1, 0.0,
                      0.0, False, 1.0)
        close(on.to_host(on_device), expected)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_sgd_update_of_any_number_of_blocks(backend, array, close, count):
    W, history, shape = array((TOTAL, 30)), array((TOTAL, 30)), (TOTAL, 30)
    rows = [KEPT["runs"], KEPT["list"], None][:count]
    blocks = [Block(array((TOTAL if kept is None else kept.count, 30)), kept) for kept in rows]
    gradient = sum((block.dense(GENERIC, shape) for block in blocks), np.zeros(shape))
    expected = 0.9 * history + 0.1 * (gradient + 0.01 * W)
    on_device = backend.asarray(W.copy()), backend.asarray(history.copy())
    backend.sgd_update(*on_device, [Block(backend.asarray(b.data), b.rows) for b in blocks], 0.1, 0.9, 0.01,
                       False, 1.0)
    close(backend.to_host(on_device[1]), expected)
    close(backend.to_host(on_device[0]), W - expected)


def places(which, outputs, inputs):
    """The (rows, columns) of the blocks of a gradient."""
    if which == "overlapping groups":
        return [(Kept.of([0, 1, 5], outputs), Kept.of([0, 3], inputs)),
                (Kept.of([1, 2], outputs), Kept.of([0, 1, 2], inputs)), (Kept.of([5], outputs), None)]
    if which == "no columns in some":       # rows take turns between a block that has no column and one that
                                            # has a few
        return [(Kept(0, 2, 1, outputs), Kept.of([], inputs)),
                (Kept(1, 2, 1, outputs), Kept.of([0, 2], inputs))]
    if which == "nothing at all":
        return [(Kept.of([], outputs), None), (None, Kept.of([], inputs))]
    period, size, transposed = which
    tiles = TilePattern(1 - 1 / period, 1.0, period, period // 2, size).tiles(outputs, inputs)
    return [pair[::-1] for pair in tiles] if transposed else tiles


@pytest.mark.parametrize("which", ["overlapping groups", "no columns in some", "nothing at all",
                                   (1, 4, False), (2, 4, False), (3, 4, True), (5, 2, False), (8, 4, False),
                                   (8, 4, True), (2, 32, False)], ids=str)
def test_sgd_update_of_blocks_equals_that_of_the_dense_gradient(backend, array, close, which):
    """Tiles have rows of their own and are updated in one pass; what shares rows is summed first."""
    outputs, inputs = 23, 37
    shape = (inputs, outputs) if which[-1] is True else (outputs, inputs)
    blocks = [Block(array([n if kept is None else kept.count for n, kept in zip(shape, pair, strict=True)]),
                    *pair)
              for pair in places(which, outputs, inputs)]
    gradient = np.zeros(shape)
    for block in blocks:
        gradient[np.ix_(*(np.arange(n) if kept is None else kept.indices
                          for n, kept in zip(shape, (block.rows, block.cols), strict=True)))] += block.data
    for decay, l1 in ((0.0, False), (0.01, False), (0.01, True)):
        W, history = array(shape), array(shape)
        expected = 0.9 * history + 0.1 * (0.5 * gradient + decay * (np.sign(W) if l1 else W.astype(float)))
        for on in (backend, GENERIC):
            on_device = on.asarray(W.copy()), on.asarray(history.copy())
            given = [Block(on.asarray(block.data), block.rows, block.cols) for block in blocks]
            on.sgd_update(*on_device, given, 0.1, 0.9, decay, l1, 0.5)
            close(on.to_host(on_device[1]), expected, f"history, l1 {l1}")
            close(on.to_host(on_device[0]), W - expected, f"W, l1 {l1}")


def test_sgd_update_of_a_bias_in_blocks(backend, array, close):
    b, history = array((TOTAL,)), array((TOTAL,))
    rows = [KEPT["runs"], KEPT["list"], KEPT["empty"]]
    parts = [array((kept.count,)) for kept in rows]
    gradient = sum(GENERIC.put(part, kept, 0) for part, kept in zip(parts, rows, strict=True))
    on_device = backend.asarray(b.copy()), backend.asarray(history.copy())
    backend.sgd_update(*on_device, [Block(backend.asarray(part), kept)
                                    for part, kept in zip(parts, rows, strict=True)],
                       0.1, 0.9, 0.01, False, 1.0)
    expected = 0.9 * history + 0.1 * (gradient + 0.01 * b)
    close(backend.to_host(on_device[1]), expected)
    close(backend.to_host(on_device[0]), b - expected)
