"""Every kernel against the generic reference: on the GPU where there is one, and always on the host.

Small on purpose: scripts/sanitize.py runs this file's GPU cases under compute-sanitizer, which is slow. What
methods do with the kernels in all their forms is compared in tests/backend/test_*_agree.py.
"""

import numpy as np
import pytest

from minidrop.autograd import Block
from minidrop.backend import Backend
from minidrop.backend.device_sets import MovingKept
from minidrop.backend.window import Window
from minidrop.kept import Kept
from minidrop.kernels.cuda import KERNELS
from minidrop.patterns.grid import BlockGrid
from minidrop.solver.rules import adagrad, adamw

GENERIC = Backend()
# Odd on purpose: no size is a multiple of a block, a tile or a warp; and one entry alone.
SHAPES = [(1, 1), (70, 301), (33, 65), (3, 1030)]
NO_CHANGE = {"float32": 2e-5, "float64": 1e-11}


class Arrays:
    """Random arrays of one dtype on a backend, the same ones for the same shapes and names."""

    def __init__(self, on, dtype):
        self.on, self.dtype = on, np.dtype(dtype)

    def __call__(self, *shape, seed=0):
        return self.on.asarray(np.random.default_rng([seed,
                                                      *shape]).standard_normal(shape).astype(self.dtype))

    def one(self, value, kind):
        """A number in device memory."""
        return self.on.asarray(np.array([value], kind))

    def integers(self, below, count, seed=0):
        return self.on.asarray(np.random.default_rng([seed, below, count]).integers(0, below, count))


def sets(n):
    """A kept set in runs, cut off at its begin; a list; and one of several starts, as the device knows it."""
    return Kept(-1, 3, 2, n), Kept.of(np.arange(0, n, 4), n)


def moving(make, kept):
    """The same set, of which a kernel reads the start where it runs; the generic backend is given what
    everybody knows."""
    moved = MovingKept(kept, make.one(kept.regular[0], np.int32))
    return kept if make.on is GENERIC or kept.count < moved.count else moved        # see with_room


