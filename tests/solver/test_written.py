"""Which snapshots are a run's own, which stays after a divergence, and that none holds a NaN."""

import os

import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.errors import SnapshotError
from minidrop.snapshot import Snapshot, read_header, read_snapshot, under_prefix, write_snapshot
from minidrop.solver.written import Written

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 8 dim: 6 } shape { dim: 8 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
MINE, OTHER = "0" * 16, "f" * 16


def make(folder, run=MINE):
    solver = md.Solver(parse_solver(f"base_lr: 0.05 lr_policy: 'fixed' max_iter: 12 random_seed: 3 "
                                    f"solver_mode: CPU net_param {{ {NET} }}"))
    solver.place_snapshots(folder / "x", run)
    return solver


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(folder, losses, run=MINE):
    """Write x_iter_N.h5 for {N: loss} of a run."""
    for iteration, loss in losses.items():
        attrs = {"iteration": iteration, "loss": loss, **({"run": run} if run else {})}
        write_snapshot(folder / f"x_iter_{iteration}.h5", Snapshot({}, attrs))


def test_a_seal_names_run_and_loss(tmp_path):
    solver = make(tmp_path)
    solver.step(2)
    path = solver.snapshot()
    ((seal, found),) = under_prefix(tmp_path / "x")
    assert found == path and seal.run == read_header(path)["run"] == MINE
    assert seal.loss == read_header(path)["loss"] == solver.smoothed_loss


def test_one_of_a_run_without_a_name_is_as_before(tmp_path):
    path = make(tmp_path, "").snapshot()
    assert path.read_bytes().startswith(b"minidrop snapshot 1\niteration 0\nbytes ")
    ((seal, _),) = under_prefix(tmp_path / "x")
    assert seal.run == "" and np.isnan(seal.loss)
    make(tmp_path).restore(path)


def test_a_forged_run_is_refused(tmp_path):
    solver = make(tmp_path)
    path = solver.snapshot()
    with pytest.raises(md.SnapshotError, match="attribute 'run': expected 16 hexadecimal digits"):
        write_snapshot(path, Snapshot({}, {"run": "../x"}))
    path.write_bytes(path.read_bytes().replace(MINE.encode(), b"../../../../../x", 1))
    with pytest.raises(md.SnapshotError, match=r"damaged \(its first lines\)"):
        solver.restore(path)


def test_no_clock_decides_which_is_the_newest(tmp_path):
    fill(tmp_path, {5: 3.0, 6: 2.5})
    os.utime(tmp_path / "x_iter_5.h5", (2**32, 2**32))
    os.utime(tmp_path / "x_iter_6.h5", (0, 0))
    write_snapshot(tmp_path / "x_best.h5", Snapshot({}, {"iteration": 6}))
    write_snapshot(tmp_path / "x_low_iter_9.h5", Snapshot({}, {"iteration": 9}))        # another prefix
    assert [path.name for _, path in under_prefix(tmp_path / "x")] == ["x_iter_6.h5", "x_best.h5",
                                                                     "x_iter_5.h5"]


def test_the_others_do_not_count(tmp_path):
    fill(tmp_path, {5: 3.0, 6: 2.5})
    fill(tmp_path, {10: 1.0, 20: 1.0}, OTHER)
    Written(MINE).prune(tmp_path / "x", 1, tmp_path / "x_iter_6.h5")
    assert names(tmp_path) == ["x_iter_10.h5", "x_iter_20.h5", "x_iter_6.h5"]


def test_a_resumed_run_knows_what_it_wrote_before(tmp_path):
    fill(tmp_path, {1: 2.0, 2: 0.5, 3: 0.7, 4: float("nan"), 5: 9.0, 7: 0.1})
    fill(tmp_path, {6: 0.2}, OTHER)
    solver = make(tmp_path)
    solver.restore(solver.snapshot())
    assert solver.written.best is None              # from iteration 0 nothing that came later counts
    solver.written.recall(tmp_path / "x", 5)
    assert solver.written.best == tmp_path / "x_iter_2.h5"
    assert solver.written.advice() == (f"; the last snapshot is {tmp_path}/x_iter_5.h5, that of the lowest "
                                       f"loss (0.5) is {tmp_path}/x_iter_2.h5")
    solver.written.prune(tmp_path / "x", 2, tmp_path / "x_iter_5.h5")
    assert names(tmp_path) == ["x_iter_2.h5", "x_iter_5.h5", "x_iter_6.h5", "x_iter_7.h5"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_is_written_or_restored_that_is_not_finite(tmp_path, value):
    solver = make(tmp_path)
    path = solver.snapshot()
    parameter = solver.net.params["ip"]["weight"]
    whole = parameter.data.copy()
    parameter.data[1, 2] = value
    with pytest.raises(md.NonFiniteError,
                       match="iteration 0: data/ip/weight is not finite, so no snapshot was written"):
        solver.snapshot(tmp_path / "y.h5")
    assert names(tmp_path) == ["x_iter_0.h5"]
    parameter.data[...] = whole
    old = read_snapshot(path)
    old.arrays["solver/history/ip/weight/0"][0, 0] = value
    write_snapshot(path, old)
    with pytest.raises(md.SnapshotError, match="history/ip/weight/0 is not finite; use an older one"):
        solver.restore(path)
    np.testing.assert_array_equal(parameter.data, whole)


def test_an_old_file_of_caffes_that_cannot_be_deleted(tmp_path):
    fill(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0})
    (tmp_path / "x_iter_1.caffemodel").mkdir()
    with pytest.raises(SnapshotError, match="x_iter_1.caffemodel: an old file could not be deleted: "):
        Written(MINE).prune(tmp_path / "x", 1, tmp_path / "x_iter_3.h5", [".solverstate", ".caffemodel"])
