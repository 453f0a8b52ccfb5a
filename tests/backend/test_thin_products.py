"""Thin products with packed weights: against float64, the same bits whoever computes them, and in nets."""

import os
import threading

import numba
import numpy as np
import pytest
from cases import in_turn
from recurrent_nets import KINDS, check, drop_settings, net_of

from minidrop import ShapeError, Tensor, check_gradients, functions
from minidrop.backend import Backend, get_backend
from minidrop.backend.numpy import thin
from minidrop.backend.numpy.thin import Packed
from minidrop.functions.hidden_drop import HiddenDrop
from minidrop.functions.step_weights import StepWeights
from minidrop.kept import Kept
from minidrop.kernels import crew, threads, vectors

pytestmark = pytest.mark.skipif(not vectors.BITS, reason="needs AVX2 with FMA, or AVX-512")
BACKEND = get_backend("cpu")


def operands(rows, inner, columns, transpose, dtype=np.float32):
    rng = np.random.default_rng([rows, inner, columns])
    W = rng.standard_normal((columns, inner) if transpose else (inner, columns)).astype(dtype)
    return rng.standard_normal((rows, inner)).astype(dtype), W


def packed(W, transpose, rows):
    return Packed(BACKEND, W, transpose, thin.form_of(rows, W.dtype))


@pytest.fixture
def always(monkeypatch):
    """Pack however small the weights are, and count what is packed."""
    made, pack = [], Packed.__init__
    monkeypatch.setattr(thin, "LEAST_WEIGHTS", 1)
    monkeypatch.setattr(thin, "LEAST_USES", 1)
    monkeypatch.setattr(Packed, "__init__", lambda self, *given: made.append(self) or pack(self, *given))
    return made


@pytest.fixture
def three(monkeypatch):
    """Three threads for every product, on however many cores."""
    monkeypatch.setattr(threads, "COUNT", 3)
    monkeypatch.setattr(crew, "_LEAST_TERMS", 0)
    monkeypatch.setattr(crew, "crew", crew.Crew())


# -- products ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype, rows", [("f", 20), ("f", 27), ("f", 3), ("f", 64), ("d", 20), ("d", 49)])
@in_turn("transpose", [True, False])
@in_turn("inner, columns", [(1, 1), (2, 65), (63, 16), (64, 47), (257, 32), (300, 193)])
def test_every_remainder(dtype, rows, inner, columns, transpose):
    a, W = operands(rows, inner, columns, transpose, dtype)
    y = BACKEND.thin_gemm(a, packed(W, transpose, rows), transpose)
    assert y.shape == (rows, columns) and y.dtype == a.dtype
    expected = a.astype(float) @ (W.T if transpose else W).astype(float)
    tolerance = inner**0.5 * (1e-6 if dtype == "f" else 1e-14)
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
    for fewer in {1, rows - 1} - {rows}:            # fewer rows than it was packed for: the same bits
        np.testing.assert_array_equal(BACKEND.thin_gemm(a[:fewer], packed(W, transpose, rows), transpose),
                                      y[:fewer])


def test_an_entry_is_one_sum_in_the_order_of_the_inner_axis():
    """So its bits depend on nothing else: neither on the width of vectors nor on the form of the blocks."""
    a, W = operands(20, 61, 33, True)
    a, W = (np.round(x * 64) / 64 for x in (a, W))          # products are exact, so an FMA is a plain sum
    expected = np.zeros((20, 33), np.float32)
    for k in range(61):
        expected += a[:, k, None] * W[None, :, k]
    for rows in (20, 27):
        np.testing.assert_array_equal(BACKEND.thin_gemm(a, packed(W, True, rows), True), expected)


@in_turn("transpose", [True, False])
@in_turn("view", ["columns", "every second row", "transposed"])
def test_operands_may_be_views(view, transpose):
    a, W = operands(20, 40, 70, transpose)
    views = {"columns": lambda x: np.repeat(x, 2, 1)[:, ::2],
             "every second row": lambda x: np.repeat(x, 2, 0)[::2], "transposed": np.asfortranarray}
    expected = BACKEND.thin_gemm(a, packed(W, transpose, 20), transpose)
    got = BACKEND.thin_gemm(views[view](a), packed(views[view](W), transpose, 20), transpose)
    np.testing.assert_array_equal(got, expected)


