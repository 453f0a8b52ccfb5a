"""Every method that a backend overrides equals the generic one, which is written in NumPy's terms."""

import inspect
import itertools
import math
import tracemalloc
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from agreement import GENERIC, LAYOUTS, memory, same
from cases import every_pair, in_turn

from minidrop.autograd import Block, Blocks, Parameter
from minidrop.backend import Backend, NumpyBackend
from minidrop.backend.cuda.backend import CupyBackend
from minidrop.kept import Kept, KeptByGroup
from minidrop.kernels import threads
from minidrop.patterns.grid import BlockGrid
from minidrop.patterns.tile import TilePattern

TOTAL = 23
KEPT = {
    "None": None,
    "all": Kept.all(TOTAL),
    "empty": Kept(30, 40, 3, TOTAL),
    "one in three": Kept(1, 3, 1, TOTAL),
    "runs": Kept(2, 7, 4, TOTAL),
    "one run": Kept(5, 40, 9, TOTAL),
    "wrapped": Kept(-3, 10, 5, TOTAL),
    "list": Kept.of([0, 1, 7, 20, 22], TOTAL),
}
kept_sets = in_turn("kept", KEPT.values(), KEPT.keys())



@pytest.fixture
def backend(any_backend):
    return any_backend





@kept_sets
@in_turn("shape, axis", [((TOTAL,), 0), ((TOTAL, 5), 0), ((5, TOTAL), 1), ((200, TOTAL), -1),
                         ((TOTAL, 5), -2), ((3, TOTAL, 4), 1), ((2, 3, 4, TOTAL), 3)])
def test_take_and_put(backend, array, kept, shape, axis):
    for layout in LAYOUTS:
        x = array(shape, layout)
        on_device = backend.asarray(x)
        same(backend, backend.take(on_device, kept, axis), GENERIC.take(x, kept, axis))
        expected = np.zeros_like(x)
        place = [slice(None)] * x.ndim
        place[axis] = slice(None) if kept is None else kept.indices
        expected[tuple(place)] = x[tuple(place)]
        same(backend, backend.put(backend.take(on_device, kept, axis), kept, axis), expected)


@in_turn("sets", [("one in three", "runs"), ("list", "empty", "wrapped"), ("list",) * 9])
@in_turn("shape, axis", [((5, TOTAL), 1), ((2, 5, TOTAL), -1), ((5, TOTAL, 4), 1)])
def test_compact_and_expand_groups_of_samples(backend, array, sets, shape, axis):
    """Each group of the samples, which lie on the axis before, has its own entries; the others are zeros."""
    kept, samples = KeptByGroup([KEPT[name] for name in sets]), shape[axis - 1]
    x = array(shape)
    expected = x * kept.mask(samples).reshape((1,) * (axis % len(shape) - 1) + (samples, TOTAL)
                                              + (1,) * (len(shape) - 1 - axis % len(shape)))
    compact = backend.compact(backend.asarray(x), kept, axis)
    assert compact.shape[axis] == kept.count
    same(backend, backend.expand(compact, kept, axis), expected)


@kept_sets
@in_turn("shape, axis", [((TOTAL,), 0), ((5, TOTAL), 1), ((2, 5, TOTAL), -1), ((5, TOTAL, 4), 1)])
def test_add_kept(backend, array, kept, shape, axis):
    """x is added where the kept entries lie; every other entry stays as it was."""
    if kept is None:
        return
    for own in [kept] if axis == 0 else [kept, KeptByGroup([kept, KEPT["runs"]])]:
        before, part = array(shape), backend.compact(backend.asarray(array(shape)), own, axis)
        out = backend.asarray(before.copy())
        backend.add_kept(out, part, own, axis)
        same(backend, out, before + backend.to_host(backend.expand(part, own, axis)))


