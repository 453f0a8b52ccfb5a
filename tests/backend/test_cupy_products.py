"""The CUDA backend's products, asked of a cuBLAS that works on host memory: whole networks, without a
device."""

import numpy as np
import pytest
from cases import in_turn
from products import linear_pieces

from minidrop.autograd import Parameter, Tensor
from minidrop.backend import get_backend
from minidrop.backend.cuda.products import KeptMatrix
from minidrop.config import parse_net
from minidrop.errors import BackendError
from minidrop.functions.linear import linear
from minidrop.functions.pieces import block_pieces, tile_pieces
from minidrop.functions.recurrent import HiddenDrop, gru, lstm
from minidrop.kept import Kept
from minidrop.net import Net
from minidrop.patterns import known_families
from minidrop.patterns.tile import TilePattern
from minidrop.testing import assert_matches_masked_dense

CPU = get_backend("cpu")
OUTPUTS, INPUTS, SAMPLES = 230, 150, 7
# Kept sets of both axes: everything, in place with a leading dimension, an offset or a batch, and gathered.
ROWS = {"all": None, "one in three": Kept(1, 3, 1, OUTPUTS), "slice": Kept(20, OUTPUTS, 70, OUTPUTS),
        "wide runs": Kept(-30, 100, 70, OUTPUTS), "narrow runs": Kept(2, 10, 5, OUTPUTS),
        "list": Kept.of([0, 3, 4, 99, 229], OUTPUTS), "nothing": Kept(OUTPUTS, OUTPUTS + 1, 1, OUTPUTS)}
COLS = {"all": None, "one in three": Kept(1, 3, 1, INPUTS), "slice": Kept(20, INPUTS, 70, INPUTS),
        "two runs": Kept(0, 80, 70, INPUTS), "list": Kept.of([0, 3, 4, 99], INPUTS),
        "nothing": Kept(INPUTS, INPUTS + 1, 1, INPUTS)}
rows_sets = pytest.mark.parametrize("rows", ROWS)
cols_sets = pytest.mark.parametrize("cols", COLS)


@pytest.fixture
def cuda(host_cuda):
    return host_cuda()


def run(backend, function, *arrays):
    """Return (outputs, gradients) of a function of Tensors: the first array is data, the others
    parameters."""
    tensors = [Tensor(arrays[0], True, backend), *(Parameter(array.copy(), backend) for array in arrays[1:])]
    outputs = function(*tensors)
    y = outputs[0] if isinstance(outputs, tuple) else outputs
    y.backward(np.cos(np.arange(y.data.size)).reshape(y.data.shape).astype(y.dtype))
    return [y.numpy()] + [tensor.grad for tensor in tensors]


def agree(backend, function, *arrays, **tolerance):
    for got, expected in zip(run(backend, function, *arrays), run(CPU, function, *arrays), strict=True):
        np.testing.assert_allclose(got, expected, **tolerance or {"rtol": 1e-10, "atol": 1e-9})


@in_turn("layout", ["rows", "columns", "gaps", "strided", "reversed"])
@in_turn("trans_a", [False, True])
@in_turn("trans_b", [False, True])
def test_gemm_of_any_arrays(cuda, rng, dtype, close, layout, trans_a, trans_b):
    def make(*shape):
        full = rng.standard_normal([2 * n for n in shape]).astype(dtype)
        return {"rows": np.ascontiguousarray(full[:shape[0], :shape[1]]),
                "columns": full[:shape[0], :shape[1]].T.copy().T, "gaps": full[1:2 * shape[0]:2, :shape[1]],
                "strided": full[::2, ::2], "reversed": full[:shape[0], :shape[1]][::-1]}[layout]
    for m, k, n in ((5, 7, 3), (1, 7, 3), (5, 1, 3), (5, 7, 1), (1, 1, 1)):
        a, b = make(*((k, m) if trans_a else (m, k))), make(*((n, k) if trans_b else (k, n)))
        got = cuda.gemm(a, b, trans_a, trans_b)
        assert got.dtype == dtype and got.flags.c_contiguous
        close(got, (a.T if trans_a else a).astype(float) @ (b.T if trans_b else b).astype(float))


