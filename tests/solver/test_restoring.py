"""Snapshots of a solver: which there are, what restoring brings back, and what is refused."""

import numpy as np
import pytest
from tiny_solver import BASE, NET, RULES, assert_same_weights, events_of, make, weights

import minidrop as md
from minidrop.config import parse_solver
from minidrop.snapshot import Snapshot, write_snapshot


@pytest.mark.parametrize("rule", RULES)
def test_resumed_run_equals_uninterrupted_run(tmp_path, rule):
    base = (f"base_lr: 0.05 lr_policy: 'fixed' type: '{rule}' {RULES[rule]} weight_decay: 0.01 max_iter: 12 "
            f"random_seed: 3 ")
    settings = "snapshot: 5 average_loss: 4 iter_size: 2 test_iter: 2 test_interval: 4"
    whole = make(settings, tmp_path, base=base, dtype="float32")
    all_events = events_of(whole)
    whole.solve()
    resumed = make(settings, tmp_path / "second", base=base, dtype="float32")
    resumed.restore(tmp_path / "tiny_iter_5.h5")
    assert resumed.iteration == 5
    events = events_of(resumed)
    resumed.solve()
    assert_same_weights(whole, resumed)
    wanted = [e for e in all_events if e.iteration > 5 and e.kind != "snapshot"]
    assert [e for e in events if e.kind != "snapshot"] == wanted


def test_nets_held_before_restore_are_those_that_go_on(tmp_path):
    base = BASE.replace("random_seed: 3", "")
    whole, solver = (make("test_iter: 1 test_interval: 2", tmp_path, base=base) for _ in range(2))
    whole.step(3)
    net, tested = solver.net, solver.test_nets[0]
    solver.restore(whole.snapshot())
    assert solver.seed == whole.seed and solver.net is net and solver.test_nets == [tested]
    assert net.seed == whole.seed
    for one in (whole, solver):
        one.step(2)
    assert_same_weights(whole, solver)
    for name, parameter in net.parameters().items():
        assert parameter is tested.parameters()[name] is solver.updater.parameters[name]
    net.forward()
    assert net.draws["drop1"].kept == net.blobs["drop1"].kept


def test_restore_brings_back_a_random_seed(tmp_path):
    base = BASE.replace("random_seed: 3", "")
    first, second = (make(base=base, tmp_path=tmp_path) for _ in range(2))
    first.step(2)
    path = first.snapshot()
    second.restore(path)
    assert second.seed == first.seed
    first.step(3)
    second.step(3)
    assert_same_weights(first, second)


class TestRestoreRefuses:
    def snapshot(self, tmp_path):
        solver = make(tmp_path=tmp_path)
        solver.step(2)
        return solver.snapshot()

    @pytest.mark.parametrize("options, message", [
        ({"net": NET.replace("num_output: 20", "num_output: 24")},
         r"data/ip1/weight has shape \(20, 6\), this net expects \(24, 6\)\. Did num_output"),
        ({"net": NET.replace('"ip2"', '"score"')},
         r"is no snapshot of this net: it has no data/score/weight; did you mean"),
        ({"base": BASE.replace("random_seed: 3", "random_seed: 4")}, r"random_seed 3, this solver says 4"),
        ({"base": BASE + "type: 'Nesterov'"}, r"written by solver type 'SGD', this one is 'Nesterov'"),
    ])
    def test_what_does_not_fit_and_changes_nothing(self, tmp_path, options, message):
        path = self.snapshot(tmp_path)
        solver = make(**options)
        before = weights(solver)
        with pytest.raises(md.SnapshotError, match=message):
            solver.restore(path)
        assert solver.iteration == 0
        for name, value in weights(solver).items():
            np.testing.assert_array_equal(value, before[name])

    def test_weights_without_solver_state(self, tmp_path):
        from minidrop.snapshot import Snapshot, write_snapshot
        write_snapshot(tmp_path / "weights.h5", Snapshot({"data/ip1/bias": np.zeros(20)}, {"iteration": 0}))
        with pytest.raises(md.SnapshotError, match="no solver state; give it with --weights"):
            make().restore(tmp_path / "weights.h5")


