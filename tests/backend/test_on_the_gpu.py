"""What only a device can show: its own rounding, its memory, and training as the CPU does."""

import sys
from pathlib import Path

import numpy as np
import pytest

import minidrop as md
from minidrop.backend import cuda_devices, get_backend
from minidrop.config import parse_solver
from minidrop.errors import BackendError

pytestmark = pytest.mark.gpu
UNIT = {"tf32": 2.0**-11, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@pytest.fixture(autouse=True)
def device():
    count, reason = cuda_devices()
    if not count:
        pytest.skip(reason)


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts" / "benchmarks"))
    import gpu_checks
    yield gpu_checks
    sys.modules.pop("gpu_checks", None)


@pytest.mark.parametrize("precision", ["float32", *UNIT])
def test_products_are_as_exact_as_their_precision(checks, precision):
    checks.check_products(get_backend("cuda:0"), precision)


@pytest.mark.parametrize("precision", ["float32", *UNIT])
def test_products_of_blocks_are_as_exact_as_their_precision(checks, precision):
    checks.check_block_products(get_backend("cuda:0"), precision)


def test_compact_nets_equal_masked_dense_ones(checks):
    checks.check_nets(get_backend("cuda:0"))


def test_both_devices_train_alike(checks):
    checks.check_training(get_backend("cuda:0"))


@pytest.mark.parametrize("precision", UNIT)
def test_low_precision_is_really_used(precision, rng):
    backend = get_backend("cuda:0", precision)
    a, b = rng.standard_normal((256,
                                512)).astype(np.float32), rng.standard_normal((512, 128)).astype(np.float32)
    error = np.abs(backend.to_host(backend.gemm(backend.asarray(a), backend.asarray(b))) - a.astype(float)
                   @ b)
    assert error.max() > 1e-2 * UNIT[precision] * (np.abs(a) @ np.abs(b)).max()


def test_more_memory_than_there_is():
    backend = get_backend("cuda:0")
    with backend.active():
        total = backend.xp.cuda.runtime.memGetInfo()[1]
    asked = rf"asked for uint8 \({2 * total},\), {2 * total:,} bytes; of its {total:,} bytes [\d,]+ are free"
    with pytest.raises(BackendError, match="^cuda:0 is out of memory: " + asked):
        backend.empty((2 * total,), np.uint8)
    assert backend.empty((4,), np.uint8).shape == (4,)


@pytest.mark.parametrize("precision", UNIT)
def test_training_in_low_precision_learns(precision, rng):
    """Two clouds of points: in a hundred steps the loss falls to nothing, and weights stay float32."""
    x = rng.standard_normal((64, 20)).astype(np.float32)
    label = (x[:, 0] > 0).astype(np.int64)
    x[:, 0] += 2 * label - 1
    net = """layer { name: "in" type: "Input" top: "data" top: "label"
          input_param { shape { dim: 64 dim: 20 } shape { dim: 64 } } }
        layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
          inner_product_param { num_output: 64 weight_filler { type: "msra" } } }
        layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
        layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "ip1"
          approx_dropout_param { dropout_ratio: 0.5 } }
        layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
          inner_product_param { num_output: 2 weight_filler { type: "msra" } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }"""
    solver = md.Solver(parse_solver(f"base_lr: 0.05 lr_policy: 'fixed' momentum: 0.9 max_iter: 100 "
                                    f"random_seed: 1 precision: '{precision}' net_param {{ {net} }}"),
                       device="cuda:0")
    losses = []
    for _ in range(100):
        solver.net.set_inputs(data=x, label=label)
        solver.step()
        losses.append(solver.losses[-1])
    assert np.mean(losses[-10:]) < 0.1 * losses[0]
    assert all(p.data.dtype == np.float32 for p in solver.net.parameters().values())
    assert (solver.loss_scale is not None) == (precision == "float16")


@pytest.mark.parametrize("precision", ["float32", *UNIT])
def test_captured_products_are_those_that_were_not_captured(precision, rng):
    """Bit for bit, with numbers that were not there when they were captured: one product, and a batch of
    two."""
    backend = get_backend("cuda:0", precision)

    def numbers(*shape):
        return backend.asarray(rng.standard_normal(shape).astype(np.float32))

    with backend.active():
        a, b, out = numbers(65, 130), numbers(130, 99), [backend.zeros((65, 99), np.float32)
                                                         for _ in range(3)]

        def work():
            out[0][...] = backend.relu(backend.gemm(backend.operand(a), backend.operand(b)))
            for place, product in zip(out[1:], backend.gemms([(a, b, False, False), (a, b, False, False)]),
                                      strict=True):
                place[...] = product

        work()          # makes handles and compiles
        graph = backend.capture(work)
        for _ in range(2):
            a[...] = numbers(65, 130)
            for array in out:
                array.fill(np.nan)
            graph.launch()
            captured = [backend.to_host(array).copy() for array in out]
            work()
            for got, expected in zip(captured, out, strict=True):
                np.testing.assert_array_equal(got, backend.to_host(expected))
                assert np.isfinite(got).all()


def test_products_on_several_streams(rng):
    """The handle follows the current stream, and its workspace with it."""
    backend = get_backend("cuda:0")
    with backend.active():
        a, b = (backend.asarray(rng.standard_normal((300, 300)).astype(np.float32)) for _ in range(2))
        expected = backend.to_host(backend.gemm(a, b))
        backend.synchronize()
        stream = backend.xp.cuda.Stream(non_blocking=True)
        with stream:
            y = backend.gemm(a, b)
            stream.synchronize()
            np.testing.assert_array_equal(backend.to_host(y), expected)
        np.testing.assert_array_equal(backend.to_host(backend.gemm(a, b)), expected)


class Owner:
    """Of uploads; an object() has no weak references."""


def test_what_is_uploaded_and_fetched_arrives(rng):
    """Many batches, one after the other, without waiting: none is overwritten before it is used."""
    backend, owner, sums, expected = get_backend("cuda:0"), Owner(), [], []
    with backend.active():
        for _ in range(20):
            batch = [rng.standard_normal((500, 301)).astype(np.float32), rng.integers(0, 9, 500)]
            expected.append([array.astype(float).sum() for array in batch])
            there = backend.upload(owner, [backend.pinned(array) for array in batch])
            sums.append([array.astype(np.float64).sum() for array in there])
        np.testing.assert_allclose([[float(x) for x in pair] for pair in sums], expected, rtol=1e-9)
        x = backend.asarray(np.arange(1000.0))
        coming = backend.fetch(x)
        x.fill(0)
        np.testing.assert_array_equal(coming.get(), np.arange(1000.0))


def test_trim_gives_memory_back():
    backend = get_backend("cuda:0")
    with backend.active():
        pool = backend.xp.get_default_memory_pool()
        backend.empty((2**26,), np.uint8)
        held = pool.total_bytes()
        backend.trim()
        assert pool.total_bytes() <= held - 2**26