def test_infinite_and_missing_numbers_stay_where_they_are():
    a, W = operands(20, 40, 70, True)
    a[3, 5], W[8, 2] = np.nan, np.inf
    y = BACKEND.thin_gemm(a, packed(W, True, 20), True)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isfinite(y), np.isfinite(a @ W.T))


def test_what_does_not_fit_is_said():
    a, W = operands(20, 40, 70, True)
    operand = packed(W, True, 20)
    for given, transpose in ((a, False), (a[:, :39], True), (a.astype(float), True)):
        with pytest.raises(ShapeError, match="thin_gemm: a .* were packed transposed"):
            BACKEND.thin_gemm(given, operand, transpose)


def test_only_what_pays_is_packed(monkeypatch):
    W = np.zeros((128, 128), np.float32)
    assert isinstance(BACKEND.thin_operand(W, True, 20, 8), Packed)
    most = {512: 128, 256: 64}[vectors.BITS]
    assert isinstance(BACKEND.thin_operand(W, True, most, 8), Packed)
    for weights, rows, uses in ((W, 20, 7), (W, most + 1, 8), (W, 1, 8), (W[:127], 20, 8),
                                (W.astype("e"), 20, 8)):
        assert BACKEND.thin_operand(weights, True, rows, uses) is weights
    assert Backend().thin_operand(W, True, 20, 8) is W
    monkeypatch.setattr(vectors, "BITS", 0)                 # another processor
    assert BACKEND.thin_operand(W, True, 20, 8) is W


@in_turn("transpose", [False, True])
def test_weights_of_steps_are_packed_once_a_direction(transpose, always):
    """Used as often as was said; then their copies are gone."""
    x, W = operands(20, 40, 40, True)
    weights = StepWeights(W, 3)
    for way in (transpose, not transpose, transpose):       # a backward pass may compute something again
        before = len(always)
        for _ in range(3):
            got = weights.multiply(BACKEND, x, way)
            np.testing.assert_allclose(got, x @ (W.T if way else W), rtol=1e-4, atol=1e-4)
        assert len(always) == before + 1 and not weights.operands
    before = len(always)
    for way in (True, False, True, False, True, False):     # in turn, as the query of an additive score
        weights.multiply(BACKEND, x, way)
    assert len(always) == before + 2 and not weights.operands


@in_turn("settings, bits", [({"CPU_NAME": "generic", "CPU_FEATURES": ""}, 0), ({"CPU_NAME": "k8"}, 0),
                            ({"CPU_NAME": "haswell"}, 256), ({"CPU_FEATURES": "+avx2,-fma"}, 0),
                            ({"CPU_FEATURES": "+avx2,+fma,-avx512f"}, 256),
                            ({"CPU_FEATURES": "+avx2,+fma,+avx512f,+avx512vl"}, 512),
                            ({"ENABLE_AVX": 0}, 0), ({"DISABLE_JIT": 1}, 0), ({}, vectors.BITS)])
def test_vectors_are_those_that_numba_is_told_to_use(settings, bits):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(numba.config, name, value)
        assert vectors._bits() == bits


# -- threads -------------------------------------------------------------------------------------------------
def add_one(out, first, last):
    out[first:last] += 1


def test_threads_change_no_bit(three, monkeypatch):
    """Hundreds of products of two forms, between them other work for the same threads."""
    cases = [(a, W, packed(W, True, len(a)))
             for a, W in (operands(rows, 130, 500, True) for rows in (20, 27))]
    once = [BACKEND.thin_gemm(a, operand, True).copy() for a, _, operand in cases]
    np.testing.assert_allclose(once[0], cases[0][0] @ cases[0][1].T, rtol=1e-4, atol=1e-4)
    filled = np.zeros(1000)
    for turn in range(300):
        for (a, _, operand), expected in zip(cases, once, strict=True):
            np.testing.assert_array_equal(BACKEND.thin_gemm(a, operand, True), expected)
        if turn % 10 == 0:
            threads.by_rows(add_one, 1000, 1 << 30, filled)
    np.testing.assert_array_equal(filled, 30)
    monkeypatch.setattr(threads, "COUNT", 1)
    for (a, _, operand), expected in zip(cases, once, strict=True):
        np.testing.assert_array_equal(BACKEND.thin_gemm(a, operand, True), expected)