class TestLoadWeights:
    def test_copies_by_name_and_says_what_it_left(self, tmp_path, caplog):
        first = make(tmp_path=tmp_path)
        first.step(2)
        path = first.snapshot()
        other = make(net=NET.replace('name: "ip2"', 'name: "score"'))
        copied, left = md.load_weights(other.net, path)
        assert copied == ["ip1/weight", "ip1/bias"]
        assert left == ["score/weight (not in the file)", "score/bias (not in the file)", "ip2/bias (not in "
                        "the net)", "ip2/weight (not in the net)"]
        assert "not copied: score/weight" in caplog.text
        np.testing.assert_array_equal(weights(other)["ip1/weight"], weights(first)["ip1/weight"])

    @pytest.mark.parametrize("value, dtype, fits", [
        (np.nan, "float32", False), (np.inf, "float32", False), (1e300, "float32", False),
        (1e300, "float64", True)])
    def test_weights_that_are_no_finite_numbers_are_refused(self, value, dtype, fits, tmp_path):
        solver = md.Solver(parse_solver(f"{BASE} net_param {{ {NET} }}"), device="cpu", dtype=dtype)
        before = solver.net.params["ip2"]["bias"].data.copy()
        arrays = {"data/ip2/weight": np.full((5, 20), value), "data/ip2/bias": np.full(5, 7.0)}
        write_snapshot(tmp_path / "w.h5", Snapshot(arrays, {}))
        if fits:
            md.load_weights(solver.net, tmp_path / "w.h5")
            assert (solver.net.params["ip2"]["weight"].data == value).all()
            return
        with pytest.raises(md.SnapshotError, match="w.h5: ip2/weight has a NaN, an infinity or a number too "
                                                   "large for float32"):
            md.load_weights(solver.net, tmp_path / "w.h5")
        np.testing.assert_array_equal(solver.net.params["ip2"]["bias"].data, before)

    def test_refuses_when_nothing_fits_or_a_shape_differs(self, tmp_path):
        path = make(tmp_path=tmp_path).snapshot()
        renamed = NET.replace('"ip1"', '"a"').replace('"ip2"', '"b"')
        with pytest.raises(md.SnapshotError, match="holds no parameter of this net"):
            md.load_weights(make(net=renamed).net, path)
        with pytest.raises(md.SnapshotError,
                           match=r"ip1/weight has shape \(20, 6\), this net expects \(9, 6\)"):
            md.load_weights(make(net=NET.replace("num_output: 20", "num_output: 9")).net, path)


@pytest.mark.parametrize("best, warned", [("loss", True), ("-loss", False), ("accuracy", False)])
def test_the_best_by_a_loss_is_asked_for_with_a_minus(best, warned, caplog):
    make(f"snapshot: 2 snapshot_best: '{best}' test_iter: 1 test_interval: 3")
    assert [line for line in caplog.messages if "snapshot_best" in line] == [
        '<string>:2:14: snapshot_best keeps the snapshot where loss is highest, which is the worst; "-loss" '
        'asks for the lowest'] * warned


def test_keeps_the_newest_and_the_best(tmp_path):
    solver = make("snapshot: 2 snapshot_keep: 2 snapshot_best: '-loss' test_iter: 1 test_interval: 3",
                  tmp_path)
    events = events_of(solver)
    solver.solve()
    values = {e.iteration: e.values["loss"] for e in events if e.kind == "test"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny_best.h5", "tiny_iter_10.h5",
                                                          "tiny_iter_12.h5"]
    from minidrop.snapshot import read_header
    assert read_header(tmp_path / "tiny_best.h5")["iteration"] == min(values, key=values.get)
    assert solver.best == min(values.values())


def test_unknown_best_output_is_found_before_training():
    with pytest.raises(md.ConfigError,
                       match=r"test nets have no output 'acuracy'; did you mean 'accuracy'\?"):
        make("test_iter: 1 test_interval: 3 snapshot_best: 'acuracy'")


