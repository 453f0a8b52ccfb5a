"""A small net on small HDF5 files, and the command line in this process."""

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

NET = """
name: "tiny"
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TRAIN }
        hdf5_data_param { source: "train.txt" batch_size: 8 shuffle: true } }
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TEST }
        hdf5_data_param { source: "train.txt" batch_size: 10 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param { num_output: 20 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
  approx_dropout_param { dropout_ratio: 0.5 } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt"
test_iter: 2
test_interval: 20
base_lr: 0.05
lr_policy: "fixed"
momentum: 0.9
display: 5
max_iter: 40
snapshot: 10
random_seed: 3
solver_mode: CPU
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The working folder, with task/net.prototxt and task/solver.prototxt; `solver` and `net` are their paths
    in it."""
    folder = tmp_path / "task"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with h5py.File(folder / "train.h5", "w") as file:
        file["data"] = rng.normal(size=(50, 6)).astype(np.float32)
        file["label"] = rng.integers(3, size=50)
    (folder / "train.txt").write_text("train.h5\n")
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(path=tmp_path, folder=folder, solver="task/solver.prototxt",
                           net="task/net.prototxt")


@pytest.fixture
def minidrop(capsys):
    """Run one command line here: minidrop("train", "--solver", ...) -> code, out, err."""
    from minidrop.cli import run

    def call(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return SimpleNamespace(code=code, out=out, err=err)
    return call


@pytest.fixture
def weights_of():
    """Return {array: values} of a snapshot, everything it holds."""
    from minidrop.snapshot import read_snapshot

    def read(path: Path):
        return read_snapshot(path).arrays
    return read