def with_room(make, n):
    """A set that has an entry less than there is room for, as the kernels know it and as everybody does."""
    step = max(2, 2 * n // 3)
    starts = {Kept(start, step, 1, n).count: start for start in range(step)}
    kept = Kept(starts[min(starts)], step, 1, n)
    return kept if make.on is GENERIC else MovingKept(kept, make.one(kept.regular[0], np.int32))


def filled(make, x, rows, cols):
    """Return x with zeros for what there is room for."""
    out = make.on.zeros((rows, cols), x.dtype)
    out[:x.shape[0], :x.shape[1]] = x
    return out


def take_block(make, n, m):
    rows, cols = sets(n), sets(m)
    W = make(n, m)
    yield from (make.on.submatrix(W, a, b) for a in rows for b in cols)
    yield make.on.submatrix(W, moving(make, rows[0]), moving(make, cols[0]))
    yield make.on.lookup(W, make.integers(n, 7), cols[0])
    yield make.on.take(make(2, m, n), moving(make, cols[0]), 1)
    rows, cols = with_room(make, n), with_room(make, m)
    yield filled(make, make.on.submatrix(W, rows, cols), 2, 2)


def round_block(make, n, m):
    make = Arrays(make.on, np.float32)          # from which alone numbers are rounded
    for kind in ("float16", "bfloat16"):
        for rows, cols in zip((moving(make, sets(n)[0]), sets(n)[1]), sets(m), strict=True):
            out = make.on.asarray(np.zeros((rows.count, cols.count + 3), np.uint16))
            make.on.round_block(make(n, m), rows, cols, 1.5, kind, out[:, 1:-2])
            yield out


def repeat_kept(make, n, m):
    for kept in (moving(make, sets(m)[0]), with_room(make, m)):
        joined = Kept.joined([kept] * 3)
        yield make.on.put(make.on.take(make(n, 3 * m), joined, 1), joined, 1)


def put_block(make, n, m):
    for kept in sets(m):
        out = make(n + 2, m)
        make.on.put_columns(out[1:n + 1], kept, make(n, kept.count, seed=1))
        yield out
    out, kept = make(n, m), with_room(make, m)
    make.on.put_columns(out, kept, make(n, 2, seed=1)[:, :kept.count])
    yield out


def add_block(make, n, m):
    for rows, cols in zip(sets(n), sets(m), strict=True):
        out = make(n, m)
        make.on.add_block(out, rows, cols, make(rows.count, cols.count, seed=1))
        yield out
    out, rows, cols = make(n, m), with_room(make, n), with_room(make, m)
    make.on.add_block(out, rows, cols, make(2, 2, seed=1)[:rows.count, :cols.count])
    yield out


def expand(make, n, m):
    for kept in sets(m):
        yield make.on.put(make(n, kept.count), kept, 1)
    yield make.on.put(make(2, sets(m)[0].count, n), moving(make, sets(m)[0]), 1)


def sgd_update(make, n, m):
    for rows, cols in (*zip(sets(n), sets(m), strict=True), (None, None)):
        W, history = make(n, m), make(n, m, seed=1)
        shape = n if rows is None else rows.count, m if cols is None else cols.count
        lr = 0.25 if make.on is GENERIC else make.one(0.25, np.float64)
        make.on.sgd_update(W, history, [Block(make(*shape, seed=2), rows, cols)], lr, 0.9, 0.01, False, 0.5)
        yield from (W, history)


def sgd_update_rows(make, n, m):
    rows = Kept(0, 2, 1, n), Kept(1, 2, 1, n)
    cols = sets(m)
    W, history = make(n, m), make(n, m, seed=1)
    blocks = [Block(make(a.count, b.count, seed=2), a, b) for a, b in zip(rows, cols, strict=True)]
    make.on.sgd_update(W, history, blocks, 0.1, 0.9, 0.01, True, 0.5)
    yield from (W, history)


def rule_update(make, n, m):
    """With numbers of the iteration in device memory, and with none of them there."""
    for rows, cols in (*zip(sets(n), sets(m), strict=True), (None, None)):
        W, history = make(n, m), [make(n, m, seed=1), make.on.xp.abs(make(n, m, seed=2))]
        shape = n if rows is None else rows.count, m if cols is None else cols.count
        numbers = (0.875, 0.25, 0.9, 0.1, 0.95, 0.05, 1e-3)
        if make.on is not GENERIC and rows is None:
            numbers = tuple(make.one(number, np.float64) for number in numbers)
        make.on.rule_update(W, history, [Block(make(*shape, seed=3), rows, cols)], adamw.AdamW, numbers, 0.0,
                            False, 0.5)
        yield from (W, *history)


def rule_update_rows(make, n, m):
    """A rule with one history array; nothing at all where something was wrong."""
    rows, cols = (Kept(0, 3, 1, n), Kept(1, 3, 1, n)), sets(m)
    for wrong in (0, 1):
        W, history = make(n, m), make.on.xp.abs(make(n, m, seed=1))
        blocks = [Block(make(a.count, b.count, seed=2), a, b) for a, b in zip(rows, cols, strict=True)]
        before = make.on.trouble
        make.on.trouble = None if make.on is GENERIC else make.one(wrong, np.int32)
        try:
            if not (wrong and make.on is GENERIC):
                make.on.rule_update(W, [history], blocks, adagrad.AdaGrad, (0.1, 1e-3), 0.01, True, 0.5)
        finally:
            make.on.trouble = before
        yield from (W, history)


def subtract_block(make, n, m):
    """Without momentum and decay; and nothing at all where something was wrong."""
    for wrong in (0, 1):
        for rows, cols in zip(sets(n), sets(m), strict=True):
            W = make(n, m)
            before = make.on.trouble
            make.on.trouble = None if make.on is GENERIC else make.one(wrong, np.int32)
            try:
                if not (wrong and make.on is GENERIC):
                    make.on.sgd_update(W, make(n, m),
                                       [Block(make(rows.count, cols.count, seed=1), rows, cols)], 0.1, 0.0,
                                       0.0, False, 0.5)
            finally:
                make.on.trouble = before
            yield W


def activate(make, n, m):
    for name in ("none", "relu", "sigmoid", "tanh"):
        yield make.on.activate(make(n, m), make(m, seed=1), name, 2.0)
        yield make.on.activate(make(n, m), None, name, 1)


def activate_gradient(make, n, m):
    for name in ("none", "relu", "sigmoid", "tanh"):
        yield make.on.activate_gradient(make(n, m), make.on.activate(make(n, m, seed=1), None, name, 2.0),
                                        name, 2.0)


def dropout(make, n, m):
    for key in (2**40 + 3, 77 if make.on is GENERIC else make.one(77, np.uint64)):
        y, mask = make.on.dropout(make(n, m), 0.4, 2.0, key)
        yield from (y, make.on.dropout_gradient(make(n, m, seed=1), mask, 2.0))


def dropout_tile(make, n, m):
    for key in (2**40 + 3, 77):
        given = key if make.on is GENERIC else make.one(key, np.uint64)
        yield make.on.dropout_tile((3, n, m), 2**33 + 5, (7 * n * m + 1, 2 * m), 0.4, given)


def gaussian(make, n, m):
    yield make.on.gaussian((n, m), make.dtype, 2**40 + 3)


def cross_entropy(make, n, m):
    p = make.on.empty((n, m), make.dtype)
    yield from (make.on.cross_entropy(make(n, m), make.integers(m, n), p), p)


def cross_entropy_gradient(make, n, m):
    for factor in (np.array(0.25), np.full((n, 1), 0.5)):
        p = abs(make(n, m))
        make.on.cross_entropy_gradient(p, make.integers(m, n), make.on.asarray(factor.astype(make.dtype)))
        yield p


def lstm_step(make, n, m):
    yield from _lstm(make, n, m)[:4]


def lstm_step_gradient(make, n, m):
    yield from _lstm(make, n, m)[4:]


def _lstm(make, n, m):
    activated, c, squashed, h = (make.on.empty((n, width), make.dtype) for width in (4 * m, m, m, m))
    cont = make.on.asarray((np.arange(n) % 3 > 0).astype(make.dtype)[:, None])
    make.on.lstm_step(make(n, 4 * m), make(n, 4 * m, seed=1), make(n, m, seed=2), cont, activated, c,
                      squashed, h)
    dc, d = make(n, m, seed=4), make.on.empty((n, 4 * m), make.dtype)
    make.on.lstm_step_gradient(activated, squashed, make(n, m, seed=2), cont, make(n, m, seed=3), dc, d)
    return activated, c, squashed, h, dc, d


def column_sums(make, n, m):
    yield make.on.column_sums(make(n, m))


def sum_groups(make, n, m):
    starts = np.unique(np.array([0, n // 3, n // 2]))
    yield make.on.sum_groups(make(n, m), np.random.default_rng(1).permutation(n), starts)


def link_places(make, n, m):
    ids = make.integers(n + 2, n)
    g, rows = make.on.table_gradient(make(n, m), ids, n + 2)
    out = make(n + 2, m, seed=1)
    make.on.add_block(out, rows, None, g)
    yield out


def sum_of_squares(make, n, m):
    yield make.on.squares(make(n, m), make(m, seed=1)).reshape(1)


def multiply_groups(make, n, m):
    ends = sorted({max(1, n // 3), n})
    yield make.on.multiply_groups(make(n, m, 3), ends, make(len(ends), m, seed=1))


def multiply_blocks(make, n, m):
    yield make.on.multiply_blocks(make(n, m, 3), blocks(n, m, 7, 9), 1.7)


def block_product(make, n, m):
    """Forward and both gradients, blocks of x and of y dropped: in the type of `make`, for which the
    reference is exact."""
    x, W, gy, b = make(n, m), make(65, m, seed=1), make(n, 65, seed=2), make(65, seed=3)
    for size in ((64, 32), (7, 9)):
        ins, outs = blocks(n, m, *size), blocks(n, 65, *size)
        yield make.on.block_product(x, W, False, True, ins, outs, 1.5, b)
        yield make.on.block_product(gy, W, False, False, outs, ins, 1.5)
        yield make.on.block_product(gy, x, True, False, outs, ins, 1.5)


def blocks(n, m, samples, units):
    lives = np.random.default_rng([n, m]).integers(0, 2, (-(-n // samples), -(-m // units)))
    return BlockGrid(lives.astype(np.uint8), samples, units)


def transpose(make, n, m):
    yield make.on.transposed(make(n, m))


# Holes, places that skip entries, entries that no place reads, and a pad.
WINDOW = Window((2, 3), (2, 1), (1, 2), (1, 2))
POOL = Window((3, 2), (2, 2), (1, 0), (1, 1))


def images(make, n, m, count=5, seed=0):
    """Images (2, count, ., .) whose channels 1 .. count - 2 are asked for, in place."""
    return make(2, count, 1 + n % 40, 1 + m % 50, seed=seed)[:, 1:-1]


def outputs(make, x, count, window=WINDOW, seed=1):
    """Numbers for the places of a window on x, and room for one channel more before and behind."""
    return make(len(x), count + 2, *window.places(x.shape[2:]), seed=seed)[:, 1:-1]


def columns(make, n, m):
    yield make.on.columns(images(make, n, m), WINDOW)
    line = Window((3,), (2,), (1,), (2,)) if m > 1 else Window.of((1,))
    yield make.on.columns(make(2, 3, 1 + m % 50), line)


def add_columns(make, n, m):
    out = make(2, 5, 1 + n % 40, 1 + m % 50)
    places = WINDOW.places(out.shape[2:])
    make.on.add_columns(make(3 * 6, 2 * places[0] * places[1], seed=1), WINDOW, out[:, 1:-1])
    yield out
    line = make(2, 3, 1 + m % 50)
    make.on.add_columns(make(3, 2 * line.shape[2], seed=1), Window.of((1,)), line)
    yield line


def put_outputs(make, n, m):
    for relu, scale, b in ((False, 1.0, None), (True, 2.0, make(n, seed=1))):
        out = make(3, n + 2, m, 2, seed=2)
        make.on.put_outputs(make(n, 3 * m * 2), out[:, 1:-1], b, relu, scale)
        yield out


def convolve_each(make, n, m):
    x = images(make, n, m)
    for factor in (1, 2):
        out = make(2, 3 * factor, *WINDOW.places(x.shape[2:]))
        make.on.convolve_each(x, make(3 * factor, 1, 2, 3, seed=1), WINDOW, out)
        yield out


def convolve_each_image_gradient(make, n, m):
    for factor in (1, 2):
        gx = make(2, 5, 1 + n % 40, 1 + m % 50)
        own = gx[:, 1:-1]
        make.on.convolve_each_image_gradient(make(3 * factor, 1, 2, 3, seed=1),
                                             outputs(make, own, 3 * factor), WINDOW, own)
        yield gx


def convolve_each_weight_gradient(make, n, m):
    x = images(make, n, m)
    for factor in (1, 2):
        yield make.on.convolve_each_weight_gradient(x, outputs(make, x, 3 * factor), WINDOW) / 16


def pooled(make, n, m):
    """Images, and as many places as fit, the last ones past the end."""
    x = make(2, 3, 2 + n % 40, 2 + m % 50)
    places = tuple(-(-(n + 2 * p - k) // s) + 1 for n, p, k, s in zip(x.shape[2:], POOL.pad, POOL.size,
                                                                      POOL.stride, strict=True))
    return x, places


def max_pool(make, n, m):
    x, places = pooled(make, n, m)
    yield from make.on.max_pool(x, POOL, places)
    yield from make.on.max_pool(make.on.xp.floor(x), POOL, places)      # of equal ones the first


def max_pool_gradient(make, n, m):
    x, places = pooled(make, n, m)
    _, index = make.on.max_pool(x, POOL, places)
    yield make.on.max_pool_gradient(make(2, 3, *places, seed=1), index, POOL, x.shape)


def mean_pool(make, n, m):
    x, places = pooled(make, n, m)
    yield make.on.mean_pool(x, POOL, places)


def mean_pool_gradient(make, n, m):
    x, places = pooled(make, n, m)
    yield make.on.mean_pool_gradient(make(2, 3, *places, seed=1), POOL, x.shape)


WORK = {"sum_places": link_places, "add_up": sum_of_squares} | {work.__name__: work for work in (
    take_block, round_block, repeat_kept, put_block, add_block, expand, sgd_update, sgd_update_rows,
    rule_update, rule_update_rows, subtract_block, activate, activate_gradient, dropout, dropout_tile,
    gaussian, cross_entropy, cross_entropy_gradient, lstm_step, lstm_step_gradient, column_sums, sum_groups,
    link_places,
    sum_of_squares, multiply_groups, multiply_blocks, block_product, transpose, columns, add_columns,
    put_outputs, convolve_each, convolve_each_image_gradient, convolve_each_weight_gradient, max_pool,
    max_pool_gradient, mean_pool, mean_pool_gradient)}


def test_every_kernel_has_a_case():
    assert WORK.keys() == KERNELS.keys()


@pytest.fixture(params=["emulated", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def on(request):
    """A backend with kernels."""
    if request.param == "emulated":
        return request.getfixturevalue("emulated")
    return request.getfixturevalue("backend_of_name")(request.param)


@pytest.mark.parametrize("n, m", SHAPES)
@pytest.mark.parametrize("name", WORK)
def test_a_kernel_does_what_its_reference_does(on, dtype, monkeypatch, name, n, m):
    launched, launch = [], on.kernels.launch

    def recording(kernel, *more):
        launched.append(kernel.name)
        launch(kernel, *more)
    monkeypatch.setattr(on.kernels, "launch", recording)
    expected = list(WORK[name](Arrays(GENERIC, dtype), n, m))
    for _ in range(2):      # the emulation lets threads take turns in the other order
        with on.active():
            got = [on.to_host(x) for x in WORK[name](Arrays(on, dtype), n, m)]
        for number, (a, b) in enumerate(zip(got, expected, strict=True)):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=NO_CHANGE[dtype], atol=NO_CHANGE[dtype],
                                       err_msg=f"result {number}")
    assert name in launched or (n, m) == (1, 1)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_numbers_are_rounded_to_16_bits(on, kind):
    """To even where halfway, small numbers, numbers too large, infinities; NaN stays some NaN."""
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.standard_normal(10_000) * 10.0 ** rng.integers(-9, 38, 10_000),
                              [np.inf, -np.inf, np.nan, 0, -0.0, 65504, 65519.9, 65520, -65520],
                              [2.0**-24, 2.0**-25, 3 * 2.0**-25],
                              1 + np.arange(512) * 2.0**-9,
                              1 + np.arange(512) * 2.0**-12]).astype(np.float32)[None]
    out, expected = on.asarray(np.zeros(numbers.shape, np.uint16)), np.zeros(numbers.shape, np.uint16)
    on.round_block(on.asarray(numbers), None, None, 1, kind, out)
    with np.errstate(over="ignore"):
        GENERIC.round_block(numbers, None, None, 1, kind, expected)
    there = ~np.isnan(numbers)
    np.testing.assert_array_equal(on.to_host(out)[there], expected[there])
    shift = {"float16": 10, "bfloat16": 7}[kind]
    for bits in (on.to_host(out), expected):
        nan = int(bits[~there][0]) & 0x7FFF
        assert nan >> shift == 0x7FFF >> shift and nan & ((1 << shift) - 1)