@kept_sets
@memory
@in_turn("rows", [1, 5, 200])
def test_put_columns(backend, array, kept, rows, layout):
    """What is not kept stays as it was; `out` may be some rows of a larger array."""
    columns = np.arange(TOTAL) if kept is None else kept.indices
    x, before = array((rows, columns.size), layout), array((rows + 4, TOTAL))
    expected = before.copy()
    expected[3:rows + 3, columns] = x
    for which in (backend, GENERIC):
        out = which.asarray(before.copy())
        which.put_columns(out[3:rows + 3], kept, which.asarray(x))
        same(which, out, expected)
    dense = backend.asarray(before.copy())
    backend.put_columns(dense, kept, backend.take(backend.asarray(before), kept, 1))
    same(backend, dense, before)


@kept_sets
@in_turn("steps, streams", [(1, 1), (3, 5), (20, 200)])
def test_columns_of_some_streams(backend, array, kept, steps, streams):
    """Of three axes: out and x are the same streams of all steps of larger arrays."""
    columns = np.arange(TOTAL) if kept is None else kept.indices
    before = array((steps, streams + 4, TOTAL))
    own = before[:, 3:streams + 3]
    for which in (backend, GENERIC):
        taken = which.compact(which.asarray(before)[:, 3:streams + 3], kept, 2)
        same(which, taken, own[..., columns])
        out = which.asarray(np.zeros_like(before))
        which.put_columns(out[:, 3:streams + 3], kept, which.xp.ascontiguousarray(taken))
        expected = np.zeros_like(before)
        expected[:, 3:streams + 3, columns] = own[..., columns]
        same(which, out, expected)


@memory
@in_turn("rows", KEPT.values(), ids=KEPT.keys())
def test_submatrix(backend, array, rows, layout):
    W = array((TOTAL, TOTAL), layout)
    for cols in KEPT.values():
        expected = W[np.ix_(*(np.arange(TOTAL) if kept is None else kept.indices for kept in (rows, cols)))]
        same(backend, backend.submatrix(backend.asarray(W), rows, cols), expected)


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
@pytest.mark.parametrize("rows", KEPT.values(), ids=KEPT.keys())
def test_add_block(backend, array, close, rows, layout):
    """`out` is changed in place, where the block stands and nowhere else; the block is not changed."""
    for cols in KEPT.values():
        index = np.ix_(*(np.arange(TOTAL) if kept is None else kept.indices for kept in (rows, cols)))
        out, x = array((TOTAL, TOTAL)), array([len(side.ravel()) for side in index], layout)
        expected = out.copy()
        expected[index] += x
        for which in (backend, GENERIC):
            on_device, block = which.asarray(out.copy()), which.asarray(x)
            which.add_block(on_device, rows, cols, block)
            same(which, on_device, expected)
            same(which, block, x)


@kept_sets
def test_add_block_to_a_vector(backend, array, kept):
    out, x = array((TOTAL,)), array((TOTAL if kept is None else kept.count,))
    expected = out.copy()
    expected[slice(None) if kept is None else kept.indices] += x
    for rows, cols in ((kept, None), (None, kept)):
        on_device = backend.asarray(out.copy())
        backend.add_block(on_device, rows, cols, backend.asarray(x))
        same(backend, on_device, expected)


def test_add_block_of_all_takes_any_shape(backend, array):
    out, x = array((2, 3, 4)), array((6, 4))
    on_device = backend.asarray(out.copy())
    backend.add_block(on_device, None, None, backend.asarray(x))
    same(backend, on_device, out + x.reshape(2, 3, 4))


@kept_sets
@memory
@pytest.mark.parametrize("ids", [[], [3], [7, 0, 7, 7, 22, 1, 0]])
def test_lookup(backend, array, kept, ids, layout):
    W, ids = array((TOTAL, TOTAL), layout), np.array(ids, np.int64)
    expected = W[ids][:, np.arange(TOTAL) if kept is None else kept.indices]
    for on in (backend, GENERIC):
        same(on, on.lookup(on.asarray(W), on.asarray(ids), kept), expected)


