"""Nets grown at random, computed in two ways: compact and with masks, here and in ONNX, at once and resumed,
by one process and by several.

A few of them always; `sh scripts/test.sh --full` grows more. On a device they are compared in
tests/backend/test_random_nets_agree.py.
"""

import numpy as np
import pytest
from nets import ip, layer
from parallel_nets import feed, memory
from random_nets import FILLERS, MIXING, STEEP, a_solver, grown, same, seeds

import minidrop as md
from minidrop.testing import assert_matches_masked_dense, run_ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")     # some overflow


def weights(solver):
    return {name: parameter.numpy().copy() for name, parameter in solver.net.parameters().items()}


@seeds(40, 3000)
def test_compact_nets_equal_dense_ones_with_masks(seeds):
    dropped = 0
    for seed in seeds:
        own = grown(seed)
        net = own.net(*own.losses())
        for iteration in range(3):
            assert_matches_masked_dense(net, iteration, own.arrays(seed))
        dropped += bool(net.patterns)
    assert dropped > len(seeds) // 3


@seeds(12, 1000)
def test_nets_in_onnx(seeds, tmp_path):
    runtime = pytest.importorskip("onnxruntime", exc_type=ImportError)
    pytest.importorskip("onnx", exc_type=ImportError)
    for seed in seeds:
        own = grown(seed, {"LSTM", "GRU", "RNN", "LastState", *STEEP})   # the first begin each call anew
        net = own.net(phase="TEST", dtype="float32")
        given = {name: array.astype(np.float32) for name, array in own.arrays(seed).items()}
        md.export_onnx(net, tmp_path / "net.onnx", batch=None, outputs=own.ends)
        session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
        names = [one.name for one in session.get_outputs()]
        inputs = [one.name for one in session.get_inputs()]
        found = session.run(names, {name: given[name.partition("/")[0]] for name in inputs})
        expected = {str(name): tensor.numpy() for name, tensor in net.forward(**given).items()}
        for name, array in zip(names, found, strict=True):
            same(array, expected[name], f"{seed}: {name}", 2e-3, 2e-4)


@seeds(12, 500)
def test_resumed_trainings(seeds, tmp_path):
    for seed in seeds:
        own = grown(seed)
        if not own.trainable:
            continue
        net = "\n".join([*own.random_inputs(), *own.layers, *own.losses()])
        whole, begun, resumed = (a_solver(net, seed, snapshot_prefix=tmp_path / "s") for _ in range(3))
        whole.step(4)
        begun.step(2)
        resumed.restore(begun.snapshot())
        resumed.step(2)
        for name, expected in weights(whole).items():
            np.testing.assert_array_equal(weights(resumed)[name], expected, err_msg=f"{seed}: {name}")


@seeds(8, 400)
def test_several_ranks_train_as_one_process_or_say_what_differs(seeds, caplog):
    alike = 0
    for seed in seeds:
        channels, size = 2 + seed % 5, 1 + 5 * (seed % 2)
        own = grown(seed, MIXING | STEEP, {"data": (12, channels, size, size)})
        heads = [text for name in own.ends if len(own.shapes[name]) > 1 for text in (
            ip(f"scores_{name}", name, 7, fillers=FILLERS),
            layer("SoftmaxWithLoss", f"loss_{name}", f"scores_{name} label"))]
        if not heads:
            continue
        net = "\n".join([memory(channels, size), *own.layers, *heads])

        def train(communicator, net=net, seed=seed):
            solver = a_solver(net, seed, communicator=communicator)
            feed(solver)
            solver.step(3)
            return weights(solver)
        caplog.clear()
        expected, ranks = train(None), run_ranks(2 + seed % 3, train)
        if "depend on the number of ranks" in caplog.text:
            continue
        alike += 1
        for found in ranks:
            for name, one in expected.items():
                np.testing.assert_allclose(found[name], one, rtol=1e-8, atol=1e-9, err_msg=f"{seed}: {name}")
    assert alike > len(seeds) // 2