@pytest.mark.parametrize("m, k, n", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_empty_products(cuda, m, k, n):
    np.testing.assert_array_equal(cuda.gemm(np.ones((m, k)), np.ones((k, n))), np.zeros((m, n)))
    assert cuda.blas.library.calls == []


def test_other_types_are_refused(cuda):
    with pytest.raises(BackendError, match="^cuda:0 on the host: products need float32 or float64, got "
                       "int64$"):
        cuda.gemm(np.ones((2, 2), np.int64), np.ones((2, 2), np.int64))


def test_what_cublas_refuses_names_the_call(cuda, monkeypatch):
    def refuse(*_):
        raise cuda.blas.library.CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
    monkeypatch.setattr(cuda.blas.library, "gemmEx", refuse)
    with pytest.raises(BackendError,
                       match=r"^cuda:0 on the host: cuBLAS refused a product in float64: "
                       r"CUBLAS_STATUS_NOT_SUPP"
                                           r"ORTED; Gemm\(transa=False, transb=False, m=4, n=2, k=3"):
        cuda.gemm(np.ones((2, 3)), np.ones((3, 4)))


@rows_sets
@cols_sets
@in_turn("transpose", [False, True])
def test_linear_with_kept_sets(cuda, rng, rows, cols, transpose):
    rows, cols = ROWS[rows], COLS[cols]
    x = rng.standard_normal((SAMPLES, INPUTS if cols is None else cols.count))
    W, b = rng.standard_normal((INPUTS, OUTPUTS) if transpose
                               else (OUTPUTS, INPUTS)), rng.standard_normal(OUTPUTS)

    def function(x, W, b):
        x.kept, x.kept_axis = cols, 1
        return linear(x, W, b, rows, transpose)
    agree(cuda, function, x, W, b)


@pytest.mark.parametrize("rows, cols, gathered", [("one in three", "slice", 0), ("slice", "all", 0),
                                                  ("list", "all", 1), ("one in three", "one in three", 1),
                                                  ("wide runs", "all", 0), ("narrow runs", "all", 1)])
def test_nothing_is_gathered_that_lies_well(cuda, rng, monkeypatch, rows, cols, gathered):
    """Where it must be, once for the forward product and the input gradient together."""
    rows, cols = ROWS[rows], COLS[cols]
    count = []
    dense = type(cuda)._dense
    monkeypatch.setattr(type(cuda), "_dense", lambda self,
                        x: (count.append(x) if isinstance(x, KeptMatrix) else None,
                                                              dense(self, x))[1])
    W = cuda.submatrix(rng.standard_normal((OUTPUTS, INPUTS)), rows, cols)
    assert W.shape == (OUTPUTS if rows is None else rows.count, INPUTS if cols is None else cols.count)
    assert W.dtype == np.float64 and W.ndim == 2
    cuda.gemm(rng.standard_normal((SAMPLES, W.shape[1])), W, trans_b=True)
    cuda.gemm(rng.standard_normal((SAMPLES, W.shape[0])), W)
    assert len(count) == gathered


def test_whole_matrices_stay_what_they_are(cuda, rng):
    W = rng.standard_normal((4, 6))
    assert cuda.submatrix(W, None, None) is W and cuda.submatrix(W, Kept.all(4), Kept.all(6)) is W
    assert cuda.operand(W) is W


def test_a_kept_matrix_reaches_the_host(cuda, rng):
    W, rows, cols = rng.standard_normal((OUTPUTS, INPUTS)), ROWS["list"], COLS["slice"]
    np.testing.assert_array_equal(cuda.to_host(cuda.submatrix(W, rows, cols)),
                                  W[np.ix_(rows.indices, cols.indices)])
    np.testing.assert_array_equal(cuda.to_host(cuda.scaled(cuda.submatrix(W, rows, cols), 2.0)),
                                  2 * W[np.ix_(rows.indices, cols.indices)])
    np.testing.assert_array_equal(cuda.transposed(cuda.submatrix(W, rows, None)), W[rows.indices].T)


@pytest.mark.parametrize("period", [1, 2, 3, 5])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("size", [16, 32, 200])
def test_tiles(cuda, rng, period, transpose, size):
    """One batch for each of the three products, where the classes are alike."""
    pattern = TilePattern(0.5, 1.0, period, 1 % period, size, drops="weights")
    x, b = rng.standard_normal((SAMPLES, INPUTS)), rng.standard_normal(OUTPUTS)
    W = rng.standard_normal((INPUTS, OUTPUTS) if transpose else (OUTPUTS, INPUTS))
    pieces = tile_pieces(SAMPLES, pattern.tiles(OUTPUTS, INPUTS))
    agree(cuda, lambda x, W, b: linear_pieces(x, W, b, pieces, 1.5, transpose), x, W, b)
    if (period, size) == (2, 16):
        assert cuda.blas.library.calls == ["gemmStridedBatchedEx"] * 3


def test_equal_tiles_are_gathered_once(cuda, rng, monkeypatch):
    """The operands of the forward product, side by side, serve the gradients."""
    pattern = TilePattern(0.5, 1.0, 2, 1, 10, drops="weights")
    pieces = tile_pieces(SAMPLES, pattern.tiles(80, 60))
    rounded, counts = type(cuda)._rounded, []
    monkeypatch.setattr(type(cuda), "_rounded", lambda self, x,
                        *more: (counts.append(x.shape), rounded(self, x, *more))[1])
    x, W = rng.standard_normal((SAMPLES, 60)), rng.standard_normal((80, 60))
    agree(cuda, lambda x, W: linear_pieces(x, W, None, pieces), x, W)
    # x, W and gy, two classes each
    assert counts == [(SAMPLES, 30)] * 2 + [(40, 30)] * 2 + [(SAMPLES, 40)] * 2


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_blocks(cuda, rng, scale):
    groups = [(0, 3, ROWS["list"]), (3, 5, ROWS["slice"]), (5, SAMPLES, ROWS["list"])]
    inputs = [(0, 4, COLS["slice"]), (4, SAMPLES, COLS["list"])]
    for sides in ((groups, None), (None, inputs), (groups, inputs)):
        pieces = block_pieces(SAMPLES, OUTPUTS, INPUTS, *sides)
        agree(cuda, lambda x, W, pieces=pieces: linear_pieces(x, W, None, pieces, scale),
              rng.standard_normal((SAMPLES, INPUTS)), rng.standard_normal((OUTPUTS, INPUTS)))


@pytest.mark.parametrize("drop", [HiddenDrop(), HiddenDrop(units=Kept(1, 3, 1, 12), whole=True),
                                  HiddenDrop(steps=tuple(Kept(t % 3, 3, 1, 12) for t in range(6)))],
                         ids=["none", "units", "steps"])
def test_recurrent(cuda, rng, drop):
    inputs, units = 5, 12
    x, cont = rng.standard_normal((6, 20, inputs)), (rng.random((6, 20)) > 0.2).astype(float)

    def of(backend_function, gates):
        def function(x, *weights):
            return backend_function(x, Tensor(cont, backend=x.backend), *weights, drop=drop)
        biases = [rng.standard_normal(gates * units) for _ in range(1 + (gates == 3))]
        Wx, Wh = rng.standard_normal((gates * units, inputs)), rng.standard_normal((gates * units, units))
        agree(cuda, function, x, *((Wx, biases[0], Wh) if gates == 4 else (Wx, biases[0], Wh, biases[1])))
    of(lstm, 4)
    of(gru, 3)


# -- precisions ----------------------------------------------------------------------------------------------
# the largest relative error of rounding
UNIT = {"tf32": 2.0**-11, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@pytest.mark.parametrize("precision", UNIT)
@pytest.mark.parametrize("rows, cols", [("all", "all"), ("one in three", "slice"), ("list", "one in three")])
def test_low_precision_rounds_the_operands_and_nothing_else(host_cuda, rng, precision, rows, cols):
    """The error of a sum of products of rounded numbers is at most about 2 unit sum |x| |w|, and it is not
    zero."""
    cuda = host_cuda(precision)
    rows, cols = ROWS[rows], COLS[cols]
    W = rng.standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    kept = cuda.submatrix(W, rows, cols)
    block = CPU.submatrix(W, rows, cols).astype(float)
    x = rng.standard_normal((SAMPLES, block.shape[1])).astype(np.float32)
    for _ in range(2):      # the second time what was rounded is there already
        got = cuda.gemm(cuda.operand(x), kept, trans_b=True)
        assert got.dtype == np.float32
        error = np.abs(got - x.astype(float) @ block.T)
        bound = 2.1 * UNIT[precision] * (np.abs(x).astype(float) @ np.abs(block).T)
        assert (error <= bound).all() and error.max() > 0.01 * bound.max()


@pytest.mark.parametrize("precision", UNIT)
def test_float64_is_never_rounded(host_cuda, rng, precision):
    a, b = rng.standard_normal((5, 6)), rng.standard_normal((6, 7))
    np.testing.assert_allclose(host_cuda(precision).gemm(a, b), a @ b, rtol=1e-13)


@pytest.mark.parametrize("precision", UNIT)
def test_tiles_in_low_precision(host_cuda, rng, precision):
    pattern = TilePattern(0.5, 1.0, 3, 1, 16, drops="weights")
    pieces = tile_pieces(SAMPLES, pattern.tiles(OUTPUTS, INPUTS))
    x, W = rng.standard_normal((SAMPLES,
                                INPUTS)).astype(np.float32), rng.standard_normal((OUTPUTS,
                                                                                  INPUTS)).astype(np.float32)
    agree(host_cuda(precision), lambda x, W: linear_pieces(x, W, None, pieces), x, W, rtol=0,
          atol=100 * UNIT[precision])


def test_bfloat16_by_hand(cuda):
    numbers = np.array([1.0, -2.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, np.inf, np.nan, 0.0, 1e-40], np.float32)
    #                             halfway: to even, down and up; the largest rounds to infinity
    bits = np.empty((1, 9), np.uint16)
    cuda.round_block(numbers[None], None, None, 1, "bfloat16", bits)
    assert [hex(one) for one in bits[0]] == [
        "0x3f80", "0xc000", "0x3f80", "0x3f82", "0x7f80", "0x7f80", "0x7fc0", "0x0", "0x1"]


# -- whole networks ------------------------------------------------------------------------------------------
NET = """
layer {{ name: "in" type: "Input" top: "data" top: "label"
  input_param {{ shape {{ dim: 6 dim: 40 }} shape {{ dim: 6 }} }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param {{ num_output: 70 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "ip1" approx_dropout_param {{ {settings} }} }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param {{ num_output: 65 transpose: true weight_filler {{ type: "msra" }} }} }}
layer {{ name: "drop2" type: "ApproxDropout" bottom: "ip2" top: "ip2" approx_dropout_param {{ {settings} }} }}
layer {{ name: "ip3" type: "InnerProduct" bottom: "ip2" top: "ip3"
        inner_product_param {{ num_output: 7 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip3" bottom: "label" top: "loss" }}
"""


@in_turn("rate", [0, 0.3, 0.7, 0.9])
@in_turn("family", known_families())
def test_a_compact_net_equals_the_masked_dense_one(cuda, rng, family, rate):
    more = {"TILE": f"tile_size: {4 if rate < 0.8 else 1}", "BLOCK": "block_samples: 4"}.get(family, "")
    text = NET.format(settings=f'dropout_ratio: {rate} pattern: "{family}" {more}')
    net = Net(parse_net(text), device=cuda, dtype="float64")
    inputs = {"data": rng.standard_normal((6, 40)), "label": rng.integers(0, 7, 6)}
    for iteration in range(6):
        assert_matches_masked_dense(net, iteration, inputs)
    assert cuda.blas.library.calls