@memory
@pytest.mark.parametrize("columns", [0, 1, 65])
@pytest.mark.parametrize("groups", [[], [1], [1, 1, 1], [40], [3, 1, 200, 7]], ids=str)
def test_sum_groups(backend, array, close, groups, columns, layout):
    """On the CPU rows are added one after the other, on any device always in the same way."""
    x = array((sum(groups) + 3, columns), layout)
    order = np.random.default_rng(1).permutation(len(x))[:sum(groups)]
    starts = np.cumsum([0, *groups[:-1]])[:len(groups)]
    expected = np.zeros((len(groups), columns), x.dtype)
    for total, first, count in zip(expected, starts, groups, strict=True):
        for i in order[first:first + count]:
            total += x[i]
    for on in (backend, GENERIC):
        got, again = (on.to_host(on.sum_groups(on.asarray(x), order, starts)) for _ in range(2))
        close(got, expected)
        same(on, got, again)
        if on.name == "cpu":
            same(on, got, expected)


IDS = {
    "one": [3], "the same": [2] * 70, "all different": list(range(40))[::-1],
    "in turn": [i % 7 for i in range(300)], "far apart": [5, *range(6, 105), 5, 0, 5], "none": [],
}


def table_block(on, x, ids, rows, cols=None):
    return Block(*on.table_gradient(on.asarray(x), on.asarray(np.array(ids, np.int64)), rows), cols)


@in_turn("ids", IDS.values(), ids=IDS.keys())
@in_turn("columns", [1, 5, 129])
@memory
def test_table_gradient(backend, array, ids, columns, layout):
    """What a row gets is added in the order of its places, to the last bit."""
    x, rows = array((len(ids), columns), layout), 110
    expected = np.zeros((rows, columns), x.dtype)
    for i, row in zip(ids, x, strict=True):
        expected[i] += row
    for on in (backend, GENERIC):
        for _ in range(2):
            block = table_block(on, x, ids, rows)
            if on.name == "generic":        # the order of its sum is NumPy's
                np.testing.assert_allclose(block.dense(on, expected.shape), expected, rtol=1e-5, atol=1e-5)
                continue
            same(on, block.dense(on, expected.shape), expected)
            got = on.to_host(block.data)
            assert got[~got.any(axis=1)].shape[0] == len(got) - np.unique(ids).size
            np.testing.assert_allclose(on.sum_of_squares(block.data), (expected.astype(float) ** 2).sum(),
                                       rtol=1e-5)


@every_pair(("ids", list(IDS.values())), ("cols", ["None", "runs", "list"]),
            ("momentum, decay", [(0.0, 0.0), (0.9, 0.0), (0.0, 0.01)]))
def test_updates_and_sums_of_a_table_gradient(backend, array, close, ids, cols, momentum, decay):
    cols = KEPT[cols]
    shape, width = (110, TOTAL), TOTAL if cols is None else cols.count
    x, other, W, history = array((len(ids), width)), array((len(ids), width)), array(shape), array(shape)
    dense = table_block(GENERIC, x, ids, 110, cols).dense(GENERIC, shape)
    more = table_block(GENERIC, other, ids[::-1], 110, cols).dense(GENERIC, shape)
    for both in (False, True):
        gradient = dense + more if both else dense
        expected = momentum * history + 0.1 * (0.5 * gradient + decay * W)
        on_device = [backend.asarray(a.copy()) for a in (W, history)]
        blocks = [table_block(backend, x, ids, 110, cols),
                  table_block(backend, other, ids[::-1], 110, cols)][:1 + both]
        backend.sgd_update(*on_device, blocks, 0.1, momentum, decay, False, 0.5)
        close(backend.to_host(on_device[0]), W - expected)
        if momentum or decay:
            close(backend.to_host(on_device[1]), expected)
        close(backend.to_host(Blocks(blocks, W.dtype).dense(backend, shape)), gradient)
        parameter = Parameter(backend.asarray(W), backend)
        for block in blocks:
            parameter.accumulate(block)
        close(backend.to_host(parameter.grad), gradient)
        assert parameter.has_separate_blocks() == (len(parameter.blocks) == 1 or not ids)


