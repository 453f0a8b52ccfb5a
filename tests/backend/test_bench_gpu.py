"""bench_gpu.py without a GPU: what it says, a rehearsal on the CPU, and its arithmetic on a cuBLAS on the
host."""

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minidrop.backend import cuda_devices, get_backend
from minidrop.errors import BackendError, MinidropError
from minidrop.net.costs import costs
from minidrop.solver import captured

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "benchmarks"


def run(*arguments):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run([sys.executable, SCRIPTS / "bench_gpu.py", *arguments], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": path}, timeout=300)


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    names = ("bench_gpu", "bench_models", "bench_steps", "gpu_checks", "gpu_timing")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for path in SCRIPTS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_without_a_gpu_it_says_so_in_one_line_and_exits_with_2(tmp_path):
    if cuda_devices()[0]:
        pytest.skip("there is a GPU here")
    done = run("--json", str(tmp_path / "gpu.json"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bench_gpu.py needs an NVIDIA GPU that CuPy can use: ")
    assert done.stderr.endswith("; see `minidrop devices`\n") and done.stderr.count("\n") == 1
    assert not (tmp_path / "gpu.json").exists()


def test_a_rehearsal_goes_through_all_of_it(scripts, tmp_path, monkeypatch):
    sizes = [size for size in scripts.gpu_checks.BLOCK_SIZES if max(size[:3]) < 1024]
    assert 2 < len(sizes) < len(scripts.gpu_checks.BLOCK_SIZES)        # the others are for a GPU
    monkeypatch.setattr(scripts.gpu_checks, "check_block_products",
                        partial(scripts.gpu_checks.check_block_products, sizes=sizes))
    models = scripts.bench_models.MODELS
    monkeypatch.setitem(models, "quick_lm", replace(models["quick_lm"], units=20, vocabulary=50, streams=4))
    monkeypatch.setattr(scripts.gpu_timing, "BURST", 2)
    monkeypatch.setattr(scripts.gpu_timing, "BURSTS", 2)
    checks, trained = scripts.gpu_checks, scripts.gpu_checks.trained
    monkeypatch.setattr(checks, "check_nets", partial(checks.check_nets, iterations=1))
    monkeypatch.setattr(checks, "trained",
                        lambda *given, **more: trained(*given, **{**more, "iterations": 5}))
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--rehearse", "--json", str(tmp_path / "gpu.json")])
    assert scripts.bench_gpu.main() == 0
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["correct"] and result["failures"] == [] and result["skipped"] == []
    cells = {cell["cell"]: cell for cell in result["cells"]}
    # MLP at two batch sizes
    assert list(cells) == ["MLP", "BLOCK", "LSTM"] and len(result["cells"]) == 4
    assert list(cells["MLP"]["methods"]) == ["Dropout", *(f"{family} p={rate}" for rate in (0.5, 0.7)
                                                          for family in ("PERIODIC", "ROW", "TILE")),
                                             "Dropout uncaptured", "PERIODIC p=0.5 uncaptured"]
    for cell in result["cells"]:
        for figures in cell["methods"].values():
            assert figures["ms"] > 0 and figures["steps"] >= 5 and figures["speed_up"] > 0


def test_a_wrong_device_stops_it_before_anything_is_measured(scripts, host_cuda, monkeypatch, capsys):
    """Every check can fail: here a product that is one unit too large in one place."""
    broken = host_cuda()
    gemm = type(broken).gemm

    def wrong(self, *operands, **more):
        y = gemm(self, *operands, **more)
        if y.size:
            y[0, 0] += 1
        return y
    monkeypatch.setattr(type(broken), "gemm", wrong)
    monkeypatch.setattr("minidrop.backend.get_backend", lambda *_: broken)
    broken.name = broken
    failures = scripts.gpu_checks.check_all(broken, ("float32",))
    assert [text.split(":")[0]
            for text in failures[:1]] == ["products in float32"] and failures[-1].startswith("both devices")
    assert capsys.readouterr().out.count("FAILED") == len(failures) >= 2


def test_a_device_that_only_refuses_to_work_is_not_correct(scripts, recorded_cuda, monkeypatch):
    """It leaves all weights as they are, captured or not: equal, and wrong."""
    backend = recorded_cuda()
    backend.name = backend
    monkeypatch.setattr(backend, "refuse", lambda wrong, error: backend.trouble.fill(1))
    with pytest.raises(MinidropError, match="^iteration 0: "):
        scripts.gpu_checks.check_captured(backend)


def test_captured_steps_are_checked_first(scripts, recorded_cuda, monkeypatch):
    """On a backend that captures; a graph that leaves something out is seen, and so is one that is never
    launched."""
    backend = recorded_cuda()
    backend.name = backend
    trained, seen = scripts.gpu_checks.trained, []

    def shorter(*arguments, iterations, **more):
        seen.append(iterations)
        return trained(*arguments, iterations=iterations - 26, **more)
    monkeypatch.setattr(scripts.gpu_checks, "trained", shorter)
    scripts.gpu_checks.check_captured(backend)
    assert seen == 6 * [40]
    with monkeypatch.context() as patch:
        patch.setattr(captured.CapturedSteps, "_room", lambda self, signature: False)
        with pytest.raises(AssertionError, match="^PERIODIC: no step was captured: no form was drawn twice$"):
            scripts.gpu_checks.check_captured(backend)
    send, calls = captured.CapturedMemory.send, []

    def late(memory, lr, *more):
        """The device learns the learning rate of one iteration too late."""
        calls.append(lr)
        send(memory, lr * (1.0 + 1e-6 * (len(calls) == 6)), *more)
    monkeypatch.setattr(captured.CapturedMemory, "send", late)
    with pytest.raises(AssertionError, match="PERIODIC: "):
        scripts.gpu_checks.check_captured(backend)


def test_the_products_of_a_step_are_those_of_the_net(scripts, host_cuda):
    backend = host_cuda()
    for method in ("Dropout", "PERIODIC:step=4"):
        steps = scripts.bench_steps.MinidropSteps(scripts.bench_models.Perceptron((40, 24), 16), method, 0.5,
                                                  backend)
        clock = scripts.gpu_timing.Clock(backend)
        ms, operations, moved = scripts.gpu_timing.products_alone(steps, clock, repeats=2, recorded=8)
        assert ms > 0 and operations == pytest.approx(sum(row.expected for row in costs(steps.net)), rel=1e-6)
        if method == "Dropout":
            # Of each layer three products (of the first two) of the same three matrices.
            matrices = [16 * a + a * b + 16 * b for a, b in ((784, 40), (40, 24), (24, 10))]
            assert moved == 4 * (2 * matrices[0] + 3 * matrices[1] + 3 * matrices[2])
        assert steps.parameters() == 784 * 40 + 40 + 40 * 24 + 24 + 24 * 10 + 10
        steps.close()


@pytest.fixture
def captured_steps(scripts, recorded_cuda):
    """captured_steps(method, capture) -> MinidropSteps on a backend that captures, and works on the host."""
    made = []

    def make(method, capture=True):
        # Half of these sizes are multiples of 8, so there is no room for units that no start has.
        made.append(scripts.bench_steps.MinidropSteps(scripts.bench_models.Perceptron((64, 32), 16), method,
                                                      0.5, recorded_cuda(), capture=capture))
        return made[-1]
    yield make
    for steps in made:
        steps.close()


def test_only_launches_of_captured_steps_count(scripts, captured_steps):
    steps, plain = captured_steps("Dropout"), captured_steps("Dropout", False)
    assert [steps.step() for _ in range(4)] == [None, None, "", ""] and steps.captured.replayed == 3
    assert [plain.step() for _ in range(4)] == [""] * 4 and plain.captured is None
    results = scripts.gpu_timing.measure({"captured": steps, "plain": plain},
                                         scripts.gpu_timing.Clock(steps.backend), 1, 1, 0)
    assert (results["captured"]["launches"], results["plain"]["launches"]) == (1, None)
    assert all(result["host_us"] > 0 and result["ms"] > 0 for result in results.values())


def test_the_host_is_timed_in_short_bursts_with_nothing_ahead(scripts, captured_steps):
    """A burst with a step that was no launch shows something else."""
    steps = captured_steps("Dropout")
    clock, done = scripts.gpu_timing.Clock(steps.backend), []

    def step():
        done.append(steps.solver.iteration)
        return steps.step()
    assert clock.host(step) is None and clock.host(step) > 0
    assert len(done) == 2 * scripts.gpu_timing.BURST <= 12


def test_the_products_of_captured_steps_are_those_of_their_graphs(scripts, captured_steps):
    for method in ("Dropout", "PERIODIC:step=4"):
        steps = captured_steps(method)
        for _ in range(5):
            steps.step()
        graphs, launched = steps.captured.graphs, steps.captured.replayed
        clock = scripts.gpu_timing.Clock(steps.backend)
        ms, operations, _ = scripts.gpu_timing.products_alone(steps, clock, repeats=2, recorded=8)
        assert ms > 0 and operations == pytest.approx(sum(row.expected for row in costs(steps.net)), rel=1e-6)
        assert (steps.captured.graphs is graphs and steps.captured.launches
                and steps.captured.replayed == launched)


def test_the_floor_adds_the_update_to_the_products(scripts, host_cuda):
    backend = host_cuda()
    steps = scripts.bench_steps.MinidropSteps(scripts.bench_models.Perceptron((40, 24), 16), "ROW", 0.5,
                                              backend)
    result = {"ms": 10.0}
    scripts.gpu_timing.add_floor(result, steps, scripts.gpu_timing.Clock(backend), per_second=1e9,
                                 cache=10**9)
    assert result["update_bytes"] == 16 * steps.parameters()
    assert result["floor_ms"] == pytest.approx(result["gemm_ms"] + result["update_bytes"] / 1e6)
    assert result["share_of_floor"] == pytest.approx(result["floor_ms"] / 10)
    assert result["fits_in_l2"] is True


# -- one cell ------------------------------------------------------------------------------------------------
class Steps:
    """Steps that do nothing; the one numbered `fails` raises."""

    def __init__(self, fails=-1):
        self.count, self.fails, self.closed = 0, fails, False

    def step(self):
        self.count += 1
        if self.count == self.fails:
            raise BackendError("no more\nof it")
        return ""

    def weights(self):
        return {"": 1.0}

    def close(self):
        self.closed = True


@pytest.fixture
def one_cell(scripts, tmp_path):
    """one_cell({method: Steps}) -> (what stands in the file after a cell and another one, what was
    measured)."""

    def run(methods):
        options = SimpleNamespace(rehearse=True, seconds=60, rounds=1, milliseconds=0.01, warming=0,
                                  copy_bytes=1 << 12, no_compile=False)
        made = scripts.bench_gpu.Bench(options, get_backend("cpu"), time.monotonic(),
                           lambda result: scripts.bench_gpu.write_json(tmp_path / "gpu.json", result))
        made.cell("first", {name: lambda steps=steps: steps for name, steps in methods.items()}, {}, "base",
                  network="n")
        made.cell("second", {"base": Steps}, {}, "base")
        assert all(steps.closed for steps in methods.values())
        return json.loads((tmp_path / "gpu.json").read_text())
    return run


def test_a_method_that_fails_leaves_the_others(one_cell):
    result = one_cell({"base": Steps(), "new": Steps(fails=3)})
    assert [cell["cell"] for cell in result["cells"]] == ["first", "second"]
    assert list(result["cells"][0]["methods"]) == ["base"]
    assert result["cells"][0]["failed"] == {"new": "BackendError: no more"}
    assert result["failed"] == [{"cell": "first", "network": "n", "method": "new", "why": "BackendError: no "
                                 "more"}]


@pytest.mark.parametrize("fails", [2, 20])
def test_a_cell_that_fails_leaves_the_others(one_cell, fails):
    result = one_cell({"base": Steps(fails), "new": Steps()})
    assert [cell["cell"] for cell in result["cells"]] == ["second"]
    assert result["failed"][-1]["cell"] == "first"


@pytest.mark.parametrize("rate", [0, 0.5])
def test_blocks_are_multiplied_in_one_launch(scripts, recorded_cuda, rate):
    """Each with the table of its own draw: results are those of products that leave out the same blocks."""
    steps = scripts.bench_steps.BlockProduct(recorded_cuda("bfloat16"), 64, rate, block=16)
    on = steps.backend
    assert steps.graph is not None
    for number in range(10):
        steps.step()
        got = [on.to_host(x).copy() for x in (steps.x.grad, steps.W.grad)]
        x, W, gy = (on.to_host(array).astype(float) for array in (steps.x.data, steps.W.data, steps.gy))
        lives = steps.draws[number % 8].grid(64).mask(64, 64) / (1 - rate) if rate else 1
        for array, expected in zip(got, ((gy @ W) * lives, gy.T @ (x * lives)), strict=True):
            np.testing.assert_allclose(array, expected, atol=0.02 * abs(expected).max())