def test_several_may_multiply_at_once(three):
    a, W = operands(20, 130, 500, True)
    operand, wrong = packed(W, True, 20), []
    expected = BACKEND.thin_gemm(a, operand, True).copy()

    def multiply():
        for _ in range(200):
            if not np.array_equal(BACKEND.thin_gemm(a, operand, True), expected):
                wrong.append(1)

    together = [threading.Thread(target=multiply) for _ in range(3)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert not wrong


def test_a_thread_that_could_not_be_asked_is_asked_again(three, monkeypatch):
    a, W = operands(20, 130, 500, True)
    operand, asked, ask = packed(W, True, 20), [], threads.ask
    expected = BACKEND.thin_gemm(a, operand, True).copy()
    monkeypatch.setattr(crew, "crew", crew.Crew())

    def refuse(*given):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "ask", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        BACKEND.thin_gemm(a, operand, True)
    monkeypatch.setattr(threads, "ask", lambda *given: asked.append(given[2]) or ask(*given))
    np.testing.assert_array_equal(BACKEND.thin_gemm(a, operand, True), expected)
    assert asked == [1, 2]


def test_an_interrupt_between_two_products_leaves_no_thread_alone(three, monkeypatch):
    a, W = operands(20, 130, 500, True)
    operand, asked, ask = packed(W, True, 20), [], threads.ask
    monkeypatch.setattr(threads, "ask", lambda *given: asked.append(given[2]) or ask(*given))
    crew.crew._lock.acquire()           # as after a Ctrl-C before anything could release it
    BACKEND.thin_gemm(a, operand, True)
    assert asked == [1, 2]


def test_a_crew_stays_as_large_as_its_board(three, monkeypatch):
    a, W = operands(20, 130, 500, True)
    operand = packed(W, True, 20)
    expected = BACKEND.thin_gemm(a, operand, True).copy()
    monkeypatch.setattr(threads, "COUNT", 9)
    np.testing.assert_array_equal(BACKEND.thin_gemm(a, operand, True), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_multiplies():
    a, W = operands(20, 400, 600, True)
    operand = packed(W, True, 20)
    expected = BACKEND.thin_gemm(a, operand, True).copy()
    child = os.fork()
    if not child:
        os._exit(int(not np.array_equal(BACKEND.thin_gemm(a, operand, True), expected)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- nets ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind, gates, states", [("lstm", 4, 2), ("gru", 3, 1), ("rnn", 1, 1)])
def test_gradients(kind, gates, states, always):
    rng = np.random.default_rng(1)
    sizes = [(3, 20, 2), *[(gates * 3, 2), (gates * 3,), (gates * 3, 3)], *[(gates * 3,)] * (kind == "gru")]
    cont = Tensor(np.ones((3, 20)))
    check_gradients(lambda x, *rest: getattr(functions, kind)(x, cont, *rest),
                    *(0.5 * rng.standard_normal(size) for size in sizes))
    assert {operand.transpose for operand in always} == {True, False}


@pytest.mark.parametrize("kind", KINDS)
def test_the_compacted_net_equals_the_dense_one(kind, always):
    for time in ("SEQUENCE", "STEP"):
        settings = drop_settings("UNIT", 0.5, time)
        check(net_of(kind, nr=settings, rh=settings, streams=20, units=11), streams=20)
    assert always


@pytest.mark.parametrize("whole", [(0, 1, 2), (3, 4, 5), (2, 4), (5,)])
def test_gradients_if_only_some_steps_read_all(whole, always):
    """Neither the first nor the last step need be one of them: each direction packs weights for itself."""
    rng = np.random.default_rng(2)
    steps = tuple(None if t in whole else Kept(t % 2, 2, 1, 4) for t in range(6))
    sizes = (6, 3, 2), (16, 2), (16,), (16, 4)
    cont = Tensor(np.ones((6, 3)))
    check_gradients(lambda x, *rest: functions.lstm(x, cont, *rest, drop=HiddenDrop(steps=steps))[0],
                    *(0.5 * rng.standard_normal(size) for size in sizes))
    assert {operand.transpose for operand in always} == {True, False}