@memory
@in_turn("axis", [0, 1, -1])
def test_concatenate(backend, array, axis, layout):
    parts = [array(shape if axis == 0 else (shape[1], shape[0], 2), layout)
             for shape in ((3, 5, 2), (1, 5, 2), (0, 5, 2))]
    if axis == -1:
        parts = [part.transpose(0, 2, 1) for part in parts]
    for on in (backend, GENERIC):
        same(on, on.concatenate([on.asarray(part) for part in parts], axis), np.concatenate(parts, axis))


@in_turn("columns", [0, 3, 1_000_000])
@in_turn("rows", [0, 1, 1001])
def test_in_chunks_every_row_is_in_one_call(backend, rows, columns):
    for on in (backend, GENERIC):
        for products in (False, True):
            calls = []
            on.in_chunks(lambda *part, calls=calls: calls.append(part), rows, columns, 4, products)
            assert sorted(i for first, last in calls for i in range(first, last)) == list(range(rows))


class Recording(Backend):
    """The generic backend, which notes the size of every array that it makes."""

    def __init__(self):
        self.sizes = []

    def empty(self, shape, dtype):
        self.sizes.append(math.prod(shape))
        return super().empty(shape, dtype)


def test_blocks_become_one_array_without_others_of_its_size(array, close):
    """Of a product in many pieces each piece costs what it holds."""
    tiles = TilePattern(0.8, 1.0, 5, 2, 4).tiles(40, 60)
    blocks = [Block(array((rows.count, cols.count)), rows, cols) for rows, cols in tiles]
    assert len(blocks) == 5
    expected = sum(block.dense(GENERIC, (40, 60)) for block in blocks)
    on = Recording()
    same(on, Blocks(blocks, expected.dtype).dense(on, (40, 60)), expected)
    assert on.sizes == [40 * 60]
    on, W, history = Recording(), array((40, 60)), np.zeros((40, 60), expected.dtype)
    tracemalloc.start()
    on.sgd_update(W, history, blocks, 0.1, 0.9, 0.0, False, 2.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert on.sizes == [] and peak < W.nbytes
    close(history, 0.2 * expected)


@pytest.mark.parametrize("columns", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_column_sums_do_not_depend_on_the_threads(monkeypatch, columns, count):
    """A matrix of one column alone NumPy would sum in pairs."""
    x = np.random.default_rng(0).standard_normal((9000, columns)).astype(np.float32)
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 1)
    sums = []
    for threads_now in (1, count):
        monkeypatch.setattr(threads, "COUNT", threads_now)
        sums.append(NumpyBackend().column_sums(x))
    np.testing.assert_array_equal(*sums)


@pytest.mark.parametrize("cols", [Kept(0, 32, 16, 100), Kept(-7, 40, 17, 100), Kept(30, 33, 20, 100),
                                  Kept(-15, 30, 16, 100), Kept(3, 30, 15, 100)])
@pytest.mark.parametrize("count", [1, 3])
def test_runs_of_columns_are_copied_whole(monkeypatch, cols, count):
    x, rows = np.random.default_rng(0).standard_normal((40, 100)), Kept(-1, 6, 3, 40)
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 0)
    monkeypatch.setattr(threads, "COUNT", count)
    cpu, every = NumpyBackend(), cols.indices
    np.testing.assert_array_equal(cpu.submatrix(x, rows, cols), x[rows.indices][:, every])
    part = cpu.take(x, cols, 1)
    np.testing.assert_array_equal(part, x[:, every])
    out = np.ones_like(x)
    cpu.put_columns(out, cols, part)
    expected = np.ones_like(x)
    expected[:, every] = part
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("kept", [Kept(1, 3, 1, 40), Kept(-2, 10, 5, 40), Kept.of([], 40)])
@pytest.mark.parametrize("shape", [(40,), (40, 7), (40, 3, 5)])
def test_rows_taken_by_several_threads_are_the_rows(monkeypatch, kept, shape):
    x = np.random.default_rng(0).standard_normal(shape)
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 0)
    monkeypatch.setattr(threads, "COUNT", 3)
    np.testing.assert_array_equal(NumpyBackend().take(x, kept, 0), x[kept.indices])


