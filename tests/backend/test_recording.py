"""Captured steps on the host do what a GPU's would: nothing at capture, all at launch, from the memory as it
is then."""

import gc

import numpy as np
import pytest

from minidrop.autograd import Block
from minidrop.backend.device_sets import MovingKept
from minidrop.errors import CaptureError
from minidrop.kept import Kept


@pytest.fixture
def cuda(recorded_cuda):
    return recorded_cuda()


def numbers(seed, *shape, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def host(*arrays):
    return [x.get() for x in arrays]


def operands(cuda, dtype="float32"):
    """Return x, W, b and out for `program`."""
    return [cuda.asarray(numbers(i, *shape, dtype=dtype))
            for i, shape in enumerate([(6, 9), (11, 9), (11,), (6, 11)])]


def program(cuda, x, W, b, out):
    """Kernels, products, ufuncs, views, writes in place; returns new arrays."""
    xp = cuda.xp
    y = cuda.relu(cuda.gemm(x, W, trans_b=True))
    cuda.add_to_rows(y, b)
    y *= 0.5
    y[:, ::2] += 1
    corner = y[1:4].T
    xp.tanh(corner, out=corner)
    y -= y.sum(axis=1, keepdims=True) / y.max()
    out[...] = y
    W -= W.dtype.type(0.01) * cuda.gemm(y, x, trans_a=True)
    rows = xp.take_along_axis(y, y.argmax(axis=1)[:, None], axis=1)
    return xp.where(y > 0, y, -y).sum(), rows.reshape(-1), y.astype(np.float64)[3]


# -- replay --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("precision, dtype", [("float32", "float32"), ("float32", "float64"),
                                              ("tf32", "float32"), ("float16", "float32"),
                                              ("bfloat16", "float32")])
def test_launches_give_the_bits_of_direct_runs(recorded_cuda, precision, dtype):
    def steps(captured):
        cuda, seen = recorded_cuda(precision), []
        x, W, b, out = operands(cuda, dtype)
        made = []

        def work():
            made[:] = program(cuda, x, W, b, out)

        graph = cuda.capture(work) if captured else None
        for step in range(3):
            x.set(numbers(10 + step, 6, 9, dtype=dtype))
            (graph.launch if captured else work)()
            seen += host(W, out, *made)
        return seen

    results = steps(False), steps(True)
    for direct, replayed in zip(*results, strict=True):
        assert direct.dtype == replayed.dtype and direct.shape == replayed.shape and np.isfinite(direct).all()
        np.testing.assert_array_equal(direct, replayed)
    assert not np.array_equal(results[0][1], results[0][6]), "the steps must differ, or this shows nothing"


def test_a_graph_holds_kernels_products_and_numpy_in_their_order(cuda):
    x = cuda.asarray(numbers(0, 4, 4))
    cuda.kernels.launches.clear()
    graph = cuda.capture(lambda: cuda.relu(cuda.gemm(x, x.T) + 1).fill(2))
    assert graph.names == ["gemmEx", "add", "activate", "fill"]
    assert cuda.kernels.launches == cuda.blas.library.calls == []
    graph.launch()
    assert (cuda.kernels.launches, cuda.blas.library.calls) == (["activate"], ["gemmEx"])


def test_cublas_gets_its_numbers_at_capture_and_its_pointers_checked(cuda):
    x, out = cuda.asarray(numbers(0, 3, 3)), cuda.zeros((3, 3), np.float32)
    alpha, beta = np.array([2], np.float32), np.array([0], np.float32)

    def product(a):
        cuda.blas.library.gemmEx(0, 0, 0, 3, 3, 3, alpha.ctypes.data, a, 0, 3, cuda.blas.pointer(x), 0, 3,
                         beta.ctypes.data, cuda.blas.pointer(out), 0, 3, 68, -1)

    graph = cuda.capture(lambda: product(cuda.blas.pointer(x)))
    alpha[0] = beta[0] = 5
    graph.launch()
    np.testing.assert_allclose(out.get(), 2 * numbers(0, 3, 3) @ numbers(0, 3, 3), rtol=1e-5)
    with pytest.raises(AssertionError, match="^gemmEx: a pointer to none of the arrays that live$"):
        product(numbers(0, 3, 3).ctypes.data)


