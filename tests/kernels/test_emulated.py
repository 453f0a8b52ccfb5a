"""The emulation itself: it sees broken kernels, and numbers that stand in device memory are read when a
kernel runs.

What the kernels compute is compared in tests/backend/test_*_agree.py, whose backends include the
emulated one.
"""

import numpy as np
import pytest
from cases import in_turn

from minidrop.autograd import Block
from minidrop.backend import Backend, get_backend
from minidrop.backend.device_sets import MovingKept
from minidrop.backend.window import Window
from minidrop.kept import Kept
from minidrop.kernels import cuda
from minidrop.solver.rules import adam, rmsprop

GENERIC = Backend()
ROWS, COLUMNS = Kept(2, 7, 4, 70), Kept(-3, 10, 5, 300)


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(4).standard_normal(shape).astype(dtype)


def gather(on):
    return on.submatrix(numbers(70, 300), ROWS, COLUMNS)


def scatter(on):
    return on.put(numbers(COLUMNS.count, 5), COLUMNS, 0)


def update(on):
    W, history = numbers(70, 300), numbers(70, 300)[::-1].copy()
    on.sgd_update(W, history, [Block(numbers(ROWS.count, COLUMNS.count), ROWS, COLUMNS)], 0.1, 0.9, 0.01,
                  True, 0.5)
    return np.stack([W, history])


def rule(on):
    """Adam's, whose gradient has the weight decay in it, in blocks that share no row."""
    W, history = numbers(70, 300), [numbers(70, 300)[::-1].copy(), np.abs(numbers(70, 300))]
    blocks = [Block(numbers(ROWS.count, COLUMNS.count), ROWS, COLUMNS)]
    on.rule_update(W, history, blocks, adam.Adam, (0.1, 0.9, 0.1, 0.95, 0.05, 1e-2), 0.01, True, 0.5)
    return [W, *history]


def sums(on):
    return on.column_sums(numbers(100, 70))


def transpose(on):
    return on.transposed(numbers(40, 70))


def drop(on):
    return on.dropout(numbers(41, 5), 0.4, 2.0, 2**40 + 3)[0]


def cross_entropy(on):
    p = on.empty((3, 2000), np.float32)
    return on.cross_entropy(numbers(3, 2000), np.array([0, 1999, 7]), p), p


def table(on):
    ids = np.array([i * i % 23 for i in range(100)] + [7] * 3)
    block = Block(*on.table_gradient(numbers(103, 70), ids, 30))
    return [block.dense(on, (30, 70)), on.squares(block.data), *descent(on)]


def descent(on):
    W, ids = numbers(30, 70), np.array([3, 3, 29, 3, 0])
    on.sgd_update(W, np.zeros_like(W), [Block(*on.table_gradient(numbers(5, 70), ids, 30))], 0.1, 0.0, 0.0,
                  False, 0.5)
    more = numbers(30, 70)
    Block(*on.table_gradient(numbers(5, 70), ids, 30)).add_to(on, more, 2)
    return W, more


def squares(on):
    return np.array([on.squares(numbers(9, 700), numbers(3)), on.squares(numbers(1))])


WINDOW = Window((3, 2), (4, 2), (1, 2), (2, 3))        # holes and strides, with and without a common factor


def lower(on):
    return [on.columns(numbers(3, 4, 11, 13)[:, 1:3], WINDOW), outputs(on)]


def outputs(on):
    y = numbers(3, 6, 4, 5)
    on.put_outputs(numbers(4, 60), y[:, 1:5], numbers(4), True, 2.0)
    return y


def raise_again(on):
    gx = numbers(3, 4, 11, 13)
    places = WINDOW.places(gx.shape[2:])
    on.add_columns(numbers(12, 3 * places[0] * places[1]), WINDOW, gx[:, 1:3])
    return gx


def filters(on):
    x, W, places = numbers(13, 3, 11, 13), numbers(6, 1, 3, 2), WINDOW.places((11, 13))
    y, gx, gy = numbers(13, 6, *places), numbers(*x.shape), numbers(13, 6, *places)
    on.convolve_each(x, W, WINDOW, y)
    on.convolve_each_image_gradient(W, gy, WINDOW, gx)
    return y, gx, on.convolve_each_weight_gradient(x, gy, WINDOW)


def pools(on):
    x, window = np.floor(2 * numbers(2, 3, 8, 9)), Window((3, 2), (2, 1), (1, 1), (1, 1))
    x[0, 0, 2:5, 3:6] = np.nan
    x[1, 0] = -np.inf
    y, index = on.max_pool(x, window, (5, 10))
    gy = numbers(*y.shape)
    return (np.nan_to_num(y), index, on.max_pool_gradient(gy, index, window, x.shape),
            on.mean_pool(numbers(*x.shape), window, (5, 10)), on.mean_pool_gradient(gy, window, x.shape))