def test_rows_of_a_view_are_taken_at_once(monkeypatch):
    """NumPy copies all of a strided array in every call of `take`: calls of three threads would be three."""
    x, kept = np.random.default_rng(0).standard_normal((40, 14))[:, ::2], Kept.of([1, 4, 5, 30], 40)
    for least in ("_LEAST_ELEMENTS", "_LEAST_SHARED"):
        monkeypatch.setattr(threads, least, 0)
    monkeypatch.setattr(threads, "COUNT", 3)
    calls, take = [], np.take
    monkeypatch.setattr(np, "take", lambda *args, **more: calls.append(1) or take(*args, **more))
    np.testing.assert_array_equal(NumpyBackend().take(x, kept, 0), x[kept.indices])
    assert calls == [1]


@memory
@in_turn("shape", [(1, 1), (129, 7), (0, 3), (3, 0)])
def test_column_sums_and_sum_of_squares(backend, array, close, shape, layout):
    x = array(shape, layout)
    close(backend.to_host(backend.column_sums(backend.asarray(x))), x.astype(float).sum(axis=0))
    close(backend.sum_of_squares(backend.asarray(x)), (x.astype(float) ** 2).sum())
    y = array((4, 5), layout)
    several = x, y, x[:1]
    close(backend.sum_of_squares(*map(backend.asarray, several)),
          sum((a.astype(float) ** 2).sum() for a in several))
    on_device = backend.squares(*map(backend.asarray, several))
    assert on_device.shape == () and on_device.dtype == np.float64
    assert float(on_device) == backend.sum_of_squares(*map(backend.asarray, several))


def test_a_sum_of_squares_leaves_the_device_once(monkeypatch):
    transfers = []

    class Scalar:
        """A number on a device."""

        def __init__(self, value):
            self.value = value

        def __add__(self, other):
            return Scalar(self.value + other.value)

        def __float__(self):
            transfers.append(self.value)
            return self.value

    monkeypatch.setattr(Backend, "xp", SimpleNamespace(zeros=lambda shape, dtype: Scalar(0.0),
                                                       dot=lambda a, b: Scalar(float(np.dot(a, b)))))
    assert Backend().sum_of_squares(*(np.full(3, float(n)) for n in (1, 2, 3))) == 42
    assert transfers == [42]


def test_nothing_has_no_squares(backend):
    assert backend.sum_of_squares() == 0 and type(backend.sum_of_squares()) is float


@memory
@in_turn("shape", [(1,), (3,), (7, 9), (300, 5), (2, 3, 5, 7), (0, 4)])
@in_turn("rate", [0.1, 0.5, 0.9])
def test_dropout(backend, array, rate, shape, layout):
    x, gy = array(shape, layout), array(shape, layout)
    y, mask = GENERIC.dropout(x, rate, 1 / (1 - rate), 2**63 + 17)
    got_y, got_mask = backend.dropout(backend.asarray(x), rate, 1 / (1 - rate), 2**63 + 17)
    same(backend, got_mask, mask)
    same(backend, got_y, y)
    same(backend, got_y, np.where(mask, x * x.dtype.type(1 / (1 - rate)), 0).astype(x.dtype))
    same(backend, backend.dropout_gradient(backend.asarray(gy), got_mask, 2.0),
         GENERIC.dropout_gradient(gy, mask, 2.0))