def test_views_are_views_and_not_recorded(cuda):
    x, seen = cuda.asarray(numbers(0, 3, 4, 5)), []

    def work():
        seen.extend([x[1], x[..., 2], x[2, 3, 4], x.T, x.reshape(12, 5), cuda.xp.moveaxis(x, 1, -1),
                     x.view(np.uint32), *cuda.xp.split(x, 3), *x, cuda.xp.ascontiguousarray(x), x.ravel(),
                     x[:, None], x.astype(np.float32, copy=False)])

    assert cuda.capture(work).names == []
    x.set(numbers(1, 3, 4, 5))
    for view in seen:
        assert view.memory is x.memory and not view.dtype == np.float64
    np.testing.assert_array_equal(seen[2].get(), numbers(1, 3, 4, 5)[2, 3, 4])
    assert seen[2].shape == ()


def test_a_reshape_that_copies_is_recorded(cuda):
    x, made = cuda.asarray(numbers(0, 3, 4)), []
    graph = cuda.capture(lambda: made.append(x.T.reshape(-1)))
    assert graph.names == ["reshape"]
    graph.launch()
    np.testing.assert_array_equal(made[0].get(), x.get().T.reshape(-1))


def test_results_of_one_number_stay_on_the_device(cuda):
    x, xp = cuda.asarray(numbers(0, 3)), cuda.xp
    for one in (x.sum(), x[1], x.max(), x.any(), x.mean(), x.argmax(), xp.sum(x), x[1] * 2, xp.sqrt(2.0),
                xp.exp(x[0])):
        assert type(one) is xp.ndarray and one.shape == ()
    assert float(x[1]) == numbers(0, 3)[1] and bool((x == x).all()) and int(xp.arange(4)[3]) == 3
    assert [float(one) for one in x] == x.tolist()


# -- what cannot be captured ---------------------------------------------------------------------------------
FORBIDDEN = {
    "bool": lambda cuda, x: bool((x > 0).any()),
    "if": lambda cuda, x: 1 if x[0, 0] > 0 else 2,
    "float": lambda cuda, x: float(x.sum()),
    "int": lambda cuda, x: int(x.argmax()),
    "index": lambda cuda, x: [1, 2, 3][x.argmax()],
    "slice": lambda cuda, x: x[:x.argmax()],
    "item": lambda cuda, x: x[0, 0].item(),
    "tolist": lambda cuda, x: x.tolist(),
    "get": lambda cuda, x: x.get(),
    "set": lambda cuda, x: x.set(numbers(1, 4, 4)),
    "values": lambda cuda, x: [float(one) for one in x[0]],
    "np.asarray": lambda cuda, x: np.asarray(x),
    "np.array": lambda cuda, x: np.array(x),
    "np.float32": lambda cuda, x: np.float32(x.sum()),
    "to_host": lambda cuda, x: cuda.to_host(x),
    "asarray": lambda cuda, x: cuda.asarray(numbers(1, 4)),
    "asarray of a list": lambda cuda, x: cuda.xp.asarray([1.0]),
    "array": lambda cuda, x: cuda.xp.array(3.0),
    "upload": lambda cuda, x: cuda.upload("data", [numbers(1, 4)]),
    "index list": lambda cuda, x: x[[0, 2]],
    "index host": lambda cuda, x: x[:, np.array([0, 2])],
    "write index list": lambda cuda, x: x.__setitem__([0, 2], 1),
    "mask": lambda cuda, x: x[x > 0],
    "write mask": lambda cuda, x: x.__setitem__(x > 0, 0),
    "concatenate": lambda cuda, x: cuda.xp.concatenate([x, x]),
    "stack": lambda cuda, x: cuda.xp.stack([x, x]),
    "unique": lambda cuda, x: cuda.xp.unique(x),
    "argsort": lambda cuda, x: x.argsort(),
    "sort": lambda cuda, x: cuda.xp.sort(x),
    "nonzero": lambda cuda, x: x.nonzero(),
    "where of one": lambda cuda, x: cuda.xp.where(x > 0),
    "flatnonzero": lambda cuda, x: cuda.xp.flatnonzero(x),
    "dot": lambda cuda, x: cuda.xp.dot(x[0], x[1]),
    "matmul": lambda cuda, x: x @ x,
    "einsum": lambda cuda, x: cuda.xp.einsum("ij,jk", x, x),
    "searchsorted": lambda cuda, x: cuda.xp.searchsorted(x[0], x[1]),
    "bincount": lambda cuda, x: cuda.xp.bincount(x[0].astype(np.int64)),
    "norm": lambda cuda, x: cuda.xp.linalg.norm(x),
    "random": lambda cuda, x: cuda.xp.random.standard_normal(3),
    "reduceat": lambda cuda, x: cuda.xp.add.reduceat(x, x[0].astype(np.int64)),
    "NumPy's own": lambda cuda, x: np.concatenate([x, x]),
    "squares": lambda cuda, x: cuda.sum_of_squares(x),
    "synchronize": lambda cuda, x: cuda.synchronize(),
    "trim": lambda cuda, x: cuda.trim(),
    "capture": lambda cuda, x: cuda.capture(lambda: None),
    "table": lambda cuda, x: cuda.take(x, Kept.of([0, 1, 3], 4), 1),
}


