"""Caffe's solver states: a run goes on from one bit for bit, with every rule; what does not fit."""

import os

import h5py
import numpy as np
import pytest

import minidrop as md
from minidrop.config import minidrop_pb2 as pb
from minidrop.config import parse_solver
from minidrop.snapshot.caffe_file import read_binary_state, read_binary_weights
from minidrop.snapshot.caffe_hdf5 import read_hdf5_state

RULES = {"SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "AdaGrad": "", "RMSProp": "rms_decay: 0.9",
         "AdaDelta": "momentum: 0.9 delta: 1e-6", "Adam": "momentum: 0.9",
         "AdamW": "momentum: 0.9"}
NET = """
layer { name: "data" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 4 channels: 6 height: 1 width: 1 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" param { } param { lr_mult: 2 }
        inner_product_param { num_output: 20 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "ip1" }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "ApproxDropout" bottom: "ip1" top: "drop1"
        approx_dropout_param { dropout_ratio: 0.5 } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2" param { lr_mult: 0 }
        inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""


def make(rule="SGD", more="", seed=3, net=NET, dtype="float32"):
    text = (f"type: '{rule}' {RULES[rule]} base_lr: 0.05 lr_policy: 'multistep' gamma: 0.5 stepvalue: 2 "
            f"stepvalue: 4 weight_decay: 0.01 max_iter: 9 random_seed: {seed} solver_mode: CPU {more} "
            f"net_param {{ {net} }}")
    solver = md.Solver(parse_solver(text), dtype=dtype, device="cpu")
    rng = np.random.default_rng(0)
    solver.net.set_input_arrays(rng.normal(size=(14, 6, 1, 1)), rng.integers(0, 5, 14))
    return solver


def state_of(solver):
    arrays = {name: p.data.copy() for name, p in solver.net.parameters().items()}
    arrays.update({f"{name}/{i}": h.copy() for name, own in solver.updater.history.items()
                   for i, h in enumerate(own)})
    return arrays


def assert_same(a, b):
    a, b = state_of(a), state_of(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize("ending", ["solverstate", "solverstate.h5"])
@pytest.mark.parametrize("rule", RULES)
def test_a_run_goes_on_as_if_it_had_never_stopped(tmp_path, rule, ending):
    whole, first = make(rule, "iter_size: 2"), make(rule, "iter_size: 2")
    whole.step(6)
    first.step(5)
    weights = first.save_solverstate(tmp_path / f"x_iter_5.{ending}")
    assert weights == tmp_path / f"x_iter_5.{ending.replace('solverstate', 'caffemodel')}"
    second = make(rule, "iter_size: 2")
    second.step(2)          # of this nothing may be left
    second.restore(tmp_path / f"x_iter_5.{ending}")
    assert second.iteration == 5 and not second.is_saved
    assert_same(first, second)
    second.step(1)
    assert_same(whole, second)


@pytest.mark.parametrize("form, end", [("BINARYPROTO", ""), ("HDF5", ".h5")])
def test_training_writes_caffes_files_where_the_solver_names_a_format(tmp_path, form, end):
    prefix = f"snapshot: 2 snapshot_prefix: '{tmp_path}/a.b' snapshot_format: {form} snapshot_keep: 1"
    solver = make(more=prefix)
    solver.step(4)
    kept = {int(path.name.split("_iter_")[1].split(".")[0]) for path in tmp_path.iterdir()}
    endings = ".h5", f".caffemodel{end}", f".solverstate{end}"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"a.b_iter_{n}{one}" for n in kept for one in endings}
    assert 4 in kept and 2 not in kept or solver.written.best.name == "a.b_iter_2.h5"
    again = make()
    again.restore(tmp_path / f"a.b_iter_4.solverstate{end}")
    assert_same(solver, again)
    solver.snapshot(tmp_path / "by_name.h5")
    assert not list(tmp_path.glob("by_name.*[el]"))


def test_a_state_that_is_not_there_is_the_snapshot_in_its_place(tmp_path, caplog):
    solver = make(more=f"snapshot: 2 snapshot_prefix: '{tmp_path}/a'")
    solver.step(2)
    again = make()
    with caplog.at_level("INFO", "minidrop"):
        again.restore(tmp_path / "a_iter_2.solverstate.h5")
    assert_same(solver, again)
    again.restore(os.fsencode(tmp_path / "a_iter_2.solverstate"))
    assert again.last_snapshot == tmp_path / "a_iter_2.h5" and "is not there: going on from" in caplog.text
    with pytest.raises(md.SnapshotError, match="a_iter_3.solverstate: there is no such"):
        again.restore(tmp_path / "a_iter_3.solverstate")


@pytest.mark.parametrize("rule, slots", [("SGD", 1), ("Adam", 2)])
def test_files_are_in_caffes_order(tmp_path, rule, slots):
    solver = make(rule)
    solver.step(5)
    solver.save_solverstate(tmp_path / "x.solverstate")
    message = pb.SolverState()
    message.ParseFromString((tmp_path / "x.solverstate").read_bytes())
    assert (message.iter, message.current_step) == (5, 2)       # of iteration 4, the last that was done
    assert message.learned_net == str(tmp_path / "x.caffemodel")
    names = ["ip1/weight", "ip1/bias", "bn/mean", "bn/variance", "bn/scale_factor", "ip2/weight", "ip2/bias"]
    assert names == list(solver.net.parameters())
    for i, blob in enumerate(message.history):
        slot, name = divmod(i, len(names))
        history = solver.updater.history.get(names[name])
        expected = np.zeros(blob.shape.dim) if history is None else history[slot]
        np.testing.assert_array_equal(np.reshape(blob.data, blob.shape.dim), expected)
    assert len(message.history) == slots * len(names)
    solver.save_solverstate(tmp_path / "x.solverstate.h5")
    with h5py.File(tmp_path / "x.solverstate.h5") as file:
        assert file["iter"][0] == 5 and file["iter"].dtype == np.int32 and file["current_step"][0] == 2
        assert file["learned_net"][()].decode() == str(tmp_path / "x.caffemodel.h5")
        assert file["learned_net"].dtype.itemsize == 1 + len(str(tmp_path / "x.caffemodel.h5"))
        assert sorted(file["history"], key=int) == [str(i) for i in range(len(message.history))]


def test_float64_stays_float64(tmp_path):
    first, second = make(dtype="float64"), make(dtype="float64", seed=3)
    first.step(3)
    first.save_solverstate(tmp_path / "x.solverstate")
    second.restore(tmp_path / "x.solverstate")
    assert_same(first, second)
    assert read_binary_weights(tmp_path / "x.caffemodel").layers["ip1"][0].array.dtype == np.float64


def test_weights_are_found_as_written_or_beside(tmp_path, monkeypatch):
    first = make()
    first.step(2)
    (tmp_path / "old").mkdir()
    first.save_solverstate(tmp_path / "old" / "x.solverstate")
    (tmp_path / "old").rename(tmp_path / "new")
    second = make()
    second.restore(tmp_path / "new" / "x.solverstate")
    assert_same(first, second)
    (tmp_path / "new" / "x.caffemodel").unlink()
    before, third = state_of(second), make()
    with pytest.raises(md.SnapshotError, match="its weights are not found as .*old/x.caffemodel' nor as .*"
                                               "new/x.caffemodel'; put them beside it"):
        second.restore(tmp_path / "new" / "x.solverstate")
    assert all(np.array_equal(before[name], value) for name, value in state_of(second).items())
    assert third.iteration == 0


def damaged(path, change):
    message = pb.SolverState()
    message.ParseFromString(path.read_bytes())
    change(message)
    path.write_bytes(message.SerializeToString())


@pytest.mark.parametrize("change, text", [
    (lambda m: m.history.pop(), "expected a history of 7 arrays, one for each of the 7 parameters as of "
                                "solver type 'SGD', got 6"),
    (lambda m: m.history.extend(list(m.history)), "got 14; the solver's type, or the net, is another one"),
    (lambda m: m.history[0].shape.dim.reverse(), r"history of ip1/weight has shape \(6, 20\), this net"),
    (lambda m: m.history[1].data.__setitem__(0, np.nan), "the history of ip1/bias is not finite"),
    (lambda m: m.ClearField("learned_net"), "names no file of weights"),
    (lambda m: setattr(m, "iter", -1), "iterations were done")])
def test_states_that_do_not_fit_change_nothing(tmp_path, change, text):
    solver, other = make(), make(seed=4)
    solver.step(2)
    path = tmp_path / "x.solverstate"
    solver.save_solverstate(path)
    damaged(path, change)
    other.step(1)
    before = state_of(other)
    with pytest.raises(md.SnapshotError, match=text):
        other.restore(path)
    assert other.iteration == 1
    assert all(np.array_equal(before[name], value) for name, value in state_of(other).items())


def test_other_names_and_numbers_that_are_none(tmp_path):
    solver = make()
    with pytest.raises(md.SnapshotError, match="ends in .solverstate or .solverstate.h5"):
        solver.save_solverstate(tmp_path / "x.h5")
    solver.net.params["ip1"]["bias"].data[0] = np.nan
    with pytest.raises(md.NonFiniteError, match="no solver state was written"):
        solver.save_solverstate(tmp_path / "x.solverstate")
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_caffes_without_steps(tmp_path):
    """Old states lack current_step; weights may be HDF5 beside a binary state."""
    solver = make()
    solver.step(2)
    solver.save_solverstate(tmp_path / "x.solverstate")
    solver.net.save(tmp_path / "y.caffemodel.h5")

    def change(message):
        message.ClearField("current_step")
        message.learned_net = "snapshots/y.caffemodel.h5"

    damaged(tmp_path / "x.solverstate", change)
    other = make()
    other.restore(tmp_path / "x.solverstate")
    assert_same(solver, other)
    assert read_binary_state(tmp_path / "x.solverstate").current_step == 0
    solver.save_solverstate(tmp_path / "x.solverstate.h5")
    assert read_hdf5_state(tmp_path / "x.solverstate.h5").iteration == 2
