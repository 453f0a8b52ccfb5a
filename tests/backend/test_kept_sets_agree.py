"""Gathering, scattering and sums by kept sets and indices equal the generic ones on every backend."""

import math
import tracemalloc

import numpy as np
import pytest
from agreement import GENERIC, KEPT, LAYOUTS, TOTAL, kept_sets, memory, same
from cases import every_pair, in_turn

from minidrop.autograd import Block, Blocks, Parameter
from minidrop.backend import Backend, NumpyBackend
from minidrop.kept import Kept, KeptByGroup
from minidrop.kernels import threads
from minidrop.patterns.tile import TilePattern


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
@in_turn("activation", ["none", "relu"])
def test_add_kept(backend, array, kept, shape, axis, activation):
    """x is added where the kept entries lie; every other entry stays as it was; no argument is written to."""
    for own in [kept] if axis == 0 or kept is None else [kept, KeptByGroup([kept, KEPT["runs"]])]:
        before, part = array(shape), backend.compact(backend.asarray(array(shape)), own, axis)
        whole = backend.asarray(before.copy())
        total = before + backend.to_host(backend.expand(part, own, axis))
        same(backend, backend.add_kept(whole, part, own, axis, activation),
             np.maximum(total, 0) if activation == "relu" else total)
        same(backend, whole, before)


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
def test_chunks_have_every_row_once(backend, rows, columns):
    for on in (backend, GENERIC):
        calls, pairs = [], []
        on.in_chunks(lambda *part, calls=calls: calls.append(part), rows, columns, 4)
        on.in_pairs(lambda *part, pairs=pairs: pairs.append(part), rows, columns, 4)
        for parts in (calls, pairs):
            assert sorted(i for first, last in parts for i in range(first, last)) == list(range(rows))


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
