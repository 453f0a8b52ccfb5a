"""Nets grown at random on an emulated device: passes and trainings in captured steps equal those on the CPU.

A few of them always; `sh scripts/test.sh --full` grows more.
"""

import pytest
from random_nets import STEEP, a_solver, grown, same, seeds

from minidrop.errors import NonFiniteError
from minidrop.testing.masked_dense import run_once
from tests.backend.captured_mlps import run

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")     # some overflow


@seeds(20, 1000)
def test_nets_on_a_device(emulated_cuda, seeds):
    for seed in seeds:
        own = grown(seed, STEEP)
        found, expected = (run_once(own.net(*own.losses(), device=device), 1, own.arrays(seed))
                           for device in (emulated_cuda(), "cpu"))
        for ours, theirs in zip(found, expected, strict=True):
            compare(ours, theirs, seed, 1e-9)


@seeds(12, 700)
def test_captured_trainings(recorded_cuda, seeds):
    captured = 0
    for seed in seeds:
        own = grown(seed, STEEP)
        if not own.trainable:
            continue
        net = "\n".join([*own.random_inputs(), *own.layers, *own.losses()])
        try:
            expected = run(a_solver(net, seed), 8)
        except NonFiniteError:
            continue
        on_a_device = a_solver(net, seed, device=recorded_cuda())
        compare(run(on_a_device, 8), expected, seed, 1e-6)
        captured += on_a_device.captured.replayed > 0
    assert captured > len(seeds) // 5


def compare(found, expected, seed, tolerance):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        same(found[name], array, f"{seed}: {name}", tolerance, tolerance)