def agree(work, on):
    """True where two runs, in which threads take turns in either order, give what the generic backend
    gives."""
    expected = work(GENERIC)
    for _ in range(2):
        got = work(on)
        for a, b in zip(got, expected, strict=True):
            if not np.allclose(a, b, rtol=1e-4, atol=1e-5):
                return False
    return True


WORK = (gather, scatter, update, rule, sums, squares, table, transpose, drop, cross_entropy, lower,
        raise_again, filters, pools)


@in_turn("work", WORK)
def test_the_kernels_agree(emulated, work):
    assert agree(work, emulated)


@pytest.mark.parametrize("work, file, line, instead", [
    (gather, "common.cuh", "static_cast<int>(j) + kept.skip", "static_cast<int>(j)"),
    (gather, "common.cuh", "column < (m) ? name[k]", "column + 1 < (m) ? name[k]"),
    (gather, "common.cuh", "column < (m) ? column : (m) - 1", "0"),
    (scatter, "common.cuh", "inside < width", "inside + 1 < width"),
    (update, "update.cu", "W[32 * k] = w[k] - change", "W[32 * k] = w[k] - (change - step.decay * r)"),
    (update, "update.cu", "if (row >= 0)", "if (row > 0)"),
    (rule, "rule.cu", "if (row >= 0)", "if (row > 0)"),
    (rule, "rule.cu", "g = g * numbers.grad_scale;", ""),
    (rule, "rule.cu", "numbers.l1 ?", "!numbers.l1 ?"),
    (sums, "sums.cu", "        __syncthreads();\n    }", "    }"),
    (sums, "sums.cu", "half; half /= 2", "half > 1; half /= 2"),
    (squares, "sums.cu", "half = SUMMANDS / 2; half; half /= 2", "half = SUMMANDS / 2; half > 1; half /= 2"),
    (squares, "sums.cu", "    part[threadIdx.x] = mine;\n    __syncthreads();", "    part[threadIdx.x] = "
     "mine;"),
    (squares, "sums.cu", "out[blockIdx.x] = sum", "out[0] = sum"),
    (table, "table.cu", "j = threadIdx.x; j < i", "j = threadIdx.x + 1; j < i"),
    (table, "table.cu", "step = 16; step; step", "step = 16; step > 1; step"),
    (table, "table.cu", "other < mine ? other : mine", "mine"),
    (table, "table.cu", "leads && first + 32 * k < m ?", "first + 32 * k < m ?"),
    (table, "table.cu", "at = leads ? next[i] : -1; at >= 0", "at = leads ? next[i] : -1; at > 50"),
    (table, "take.cu", "places && places[row] != i", "places && places[row] == i"),
    (table, "update.cu", "places && places[row] != i", "places && places[row] == i"),
    (table, "update.cu", "const REAL rate = REAL(lr) * REAL(grad_scale)", "const REAL rate = REAL(lr)"),
    (transpose, "transpose.cu", "        __syncthreads();\n        for", "        for"),
    (drop, "dropout.cu", "high0 ^ c3 ^ k1", "high0 ^ c3 ^ k0"),
    (drop, "dropout.cu", "if (4 * block + k < n)", "if (4 * block + k + 1 < n)"),
    (cross_entropy, "softmax.cu", "step = 16; step", "step = 16; step > 1"),
    (cross_entropy, "softmax.cu", "    __syncthreads();\n    mine", "    mine"),
    (lower, "columns.cu", "lies_in(h, top[k] + down)", "lies_in(h, top[k])"),
    (lower, "columns.cu", "at.image * x_stride", "at.image * channels * image"),
    (lower, "activation.cu", "image * y_stride", "image * outputs * places"),
    (lower, "activation.cu", "    FOR_ROWS(o, outputs) {\n        const REAL bias = b ? b[o * b_stride]",
     "    FOR_ROWS(o, outputs) {\n        const REAL bias = b ? b[0]"),
    (raise_again, "window.cuh", "entry < side.size && distance > 0", "entry < 1 && distance > 0"),
    (raise_again, "window.cuh", "distance < 0 ? -1 : ", ""),
    (raise_again, "window.cuh", "{side.stride / divisor, side.dilation / divisor}",
     "{side.stride, side.dilation}"),
    (raise_again, "window.cuh", "beyond > 0 ? (beyond + side.dilation - 1) / side.dilation : 0", "0"),
    (raise_again, "window.cuh", "j < end_##j && ", "j < end_##j - 32 && "),
    (filters, "depthwise.cu", "(o) / factor", "(o)"),
    (filters, "depthwise.cu", "o < factor; ++o", "o < 1; ++o"),
    (filters, "depthwise.cu", "half = SUMMANDS / 2; half; half /= 2", "half = SUMMANDS / 4; half; half /= 2"),
    (filters, "depthwise.cu", "    part[threadIdx.x] = sum;\n    __syncthreads();", "    part[threadIdx.x] = "
     "sum;"),
    (pools, "pooling.cu", "value > largest ||", "value >= largest ||"),
    (pools, "pooling.cu", " || (value != value && largest == largest)", ""),
    (pools, "pooling.cu", "value != value && largest == largest", "value != value"),
    (pools, "pooling.cu", "place < 0 || ", ""),
    (pools, "pooling.cu", "index[j] == own", "index[j] >= own"),
    (pools, "pooling.cu", "side.length + 2 * side.pad", "side.length + side.pad"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_kernel_is_seen(emulation, work, file, line, instead):
    """One change to a kernel, and the comparison fails."""
    def change(name, text):
        if file not in (name, "common.cuh", "window.cuh") or file == "window.cuh" and line not in text:
            return text
        assert line in text, f"{file} has changed: this test must too"
        return text.replace(line, instead)

    assert not agree(work, emulation.EmulatedBackend(change))


def test_a_barrier_that_some_threads_never_reach_is_an_error(emulation):
    line = "    __syncthreads();\n    for (int half"
    broken = emulation.EmulatedBackend(lambda name, text: text.replace(line, "    if (threadIdx.y)" + line))
    with pytest.raises(RuntimeError, match="^column_sums: some threads wait at a barrier that others never "
                       "reach$"):
        sums(broken)


def moving(kept, start):
    """Return a kept set of which only the kernels know the start, and the same set as everybody knows it."""
    moved = Kept(start, *kept.regular[1:], kept.total)
    assert moved.count == kept.count
    return MovingKept(kept, np.array([start], np.int32)), moved


def test_a_start_in_device_memory(emulated):
    (rows, new_rows), (cols, new_cols) = moving(Kept(2, 7, 4, 70), 1), moving(Kept(-3, 10, 5, 300), 4)
    W, history, g, x = numbers(70, 300), numbers(70, 300), numbers(rows.count, cols.count), numbers(2, 70, 3)
    np.testing.assert_array_equal(emulated.submatrix(W, rows, cols),
                                  W[np.ix_(new_rows.indices, new_cols.indices)])
    np.testing.assert_array_equal(emulated.take(x, rows, 1), x[:, new_rows.indices])
    np.testing.assert_array_equal(emulated.put(g, rows, 0), GENERIC.put(g, new_rows, 0))
    every_third, moved = moving(Kept(0, 3, 1, 300), 2)
    np.testing.assert_array_equal(emulated.take(W.T, every_third, 0), W.T[moved.indices])
    results = []
    for on, block in ((emulated, Block(g, rows, cols)), (GENERIC, Block(g, new_rows, new_cols))):
        results.append((W.copy(), history.copy()))
        on.sgd_update(*results[-1], [block], 0.1, 0.9, 0.01, False, 0.5)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_rate_and_a_key_in_device_memory(emulated, momentum):
    rate, scale, key, x = np.array([0.3]), np.array([0.7]), np.array([77], np.uint64), numbers(9, 9)
    results = []
    for lr, grad_scale in ((rate, scale), (0.3, 0.7)):
        results.append((numbers(9, 9), numbers(9, 9)))
        emulated.sgd_update(*results[-1], [Block(x)], lr, momentum, 0.01 * momentum, False, grad_scale)
    np.testing.assert_array_equal(*results)
    y, mask = emulated.dropout(x, 0.5, 2.0, key)
    np.testing.assert_array_equal(y, GENERIC.dropout(x, 0.5, 2.0, 77)[0])
    np.testing.assert_array_equal(emulated.dropout_gradient(x, mask, 2.0), y)
    np.testing.assert_array_equal(emulated.gaussian((9,), np.dtype("float32"), key),
                                  emulated.gaussian((9,), np.dtype("float32"), 77))


@pytest.mark.parametrize("decay, momentum", [(0.0, 0.0), (0.0, 0.9), (0.01, 0.9), (0.01, "RMSProp")])
@pytest.mark.parametrize("parts", ["one", "several", "overlapping", "a table", "a bias"])
def test_trouble_leaves_everything_as_it_is(emulated, monkeypatch, decay, momentum, parts):
    """Of every kernel that changes weights or histories; without trouble the flag changes nothing."""
    shape = (70,) if parts == "a bias" else (70, 300)
    blocks = {"one": [Block(numbers(ROWS.count, COLUMNS.count), ROWS, COLUMNS)],
              "several": [Block(numbers(35, 300), Kept(start, 2, 1, 70)) for start in (0, 1)],
              "overlapping": [Block(numbers(*shape)), Block(numbers(ROWS.count, 300), ROWS)],
              "a table": [Block(*emulated.table_gradient(numbers(5, 300), np.array([3, 3, 69, 3, 0]), 70))],
              "a bias": [Block(numbers(ROWS.count), ROWS)]}[parts]
    results = []
    for trouble in (None, 0, 1, -5):
        monkeypatch.setattr(emulated, "trouble", None if trouble is None else np.array([trouble], np.int32),
                            raising=False)
        results.append((numbers(*shape), np.abs(numbers(*shape)) + 1))
        W, history = results[-1]
        if momentum == "RMSProp":
            emulated.rule_update(W, [history], blocks, rmsprop.RMSProp, (0.1, 0.9, 0.1, 9.0), decay, False,
                                 0.5)
        else:
            emulated.sgd_update(W, history, blocks, 0.1, momentum, decay, False, 0.5)
    before = numbers(*shape), np.abs(numbers(*shape)) + 1
    for i in range(2):
        np.testing.assert_array_equal(results[0][i], results[1][i])
        for changed in results[2:]:
            np.testing.assert_array_equal(changed[i], before[i])
    assert (results[0][0] != before[0]).any()


def test_a_gradient_in_one_piece_is_one_launch(emulated):
    """No dense gradient is written: the update is all that runs."""
    W, launches = numbers(70, 300), emulated.kernels.launches
    launches.clear()
    block = Block(numbers(ROWS.count, COLUMNS.count), ROWS, COLUMNS)
    emulated.sgd_update(W, np.zeros_like(W), [block], 0.1, 0.9, 0.0, False, 1)
    assert launches == ["sgd_update"]
    launches.clear()
    halves = [Block(numbers(35, 300), Kept(start, 2, 1, 70)) for start in (0, 1)]
    emulated.sgd_update(W, np.zeros_like(W), halves, 0.1, 0.9, 0.0, False, 1)
    assert launches == ["sgd_update_rows"] * 2


def test_a_grid_of_fewer_threads_than_elements(emulated, monkeypatch):
    """Large arrays: every thread takes several rows, elements or counters."""
    monkeypatch.setattr("minidrop.kernels.grids.BLOCKS", 2)
    monkeypatch.setattr("minidrop.kernels.grids._LARGEST_Y", 2)
    W = numbers(150, 300)
    for work in (lambda on: on.relu(W), lambda on: on.relu_gradient(W, W[::-1].copy()),
                 lambda on: on.dropout(W, 0.3, 2.0, 5)[0],
                 lambda on: on.submatrix(W, Kept(1, 3, 2, 150), COLUMNS), lambda on: on.transposed(W)):
        np.testing.assert_array_equal(work(emulated), work(GENERIC))
    assert cuda.transpose.grid({"n": 150, "m": 300}, {}) == ((10, 2), (32, 8))


def test_entries_beyond_2_to_the_31(emulated):
    """The array is never filled: the system gives it memory where it is written."""
    try:
        W = np.zeros((2**15 + 1, 2**16), np.float32)
    except MemoryError:
        pytest.skip("the system promises no 8 GiB of memory")
    last, cols = Kept.of([0, 2**15], 2**15 + 1), Kept(5, 2**15, 2, 2**16)
    W[2**15, 5:7] = 3, 4
    np.testing.assert_array_equal(emulated.submatrix(W, last, cols), [[0, 0, 0, 0], [3, 4, 0, 0]])
    emulated.add_block(W, last, cols, np.ones((2, 4), np.float32))
    emulated.put_columns(W[-2:], cols, np.full((2, 4), 2, np.float32))
    assert W[2**15, 5:8].tolist() == [2, 2, 0] and W[0, 5:8].tolist() == [1, 1, 0]


def test_l1_decay_of_a_weight_that_is_nan(emulated):
    """Its sign is NaN on every device, as NumPy's: the history shows it, too."""
    for update in ("sgd", "rule"):
        found = []
        for on in (GENERIC, get_backend("cpu"), emulated):
            W, history, blocks = numbers(5, 70), numbers(5, 70) ** 2, [Block(numbers(5, 70))]
            W[1, 2] = np.nan
            if update == "sgd":
                on.sgd_update(W, history, blocks, 0.1, 0.9, 0.01, True, 0.5)
            else:
                on.rule_update(W, [history], blocks, rmsprop.RMSProp, (0.1, 0.9, 0.1, 9.0), 0.01, True, 0.5)
            assert np.argwhere(np.isnan(history)).tolist() == [[1, 2]] and np.isnan(W[1, 2])
            found.append((W, history))
        for other in found[1:]:
            np.testing.assert_allclose(other, found[0], rtol=1e-4, atol=1e-5)