@pytest.mark.parametrize("what, value, message", [
    ("iteration", "abc", "iteration to be an integer from 0 on, got 'abc'"),
    ("iteration", -5, "iteration to be an integer from 0 on, got -5"),
    ("iteration", 1.5, "iteration to be an integer from 0 on, got 1.5"),
    ("seed", "x", "seed to be an integer from 0 on, got 'x'"),
    ("best", "x", "best to be a number, got 'x'"),
    ("solver/losses", np.zeros((2, 2)), "solver/losses to be a row of floats"),
    ("solver/losses", np.array(1.0), "solver/losses to be a row of floats"),
    ("positions/data", np.array(3), "positions/data to be one number from 0 on"),
    ("positions/data", np.array([], np.int64), "positions/data to be one number from 0 on"),
    ("positions/data", np.array([-3]), "positions/data to be one number from 0 on"),
    ("positions/data", np.array([np.nan]), "positions/data to be one number from 0 on"),
])
def test_a_forged_state_is_refused_and_changes_nothing(tmp_path, what, value, message):
    """The checksum says only that a file is whole; anybody can write one."""
    from minidrop.snapshot import read_snapshot, write_snapshot
    solver = make()
    solver.step(2)
    path = solver.snapshot(tmp_path / "forged.h5")
    snapshot = read_snapshot(path)
    (snapshot.arrays if "/" in what else snapshot.attrs)[what] = value
    write_snapshot(path, snapshot)
    before = weights(solver)
    with pytest.raises(md.SnapshotError, match=message):
        solver.restore(path)
    assert solver.iteration == 2
    for name, kept in before.items():
        np.testing.assert_array_equal(kept, weights(solver)[name])


def test_restoring_a_drawn_seed_keeps_the_arrays_that_were_set(tmp_path):
    net = """layer { name: "data" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 4 channels: 6 height: 1 width: 1 } }
      layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3
        weight_filler { type: "msra" } } }
      layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }"""
    rng = np.random.default_rng(0)
    first, second = (make(net=net, base=BASE.replace("random_seed: 3", ""), tmp_path=tmp_path)
                     for _ in range(2))
    x, y = rng.standard_normal((16, 6, 1, 1)), rng.integers(0, 3, 16)
    for solver in (first, second):
        solver.net.set_input_arrays(x, y)
    first.step(3)
    second.restore(first.snapshot())
    for solver in (first, second):
        solver.step(3)
    assert_same_weights(first, second)


# -- which snapshots there are -------------------------------------------------------------------------------
def test_the_snapshot_of_the_lowest_loss_stays_and_is_recommended(tmp_path):
    solver = make("snapshot: 1 snapshot_keep: 2 snapshot_after_train: false", tmp_path)
    losses = iter([3.0, 1.0, 2.0, 5.0, 9.0, 20.0])

    def diverge(event):
        if event.kind == "step":
            solver.losses.clear()
            solver.losses.append(next(losses))
    solver.add_callback(diverge)
    solver.step(6)
    names = sorted(path.name for path in tmp_path.glob("*.h5"))
    assert names == ["tiny_iter_2.h5", "tiny_iter_5.h5", "tiny_iter_6.h5"]
    assert solver.written.advice() == (f"; the last snapshot is {tmp_path}/tiny_iter_6.h5, that of the "
                                       f"lowest loss (1) is {tmp_path}/tiny_iter_2.h5")


def test_a_script_without_a_prefix_finds_no_files_it_did_not_ask_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = "test_iter: 1 test_interval: 2 snapshot_best: '-loss'"
    solver = md.Solver(parse_solver(f"{BASE} {settings} solver_mode: CPU net_param {{ {NET} }}"))
    solver.solve()
    assert not list(tmp_path.iterdir())
    solver.snapshot()
    assert [path.name for path in tmp_path.iterdir()] == ["minidrop_iter_12.h5"]


def test_the_best_is_not_written_where_snapshots_are_off_which_is_said(tmp_path, caplog):
    solver = make("test_iter: 1 test_interval: 2 snapshot_best: '-loss' snapshot_after_train: false",
                  tmp_path)
    solver.solve()
    assert not list(tmp_path.iterdir())
    assert "snapshot_best has no effect: snapshots are off" in caplog.text
