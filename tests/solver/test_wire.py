"""Gradients of 16 bits on the wire: how they are rounded, and what that does to a sum."""

import numpy as np
import pytest
from parallel_nets import mlp_with, solver_of

from minidrop.config import parse_solver
from minidrop.errors import ConfigError
from minidrop.solver import Solver
from minidrop.solver.checks import solver_problems
from minidrop.solver.ranks import Job, Ranks, bytes_to_add
from minidrop.solver.wire import WIRES, Wire
from minidrop.testing import run_ranks

ULP = {"float16": 2.0 ** -11, "bfloat16": 2.0 ** -8}        # the largest relative error of one rounding
LEAST = {"float16": 2.0 ** -25, "bfloat16": 0.0}            # and the absolute one of small numbers


def test_bfloat16_rounds_to_the_nearest_even():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.integers(0, 2**32, 10_000, np.uint32).view(np.float32),
                              np.array([0, -0.0, np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38], "f4")])
    numbers = numbers[~np.isnan(numbers)]
    wire = Wire("bfloat16")
    with np.errstate(over="ignore"):
        expected = torch.from_numpy(numbers).to(torch.bfloat16).float().numpy()
    found = wire.decode(wire.encode(numbers), np.dtype("f4"))
    assert (found.view(np.uint32) == expected.view(np.uint32)).all()


@pytest.mark.parametrize("name", WIRES)
def test_what_is_not_finite_stays_so(name):
    bits = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0x7F800001], np.uint32).view(np.float32)
    wire = Wire(name)
    assert not np.isfinite(wire.decode(wire.encode(bits), np.dtype("f4"))).any()
    assert (wire.decode(wire.encode(np.array([np.inf, -np.inf])), np.dtype("f8")) == [np.inf, -np.inf]).all()


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_sum_keeps_within_its_bound_and_is_the_same_on_all_ranks(name, size):
    """One rounding of each addend, one of the sum: |error| <= u (sum |g_r| + |sum|), for half the bytes."""
    rng = np.random.default_rng(size)
    parts = (rng.standard_normal((size, 5000)) * 10.0 ** rng.integers(-6, 1, 5000)).astype("f4")
    exact = parts.astype("f8").sum(axis=0)

    def work(communicator):
        ranks, flat = Ranks(communicator), parts[communicator.rank].copy()
        Job(ranks.adding(flat, 0, 1024, Wire(name))).finish()
        assert ranks.sent == bytes_to_add(5000, 2, size, 1024, ranks.rank)
        return flat
    found = run_ranks(size, work)
    bound = (1 + 1e-3) * (ULP[name] * (np.abs(parts).sum(axis=0) + np.abs(exact)) + LEAST[name] * (size + 1))
    for flat in found:
        assert (flat == found[0]).all() and (np.abs(flat - exact) <= bound).all()
    assert np.abs(found[0] - exact).max() > 0.01 * bound.max()


@pytest.mark.parametrize("name", WIRES)
def test_a_training(name):
    """All ranks have the same weights, near those of a training without it; overlap changes no bit."""
    def work(communicator, settings):
        solver = solver_of(mlp_with("PERIODIC groups: 1"), settings, communicator)
        solver.step(5)
        return {key: p.data.copy() for key, p in solver.net.parameters().items()}, solver.gradient_sum.sent
    plain = run_ranks(2, lambda one: work(one, ""))[0]
    runs = [run_ranks(2, lambda one, how=how: work(one, f'wire: "{name}" {how}'))
            for how in ("", "layer_wise_reduce: false")]
    for weights, sent in (one for run in runs for one in run):
        assert sent < 0.3 * plain[1]            # 2 bytes in place of 8
        for key, values in weights.items():
            assert (values == runs[0][0][0][key]).all()
            np.testing.assert_allclose(values, plain[0][key], rtol=0, atol=2 * ULP[name])
            assert key.endswith("bias") or (values != plain[0][key]).any()


def test_mistakes(caplog):
    net = f"net_param {{ {' '.join(mlp_with('PERIODIC'))} }} max_iter: 1 base_lr: 0.1 lr_policy: 'fixed'"
    with pytest.raises(ConfigError, match="wire must be float16 or bfloat16, or empty, got 'bfloat'"):
        Solver(parse_solver(f"{net} wire: 'bfloat'", "s"), device="cpu")
    with pytest.raises(ConfigError, match="reduce_bucket must be at least 1, got 0"):
        Solver(parse_solver(f"{net} reduce_bucket: 0", "s"), device="cpu")
    found, = solver_problems(parse_solver(f"{net} average_interval: 2 precision: 'float16'", "s"))
    assert "average_interval does not go with precision: \"float16\"" in found
    Solver(parse_solver(f"{net} average_interval: 2 wire: 'float16'", "s"), device="cpu")
    assert "wire has no effect with average_interval" in caplog.text
