"""Captured iterations of attention: its own dropout, units of each head, whole heads."""

import nets
import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver

DATA = np.random.default_rng(7).standard_normal((24, 13, 1, 1)), np.random.default_rng(8).integers(0, 5, 24)


def net_text(drop, settings):
    """Three steps of two samples."""
    return "\n".join([
        'layer { name: "in" type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 6 '
        'channels: 13 height: 1 width: 1 } }',
        nets.layer("Reshape", "x", "data", more="reshape_param { shape { dim: 3 dim: 2 dim: 13 } }"),
        *(nets.ip(name, "x", 32, "axis: 2") for name in "qkv"),
        nets.layer("Attention", "att", "q k v", more=f"attention_param {{ num_heads: 4 {settings} }}"),
        nets.drop("drop", "att", drop, "att", "dropout_ratio: 0.5 axis: 2"),
        nets.ip("scores", "att", 5, "axis: 2"),
        nets.LOSS % "scores" + " # "]).replace('top: "loss" } # ', 'top: "loss" softmax_param { axis: 2 } }')


def train(device, drop, settings, launches=True):
    """Return all parameters after some iterations, and the solver."""
    solver = md.Solver(parse_solver("base_lr: 0.05 lr_policy: 'fixed' momentum: 0.9 max_iter: 99 "
                                    f"random_seed: 4 net_param {{ {net_text(drop, settings)} }}"),
                       device=device, dtype="float64")
    solver.net.set_input_arrays(*DATA)
    if solver.captured is not None:
        solver.captured.launches = launches
    for _ in range(14):
        solver.step()
    solver.settle()
    return {name: p.numpy() for name, p in solver.net.parameters().items()}, solver


@pytest.mark.parametrize("drop, settings", [
    ("PERIODIC", "causal: true dropout_ratio: 0.3"),
    pytest.param("PERIODIC heads: 4 groups: 2", "block_keys: 2", marks=pytest.mark.full),
    pytest.param("ROW heads: 4", "causal: true", marks=pytest.mark.full),
    ("ROW heads: 4 whole_heads: true", "causal: true dropout_ratio: 0.3")])
def test_captured_training_equals_that_on_the_cpu_and_the_uncaptured(recorded_cuda, drop, settings):
    expected, _ = train("cpu", drop, settings)
    found, whole = train(recorded_cuda(), drop, settings)
    assert whole.captured.problem == "" and whole.captured.replayed > 2
    uncaptured, _ = train(recorded_cuda(), drop, settings, launches=False)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-8, atol=1e-10, err_msg=name)
        np.testing.assert_array_equal(found[name], uncaptured[name], err_msg=name)
