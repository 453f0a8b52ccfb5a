"""minidrop check says of every drop what it saves and, where that is nothing or one side only, why."""

from pathlib import Path

import h5py
import numpy as np
import pytest

MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture
def mnist_mlp(tmp_path):
    """The model as it is shipped, beside a few records of the shape of MNIST's."""
    for name in ("train", "test"):
        (tmp_path / "mnist").mkdir(exist_ok=True)
        with h5py.File(tmp_path / "mnist" / f"{name}.h5", "w") as file:
            file["data"], file["label"] = np.zeros((3, 784), np.float32), np.zeros(3, np.int64)
        (tmp_path / "mnist" / f"{name}.txt").write_text(f"{name}.h5\n")
    path = tmp_path / "train_val.prototxt"
    path.write_text((MODELS / "mnist_mlp" / "train_val.prototxt").read_text())
    return path


# Dense, in MFLOP: ip1 2 * 2 * 128 * 784 * 2048 = 822.1, ip2 3 * 2 * 128 * 2048^2 = 3221.2, ip3 15.7; 4059.0
# together.
UNIT_PLAN = ["ip1 computes only the units kept by drop1", "ip2 reads only the units kept by drop1",
             "ip2 computes only the units kept by drop2", "ip3 reads only the units kept by drop2"]
UNITS = ["drop1 ({}) saves 1,216.3 MFLOP, 30.0% of the dense net's", "drop2 ({}) saves 813.2 MFLOP, 20.0% of "
         "the dense net's"]
TILES = ["drop1 ({}) saves 411.0 MFLOP, 10.1% of the dense net's, all in the weights of ip1",
         "drop2 ({}) saves 1,610.6 MFLOP, 39.7% of the dense net's, all in the weights of ip2"]


@pytest.mark.parametrize("family, plan, savings, total", [
    ("UNIT", UNIT_PLAN, UNITS, "1,224.2 (30.2%)"),
    ("SLICE", UNIT_PLAN, UNITS, "1,224.2 (30.2%)"),
    ("BLOCK", [line.replace("units", "blocks") for line in UNIT_PLAN], UNITS, "1,224.2 (30.2%)"),
    ("TILE", ["ip1 multiplies only the weights kept by drop1", "ip2 multiplies only the weights kept by "
              "drop2"], TILES,
     "2,037.4 (50.2%)"),
])
def test_the_model_of_mnist(mnist_mlp, minidrop, family, plan, savings, total):
    result = minidrop("check", mnist_mlp, "--dropout", f"approx:{family}")
    assert result.code == 0, result.err
    train, test = result.out.split("phase TEST")
    lines = [line.strip() for line in train.splitlines()]
    told = [line for line in lines if "kept by" in line or "saves" in line]
    assert told == plan + [line.format(family) for line in savings]
    scale = " and the scale of drop{}" if plan is UNIT_PLAN else ""
    assert [line for line in lines if " applies " in line] == [f"ip{i} applies relu{i}{scale.format(i)}"
                                                               for i in (1, 2)]
    assert next(line for line in lines
                if line.startswith("total")).split(maxsplit=2)[2] == f"4,059.0  {total}"
    assert "saves" not in test and "with drops" not in test


NET = """
layer { name: "in" type: "Input" top: "x" top: "t"
  input_param { shape { dim: 8 dim: 20 } shape { dim: 8 dim: 10 } } }
layer { name: "data_drop" type: "ApproxDropout" bottom: "x" top: "x1" }
layer { name: "ip1" type: "InnerProduct" bottom: "x1" top: "ip1" inner_product_param { num_output: 10 } }
layer { name: "act" type: "%s" bottom: "ip1" top: "act" }
layer { name: "drop1" type: "ApproxDropout" bottom: "act" top: "drop1"
  approx_dropout_param { dropout_ratio: %s } }
layer { name: "loss" type: "EuclideanLoss" bottom: "drop1" bottom: "t" top: "loss" }
"""
READS_X = "blob x is written by in (Input), which computes all of it"
EXPANDS = "the units dropped by drop1 are put back as zeros before loss (EuclideanLoss)"
WRITES_ACT = "blob act is written by act (Softmax), which computes all of it"


# ip1: 2 * 2 * 8 * 20 * 10 = 6,400 operations; its input is not trained, and has no gradient.
@pytest.mark.parametrize("family, act, rate, told", [
    ("UNIT", "ReLU", 0.5, [
        f"data_drop gathers: {READS_X}", "ip1 reads only the units kept by data_drop",
        "ip1 computes only the units kept by drop1", EXPANDS,
        "data_drop (UNIT) saves 0.0016 MFLOP, 25.0% of the dense net's, all in ip1",
        "drop1 (UNIT) saves 0.0016 MFLOP, 25.0% of the dense net's, all in ip1"]),
    ("UNIT", "Softmax", 0.5, [
        f"data_drop gathers: {READS_X}", "ip1 reads only the units kept by data_drop", f"drop1 gathers: "
        f"{WRITES_ACT}", EXPANDS,
        "drop1 saves nothing: no product computes or reads its units",
        "data_drop (UNIT) saves 0.0032 MFLOP, 50.0% of the dense net's, all in ip1"]),
    ("TILE", "ReLU", 0.5, [
        f"data_drop gathers runs of units, and drops no weights: {READS_X}",
        "the units dropped by data_drop are put back as zeros before ip1 (InnerProduct)",
        "ip1 reads all of data_drop: it serves the drop below it, which drops weights",
        "data_drop saves nothing: no product computes or reads its units", "ip1 multiplies only the weights "
        "kept by drop1", "drop1 (TILE) saves 0.0032 MFLOP, 50.0% of the dense net's, all in the weights of "
        "ip1"]),
    ("BLOCK", "Softmax", 0.5, [
        f"data_drop multiplies by a mask: {READS_X}", "ip1 reads only the blocks kept by data_drop",
        f"drop1 multiplies by a mask: {WRITES_ACT}", "loss reads all of drop1: it cannot leave anything out",
        "drop1 saves nothing: no product computes or reads its blocks",
        "data_drop (BLOCK) saves 0.0032 MFLOP, 50.0% of the dense net's, all in ip1"]),
    ("SLICE", "ReLU", 0, [
        f"data_drop gathers: {READS_X}", "ip1 reads only the units kept by data_drop",
        "ip1 computes only the units kept by drop1", EXPANDS,
        "data_drop (SLICE) saves 0.0032 MFLOP, 50.0% of the dense net's, all in ip1",
        "drop1 (SLICE) saves nothing: dropout_ratio is 0"]),
])
def test_a_net_where_drops_save_little_or_nothing(tmp_path, minidrop, family, act, rate, told):
    path = tmp_path / "net.prototxt"
    path.write_text(NET % (act, rate))
    out = minidrop("check", path, "--phase", "TRAIN", "--dropout", f"approx:{family}").out
    after_table = out.split("one batch", 1)[1].splitlines()[1:]
    assert [line.strip() for line in after_table if line.strip()] == told


def test_a_pattern_fitted_to_a_narrow_layer_is_said(tmp_path, minidrop):
    path = tmp_path / "net.prototxt"
    path.write_text(NET % ("ReLU", 0.5))
    out = minidrop("check", path, "--phase", "TRAIN").out
    assert "drop1 keeps 5 of 10, not 15 of 30: it has 10 units, and no iteration drops all" in out
