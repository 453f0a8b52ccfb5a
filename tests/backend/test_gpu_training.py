"""Training on a GPU: as on the CPU, and the same bits whether steps are captured or not."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import minidrop as md
from minidrop.backend import cuda_devices
from minidrop.config import load_solver, parse_solver
from minidrop.data.sources import cache_dir
from minidrop.patterns import known_families

MNIST = Path(__file__).resolve().parents[2] / "models" / "mnist_mlp" / "solver.prototxt"
# Of the 10,000 images of the test set; rounding differs, and after some hundred iterations it has changed the
# weights.
MOST_ACCURACY_APART = 0.005
FIRST = 5               # iterations in which losses are still alike
UNCAPTURABLE = ("UNIT", "BLOCK")        # see solver.captured


@pytest.fixture
def device():
    count, reason = cuda_devices()
    if not count:
        pytest.skip(reason)
    return "cuda:0"


# -- both devices --------------------------------------------------------------------------------------------
@pytest.fixture
def images(tmp_path, monkeypatch):
    """MNIST where it is converted; else records as large, ten noisy pictures, under the same names."""
    if not (cache_dir() / "mnist" / "test.txt").is_file():
        make_images(tmp_path)
        monkeypatch.setenv("MINIDROP_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def make_images(folder):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (10, 784))
    (folder / "mnist").mkdir()
    for part, count in (("train", 20_000), ("test", 10_000)):
        label = rng.integers(0, 10, count)
        data = np.clip(pictures[label] + 400 * rng.standard_normal((count, 784)), 0, 255)
        with h5py.File(folder / "mnist" / f"{part}.h5", "w") as file:
            file["data"], file["label"] = data.astype(np.uint8), label
        (folder / "mnist" / f"{part}.txt").write_text(f"{part}.h5\n")


def train_mnist(device, iterations=500):
    """Return (losses of the first iterations, the test's values, every pattern drawn)."""
    solver = md.Solver(load_solver(MNIST), [f"max_iter={iterations}", f"test_interval={iterations}",
                                            "snapshot=0", "display=0", "snapshot_after_train=false"],
                       device=device)
    patterns = []
    solver.add_callback(lambda event: event.kind == "step" and patterns.append(
        [str(pattern) for pattern in solver.net.patterns.values()]))
    solver.step(FIRST)
    losses = list(solver.losses)
    values = solver.solve()
    solver.close()
    return losses, values, patterns


@pytest.mark.gpu
def test_mnist_mlp_is_as_accurate_on_both_devices(device, images):
    losses, values, patterns = train_mnist("cpu")
    on_gpu = train_mnist(device)
    assert len(patterns) == 500 and on_gpu[2] == patterns
    np.testing.assert_allclose(on_gpu[0], losses, rtol=1e-3)
    assert values["accuracy"] > 0.8
    assert abs(on_gpu[1]["accuracy"] - values["accuracy"]) <= MOST_ACCURACY_APART


# -- captured steps ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def nets():
    """The module test_emulated_nets.py, whose mlp(family) and text(family) are nets as lists of layers."""
    spec = importlib.util.spec_from_file_location("emulated_nets",
                                                  Path(__file__).with_name("test_emulated_nets.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(layers, device, rng, more="", launches=True, iterations=30, **options):
    """Return (losses, {name: parameter or history}, the solver)."""
    words = "cont" in layers[0]
    clip = "clip_gradients: 5" if words else ""         # a perceptron with a Sigmoid would not be captured
    text = (f"base_lr: 0.05 lr_policy: 'step' gamma: 0.5 stepsize: 12 momentum: 0.9 weight_decay: 0.001 "
            f"max_iter: 99 {clip} random_seed: 4 {more} net_param {{ {' '.join(layers)} }}")
    solver, losses = md.Solver(parse_solver(text), device=device, **options), []
    if solver.captured is not None:
        solver.captured.launches = launches
    for _ in range(iterations):
        shape = (5, 3) if words else 6
        batch = {"data": rng.integers(0, 11, shape) if words else rng.standard_normal((6, 13)),
                 "label": rng.integers(0, 11 if words else 7, shape)}
        if words:
            batch["cont"] = (rng.random(shape) > 0.2).astype(float)
        solver.net.set_inputs(**batch)
        solver.step()
        losses.append(solver.net.loss)
    solver.settle()         # raises what the device refused: then it has left the weights alone, however
                            # often it is asked
    host = solver.net.backend.to_host
    found = {name: p.numpy() for name, p in solver.net.parameters().items()}
    found |= {f"history {name} {i}": host(array).copy() for name, history in solver.updater.history.items()
              for i, array in enumerate(history)}
    return losses, found, solver


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", ["Dropout", "GaussianDropout", *known_families()])
@pytest.mark.parametrize("kind", ["mlp", "text"])
def test_captured_steps_are_the_uncaptured_ones_bit_for_bit(device, nets, kind, family, dtype):
    """The same work, captured and launched, or given to the device step by step."""
    layers = getattr(nets, kind)(family)
    if family == "GaussianDropout":
        layers = [line.replace('type: "Dropout"', f'type: "{family}"')
                  for line in getattr(nets, kind)("Dropout")]
    losses, found, solver = train(layers, device, np.random.default_rng(1), dtype=dtype)
    again, expected, plain = train(layers, device, np.random.default_rng(1), launches=False, dtype=dtype)
    assert losses == again
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name
    assert plain.captured.replayed == 0
    assert (solver.captured.replayed > 0) == solver.captured.active
    assert solver.captured.active == (family not in UNCAPTURABLE), solver.captured.problem


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("family", ["Dropout", "PERIODIC", "ROW", "TILE", "BLOCK"])
def test_captured_steps_in_lower_precision(device, nets, family, precision):
    """In bfloat16 alone kernels skip the blocks that BLOCK drops, so it is captured."""
    layers = nets.mlp(family)
    losses, found, solver = train(layers, device, np.random.default_rng(1), precision=precision)
    again, expected, _ = train(layers, device, np.random.default_rng(1), launches=False, precision=precision)
    assert losses == again
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name
    captured = family != "BLOCK" or precision == "bfloat16"
    assert (solver.captured.active,
            solver.captured.replayed > 0) == (captured, captured), solver.captured.problem


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["Dropout", *known_families()])
@pytest.mark.parametrize("kind", ["mlp", "text"])
def test_without_capturing_results_are_the_same_to_rounding(device, nets, kind, family):
    """Kept rows may then be multiplied where they lie, in another order of sums."""
    layers = getattr(nets, kind)(family)
    losses, found, _ = train(layers, device, np.random.default_rng(1), dtype="float64")
    again, expected, plain = train(layers, device, np.random.default_rng(1), "capture_steps: false",
                                   dtype="float64")
    assert plain.captured is None
    np.testing.assert_allclose(losses, again, rtol=1e-9)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-7, atol=1e-10, err_msg=name)