def test_dropout_masks_do_not_depend_on_the_shape(backend):
    """Element i is drawn from (key, i) alone."""
    ones = backend.asarray(np.ones(1001, np.float32))
    _, mask = backend.dropout(ones, 0.4, 1.0, 5)
    for count in (1, 4, 513, 1000):
        same(backend, backend.dropout(ones[:count], 0.4, 1.0, 5)[1], backend.to_host(mask)[:count])


@in_turn("shape", [(1, 1, 1), (2, 3, 5), (3, 2, 1001), (2, 0, 4)])
@in_turn("begin, strides", [(0, (5000, 1001)), (7, (30, 5)), (2**34 + 2, (2**20 + 1, 2**10 + 3))])
def test_a_tile_of_a_dropout_mask(backend, shape, begin, strides):
    got = backend.dropout_tile(shape, begin, strides, 0.4, 2**63 + 17)
    assert got.shape == shape and got.dtype == bool
    same(backend, got, GENERIC.dropout_tile(shape, begin, strides, 0.4, 2**63 + 17))
    if begin < 100:
        whole = GENERIC.dropout(np.ones(20_000, np.float32), 0.4, 1.0, 2**63 + 17)[1]
        a, r, c = np.ogrid[tuple(map(slice, shape))]
        same(backend, got, whole[begin + a * strides[0] + r * strides[1] + c])


def test_dropout_rate(backend):
    x = backend.asarray(np.ones(400_000, np.float32))
    for rate in (0.1, 0.5, 0.75):
        kept = backend.to_host(backend.dropout(x, rate, 1.0, 99)[1]).mean()
        assert abs(kept - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / 400_000)


GAUSSIAN_TOLERANCE = {"float32": 2e-6, "float64": 1e-14}


@in_turn("shape", [(), (1,), (2,), (3,), (7, 9), (129, 31), (2, 3, 5, 7), (0, 4)])
@in_turn("key", [0, 5, 2**63 + 17])
def test_gaussian(backend, dtype, shape, key):
    """All backends and dtypes give one stream, to rounding."""
    got = backend.gaussian(shape, np.dtype(dtype), key)
    assert isinstance(got, backend.xp.ndarray) and got.shape == shape and got.dtype == dtype
    expected = GENERIC.gaussian(shape, np.dtype(np.float64), key)
    np.testing.assert_allclose(backend.to_host(got), expected, rtol=0, atol=GAUSSIAN_TOLERANCE[dtype])
    single = GENERIC.gaussian(shape, np.dtype(np.float32), key)
    np.testing.assert_array_equal(single, expected.astype(np.float32))


def test_gaussian_numbers_do_not_depend_on_the_shape(backend, dtype):
    """Number i is drawn from (key, i) alone, wherever work is split."""
    numbers = backend.to_host(backend.gaussian((1001,), np.dtype(dtype), 5))
    for count in (1, 4, 511, 513, 1000):
        np.testing.assert_allclose(backend.to_host(backend.gaussian((count,), np.dtype(dtype), 5)),
                                   numbers[:count], rtol=0, atol=GAUSSIAN_TOLERANCE[dtype])


def test_gaussian_law(backend, dtype):
    """Moments, and the distance of the empirical distribution from the normal one."""
    e = backend.to_host(backend.gaussian((400, 1000), np.dtype(dtype), 99)).astype(float).reshape(-1)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((e**power).mean() - mean) < 5 * np.sqrt(variance / e.size), f"moment {power}"
    places = np.sort(e)[::400]
    normal = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in places])
    # P(further) < 0.001
    assert abs(normal - np.arange(0, e.size, 400) / e.size).max() < 2 / np.sqrt(e.size)
    assert abs(e).max() < math.sqrt(64 * math.log(2))


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


