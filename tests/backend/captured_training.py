"""Trainings on the CPU and on a recorded GPU, captured or not, that must end with the same weights."""

import numpy as np

import minidrop as md
from minidrop.config import parse_solver


def train(device, text, data=(), launches=True, iterations=14, settings="base_lr: 0.05"):
    """Return all parameters, statistics too, after some iterations in float64, and the solver.

    text: the net, of momentum SGD with `settings`. data: arrays of its MemoryData layer, if it has one.
    launches: whether captured iterations are replayed.
    """
    config = parse_solver(f"{settings} lr_policy: 'fixed' momentum: 0.9 max_iter: 99 random_seed: 4 "
                          f"net_param {{ {text} }}")
    solver = md.Solver(config, device=device, dtype="float64")
    if data:
        solver.net.set_input_arrays(*data)
    if solver.captured is not None:
        solver.captured.launches = launches
    for _ in range(iterations):
        solver.step()
    solver.settle()
    return {name: p.numpy() for name, p in solver.net.parameters().items()}, solver


def assert_close(found, expected, rtol=1e-8, atol=1e-10):
    """Two results of `train` on different devices are equal up to rounding."""
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=atol, err_msg=name)


def assert_captured(device, text, data=(), least=3, rtol=1e-8, atol=1e-10, **settings):
    """Captured training equals that on the CPU up to rounding, and the uncaptured to the last bit.

    device: makes a recorded one. least: how many iterations are replayed at least. Returns the names of the
    kernels that were launched.
    """
    on = device()
    on.kernels.launches.clear()
    found, whole = train(on, text, data, **settings)
    ran = set(on.kernels.launches)
    assert whole.captured.problem == "" and whole.captured.replayed >= least
    uncaptured, _ = train(device(), text, data, launches=False, **settings)
    for name, value in uncaptured.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert_close(found, train("cpu", text, data, **settings)[0], rtol, atol)
    return ran