@pytest.mark.parametrize("work", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_a_gpu_cannot_capture(cuda, work):
    x, states = cuda.asarray(np.ones((4, 4), np.float32)), []

    def captured():
        states.append(cuda.capturing)
        y = x + 1
        y -= 1
        work(cuda, y)

    with pytest.raises(CaptureError, match="while a step is being captured: "):
        cuda.capture(captured)
    assert states == [True] and not cuda.capturing
    cuda.capture(lambda: x.fill(3)).launch()
    assert (x.get() == 3).all()
    if work not in (FORBIDDEN["where of one"], FORBIDDEN["slice"]):
        x = cuda.asarray(np.ones((4, 4), np.float32))
        try:
            work(cuda, x)       # uncaptured, all of them do something, or raise what CuPy raises
        except TypeError as error:
            assert "implicit conversion" in str(error)


def test_a_capture_is_lost_even_if_the_error_is_caught(cuda):
    x = cuda.asarray(numbers(0, 3))

    def work():
        try:
            float(x[0])
        except CaptureError:
            pass

    with pytest.raises(CaptureError,
                       match=r"^float\(\) while a step is being captured: nothing has run, so there"):
        cuda.capture(work)


def test_an_error_in_the_work_ends_the_capture(cuda):
    x = cuda.asarray(numbers(0, 3))

    def work():
        x.fill(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        cuda.capture(work)
    assert not cuda.capturing and float(x[0]) == numbers(0, 3)[0]


def test_no_launch_within_a_capture(cuda):
    x = cuda.asarray(numbers(0, 3))
    graph = cuda.capture(lambda: x.fill(1))
    with pytest.raises(CaptureError, match="no graph can be launched"):
        cuda.capture(graph.launch)


@pytest.mark.parametrize("work", [
    lambda x, array: x + array, lambda x, array: array * x, lambda x, array: x.__iadd__(array),
    lambda x, array: np.add(x, x, out=array), lambda x, array: x.__setitem__(0, array[0]), lambda x,
    array: x > array.tolist(), lambda x, array: np.where(x > 0, x, array), lambda x,
    array: np.concatenate([x, array]), lambda x, array: array.__iadd__(x)])
def test_host_arrays_are_no_operands(cuda, work):
    """As in CuPy, captured or not."""
    x, array = cuda.asarray(numbers(0, 2, 3)), numbers(1, 2, 3)
    for run in (lambda: work(x, array), lambda: cuda.capture(lambda: work(x, array))):
        with pytest.raises((TypeError, CaptureError)):
            run()
    with pytest.raises(TypeError):
        work(x, array)


def test_numbers_of_the_host_are_constants(cuda):
    x, made = cuda.asarray(numbers(0, 3)), []
    graph = cuda.capture(lambda: made.extend([2 * x, np.float32(2) * x, x + np.array(1, np.float32),
                                              x - True]))
    x.fill(3)
    graph.launch()
    assert [float(y[2]) for y in made] == [6, 6, 4, 2] and all(y.dtype == np.float32 for y in made)


def test_no_conversion_behind_ones_back(cuda):
    x = cuda.asarray(numbers(0, 3))
    for convert in (np.asarray, np.array, np.float32, lambda x: np.testing.assert_allclose(x, 0)):
        with pytest.raises(TypeError, match="implicit conversion of a device array"):
            convert(x)
    with pytest.raises(TypeError, match=r"float\(\) of an array of shape \(3,\)"):
        float(x)


# -- memory --------------------------------------------------------------------------------------------------
def test_nothing_runs_during_a_capture(cuda):
    x, W, b, out = operands(cuda)
    before, made = host(x, W, b, out), []
    graph = cuda.capture(lambda: made.extend(program(cuda, x, W, b, out)))
    for array, old in zip((x, W, b, out), before, strict=True):
        np.testing.assert_array_equal(array.get(), old)
    assert all(np.isnan(y.get()).all() for y in made)
    graph.launch()
    assert not any(np.isnan(y.get()).any() for y in (*made, W, out))


def test_captured_memory_is_spoiled_before_every_launch(cuda):
    out, made = cuda.zeros((3,), np.float32), []

    def work():
        half, counts = cuda.empty((3,), np.float32), cuda.xp.empty(3, np.int64)
        half[:2] = 1
        out[...] = half
        made.extend([half, counts])

    graph = cuda.capture(work)
    half, counts = made
    for _ in range(2):
        half.set(np.full(3, 7, np.float32))      # no launch may find what another left
        graph.launch()
        np.testing.assert_array_equal(out.get(), [1, 1, np.nan])
        assert counts.tolist() == [0x7F7F7F7F7F7F7F7F] * 3


def test_zeros_are_zero_at_every_launch(cuda):
    made = []

    def work():
        total = cuda.zeros((2,), np.float32)
        total += 1
        made.append(total)

    graph = cuda.capture(work)
    for _ in range(2):
        graph.launch()
        assert made[0].tolist() == [1, 1]


def test_captured_memory_lives_as_long_as_the_graph(cuda):
    x, made = cuda.asarray(numbers(0, 3)), []
    graph = cuda.capture(lambda: made.append((x + 1) * 2))      # x + 1 is nobody's
    gc.collect()
    graph.launch()
    np.testing.assert_array_equal(made[0].get(), (numbers(0, 3) + 1) * 2)


@pytest.mark.parametrize("use", [
    lambda cuda, x, out: out.fill(x[0, 0]), lambda cuda, x, out: cuda.put_columns(out, None, x),
    lambda cuda, x, out: cuda.gemm(x, out), lambda cuda, x, out: cuda.gemm(out, x, trans_a=True),
    lambda cuda, x, out: x.fill(1), lambda cuda, x, out: out.__setitem__(..., x.T)])
def test_memory_from_outside_must_live(cuda, use):
    arrays = [cuda.asarray(numbers(i, 3, 3)) for i in range(2)]
    graph = cuda.capture(lambda: use(cuda, *arrays))
    view = arrays[0][1:].T
    del arrays[0]
    graph.launch()      # a view keeps memory alive
    del view
    gc.collect()
    with pytest.raises(AssertionError, match="^the graph reads memory that was freed: 36 bytes, first used "
                       "by "):
        graph.launch()


def test_what_another_graph_wrote_must_live(cuda):
    """Graphs share a pool: memory that nobody holds any more is the next one's."""
    x, made = cuda.asarray(numbers(0, 3)), []
    first = cuda.capture(lambda: made.append(x + 1))
    second = cuda.capture(lambda: x.__setitem__(..., made[0]))
    first.launch()
    second.launch()
    np.testing.assert_array_equal(x.get(), numbers(0, 3) + 1)
    made.clear()
    first.launch()
    with pytest.raises(AssertionError, match="memory that was freed: 12 bytes"):
        second.launch()


def test_memory_freed_during_the_capture(cuda):
    states = [cuda.asarray(numbers(0, 3))]

    def work():
        states[0] = states[0] * 2       # as a layer does that makes a new array for its state

    graph = cuda.capture(work)
    with pytest.raises(AssertionError, match="freed: 12 bytes, first used by multiply"):
        graph.launch()


def test_what_is_not_recorded_is_seen(cuda):
    x = cuda.asarray(numbers(0, 3))
    with pytest.raises(AssertionError, match="^1 arrays changed during a capture: something ran that was not "
                       "recorded$"):
        cuda.capture(lambda: x.array.fill(1))
    np.testing.assert_array_equal(x.get(), numbers(0, 3))
    made = []

    def work():
        made.append(cuda.empty((3,), np.float32))
        made[0].array.fill(1)

    cuda.capture(work)
    assert np.isnan(made[0].get()).all()


# -- numbers that differ from launch to launch ---------------------------------------------------------------
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_varying_numbers_take_new_values_at_replay(cuda, momentum):
    """Starts of kept sets, a key and a learning rate in device memory."""
    kept = Kept(0, 3, 1, 30)

    def work(kept, key, lr, W, history, x):
        part = cuda.take(x, kept, 1)
        block = Block(cuda.take(part, kept, 0) * 2, kept, kept)
        cuda.add_block(x, kept, None, cuda.take(W, kept, 0))
        cuda.add_block(x, None, kept, cuda.take(W, kept, 1))
        cuda.sgd_update(W, history, [block], lr, momentum, 0.01 if momentum else 0.0, False, 0.5)
        y, mask = cuda.dropout(x, 0.4, 1.5, key)
        return (part, cuda.put(part, kept, 1), y, cuda.dropout_gradient(y, mask, 2.0),
                cuda.gaussian((5, 3), np.float32, key))

    def arrays():
        return [cuda.asarray(numbers(i, 30, 30)) for i in range(3)]

    start_at, key, lr = (cuda.asarray(np.array([number], kind)) for number, kind in (
        (0, np.int32), (1, np.uint64), (0.5, np.float64)))
    state, direct, made = arrays(), arrays(), []
    graph = cuda.capture(lambda: made.extend(work(MovingKept(kept, start_at), key, lr, *state)))
    for start, number, rate in ((1, 77, 0.25), (2, 2**40 + 3, 0.125), (0, 5, 1.0)):
        start_at.set(np.array([start], np.int32))
        key.set(np.array([number], np.uint64))
        lr.set(np.array([rate]))
        graph.launch()
        expected = work(Kept(start, 3, 1, 30), number, rate, *direct)
        for got, wanted in zip((*made, *state), (*expected, *direct), strict=True):
            # Beyond this the rate alone is rounded otherwise: its products are taken on the device, in
            # float64.
            np.testing.assert_allclose(got.get(), wanted.get(), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(made[0].get() * 0, np.zeros((30, 10)))
        np.testing.assert_array_equal(made[4].get(), expected[4].get())


def test_what_an_update_leaves_out_is_asked_for_each_form_anew(recorded_cuda):
    """Forms share the places where their sets start, and a cache must not take one form's answer for
    another's."""
    cuda = recorded_cuda()
    starts = [cuda.zeros((1,), np.int32) for _ in range(2)]
    halves = [MovingKept(Kept(0, 4, 2, 12), start_at, ("site", 0, 2)) for start_at in starts]
    thirds = [MovingKept(Kept(0, 3, 1, 12), start_at, ("site", 0, 3)) for start_at in starts]
    assert cuda.tables.rest(tuple(halves), 12) == Kept.of([], 12)
    assert cuda.tables.rest(tuple(thirds), 12) is None
    known = Kept(0, 2, 1, 12), Kept(1, 4, 1, 12)
    assert cuda.tables.rest(known, 12) == Kept(3, 4, 1, 12)
    assert cuda.tables.rest(known, 12) is cuda.tables.rest(known, 12)