@memory
@in_turn("shape", [(1, 1), (5, 200), (130, 7), (2, 3, 4), (9,), (0, 3)])
@in_turn("scale", [1, 2.5])
@in_turn("activation", ["none", "relu", "sigmoid", "tanh"])
def test_activate(backend, array, close, activation, scale, shape, layout):
    x, gy, b = array(shape, layout), array(shape, layout), array(shape[-1:], layout)
    for bias in (None, b):
        total = x.astype(float) + (0 if bias is None else bias)
        f = {"none": total, "relu": total * (total > 0), "sigmoid": 1 / (1 + np.exp(-total)),
             "tanh": np.tanh(total)}
        f = f[activation]
        slope = {"none": 1, "relu": total > 0, "sigmoid": f * (1 - f), "tanh": 1 - f * f}[activation]
        for on in (backend, GENERIC):
            y = on.activate(on.asarray(x), None if bias is None else on.asarray(bias), activation, scale)
            close(on.to_host(y), scale * f)
            gx = on.to_host(on.activate_gradient(on.asarray(gy), y, activation, scale))
            assert gx.dtype == gy.dtype
            close(gx, gy * scale * slope)


@memory
@in_turn("shape", [(1, 1), (5, 200), (130, 7), (0, 3)])
@in_turn("scale", [1, 2.5])
@in_turn("activation", ["none", "relu", "sigmoid", "tanh"])
def test_activate_in_place(backend, array, activation, scale, shape, layout):
    x, b = array(shape, layout), array(shape[-1:], layout)
    for on in (backend, GENERIC):
        for bias in (None, on.asarray(b)):
            expected = on.to_host(on.activate(on.asarray(x), bias, activation, scale))
            mine = on.asarray(x.copy())
            assert on.activate(mine, bias, activation, scale, out=mine) is mine
            np.testing.assert_array_equal(on.to_host(mine), expected)


@memory
@in_turn("shape", [(1, 1), (130, 7), (2, 3, 4), (0, 3)])
def test_relu(backend, array, shape, layout):
    x, gy = array(shape, layout), array(shape, layout)
    for on in (backend, GENERIC):
        y = on.relu(on.asarray(x))
        same(on, y, np.where(x > 0, x, 0).astype(x.dtype))
        same(on, on.relu_gradient(on.asarray(gy), y), np.where(x > 0, gy, 0).astype(x.dtype))
        same(on, on.add(on.asarray(x), on.asarray(gy)), x + gy)
        same(on, on.add(on.asarray(x), on.asarray(gy), "relu"), np.maximum(x + gy, 0))


def test_a_nan_stays_one(backend, dtype):
    x = backend.asarray(np.array([np.nan, -1, 2], dtype))
    for activation in ("none", "relu"):
        assert np.isnan(backend.to_host(backend.add(x, x, activation))).tolist() == [True, False, False]
    for activation in ("none", "relu", "sigmoid", "tanh"):
        assert np.isnan(backend.to_host(backend.activate(x, None, activation, 1))).tolist() == [True, False,
                                                                                                False]
        y = x[None] * 1
        assert np.isnan(backend.to_host(backend.activate(y, x * 0, activation, 2,
                                                         out=y))).tolist() == [[True, False, False]]


@memory
@in_turn("rows, classes", [(1, 1), (3, 10), (33, 65), (9, 1023), (5, 1024), (5, 1025),
                           (3, 3001), (0, 4)])
