"""minidrop export: a trained net as an ONNX file."""

import h5py
import numpy as np
import pytest
from onnx_files import package, run

from minidrop import Net


@pytest.fixture
def export(tiny, minidrop):
    """Exports the tiny net with its weights in w.h5; `expected` is what it predicts for task/train.h5."""
    package()
    net = Net.from_file(tiny.net, phase="TEST", device="cpu", seed=5)
    net.save("w.h5")
    with h5py.File("task/train.h5") as file:
        tiny.x = file["data"][:]
    tiny.expected = net.predict(tiny.x)
    net.close()

    def call(*arguments, weights=("--weights", "w.h5")):
        return minidrop("export", "--model", tiny.net, *weights, "--onnx", "net.onnx", *arguments)
    return call


def test_a_train_val_file(tiny, export):
    done = export()
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == ["input data: N x 6", "output ip2_prob: N x 3",
                                     "net.onnx: 0.0 MB, opset 18"]
    found = run("net.onnx", {"data": tiny.x})["ip2_prob"]
    np.testing.assert_allclose(found, tiny.expected, rtol=1e-5, atol=1e-6)


def test_options(tiny, export):
    done = export("--output", "ip1", "--output", "ip2", "--batch", "records", "--opset", "19")
    assert done.out.splitlines()[:3] == ["input data: records x 6", "output ip1: records x 20",
                                         "output ip2: records x 3"]
    assert set(run("net.onnx", {"data": tiny.x})) == {"ip1", "ip2"}
    assert export("--fixed-batch").out.splitlines()[0] == "input data: 10 x 6"
    (tiny.folder / "train.txt").unlink()
    done = export()
    assert done.code == 1 and "(--shape 1,28,28), or the whole one" in done.err
    for shape in ("6", "data=4,6"):
        assert export("--shape", shape).out.splitlines()[0] == "input data: N x 6"


def test_mistakes(export):
    for arguments, expected in ((("--shape", "6", "--shape", "data=4,6"), "expected the shape of a record"),
                                (("--shape", "data="), "expected the shape of a record"),
                                (("--opset", "9"), "opset: expected 18 to"),
                                (("--output", "nothing"), "there is no blob 'nothing'"),
                                (("--output", "loss"), "there is no blob 'loss'")):
        done = export(*arguments)
        assert done.code and expected in done.err
    done = export(weights=())
    assert done.code == 2 and "give --weights" in done.err