def test_cross_entropy(backend, array, close, rows, classes, layout):
    x = array((rows, classes), layout)
    x *= 10
    x[:1, :1] += 200        # one that outweighs all others
    label = np.random.default_rng(2).integers(0, classes, rows)
    label[1:2] = classes - 1
    e = np.exp(x.astype(float) - x.max(axis=1, keepdims=True, initial=-np.inf))
    p = e / e.sum(axis=1, keepdims=True)
    logarithm = np.log(np.maximum(p[np.arange(rows), label], np.finfo(x.dtype).tiny))
    onehot = np.arange(classes) == label[:, None]
    valid = (np.arange(rows) % 3 > 0)[:, None]
    shifted = x.astype(float) - x.max(axis=1, keepdims=True, initial=-np.inf)
    middle = shifted.mean(axis=1) - np.log(e.sum(axis=1))
    counts = np.arange(classes) % 4 / 2        # what classes weigh, some nothing
    each = shifted - np.log(e.sum(axis=1, keepdims=True))
    for on, smoothing in itertools.product((backend, GENERIC), (0.0, 0.2)):
        for factor in (np.array(0.25), 0.25 * valid):
            probability, weight = on.empty(x.shape, x.dtype), on.asarray(counts, x.dtype)
            got = on.cross_entropy(on.asarray(x), on.asarray(label), probability, smoothing, weight)
            target = (1 - smoothing) * counts[label][:, None] * onehot + smoothing / classes * counts
            close(on.to_host(got), (1 - smoothing) * counts[label] * logarithm
                  + smoothing * (each * counts).mean(axis=1))
            on.cross_entropy_gradient(probability, on.asarray(label), on.asarray(factor.astype(x.dtype)),
                                      smoothing, weight)
            close(on.to_host(probability), (p * target.sum(axis=1, keepdims=True) - target) * factor)
            probability = on.empty(x.shape, x.dtype)
            got = on.cross_entropy(on.asarray(x), on.asarray(label), probability, smoothing)
            close(on.to_host(got), (1 - smoothing) * logarithm + smoothing * middle)
            close(on.to_host(probability), p)
            on.cross_entropy_gradient(probability, on.asarray(label), on.asarray(factor.astype(x.dtype)),
                                      smoothing)
            close(on.to_host(probability),
                  (p - (1 - smoothing) * onehot - smoothing / classes) * factor)


@in_turn("classes", [7, 2000])
@in_turn("bad", [np.nan, np.inf])
def test_cross_entropy_shows_what_is_not_finite(backend, dtype, bad, classes):
    """So that a diverging net is noticed; the next row is not touched, and -inf is a probability of 0."""
    x = np.zeros((3, classes), dtype)
    x[0, 3], x[1, 5] = bad, -np.inf
    for on in (backend, GENERIC):
        p = on.empty(x.shape, x.dtype)
        with np.errstate(invalid="ignore"):
            logarithm = on.to_host(on.cross_entropy(on.asarray(x), on.asarray(np.array([0, 0, 1])), p))
        assert np.isnan(logarithm).tolist() == [True, False, False]
        p = on.to_host(p)
        assert np.isnan(p[0]).all() and p[1, 5] == 0
        np.testing.assert_allclose(p[1:].sum(axis=1), 1, rtol=1e-5)


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


def test_arrays(backend, dtype):
    assert backend.empty((3, 4), dtype).shape == (3, 4)
    zeros = backend.zeros((300, 400), dtype)
    assert zeros.dtype == dtype and not backend.to_host(zeros).any()
    x = backend.asarray([[1, 2], [3, 4]], dtype)
    assert isinstance(x, backend.xp.ndarray) and backend.to_host(x).tolist() == [[1, 2], [3, 4]]
    assert type(backend.to_host(x)) is np.ndarray
    backend.synchronize()
    assert backend.describe().startswith(backend.name)


# Also what a backend is put together from.
OVERRIDES = [kind for one in (NumpyBackend, CupyBackend) for kind in one.__mro__
             if kind not in Backend.__mro__]


@in_turn("kind", OVERRIDES)
def test_signatures_do_not_drift(kind):
    """An override takes the arguments of the method it replaces, and no public method has no generic
    reference."""
    for name, method in vars(kind).items():
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        assert hasattr(Backend, name), f"{kind.__name__}.{name} has no generic reference"
        assert bare(method) == bare(getattr(Backend, name)), name


def bare(method):
    """The signature without its types, which an override may narrow."""
    given = inspect.signature(method)
    return [one.replace(annotation=one.empty) for one in given.parameters.values()]
