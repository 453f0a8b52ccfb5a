"""ema_decay of a solver: the averages against values worked out by hand, in tests, snapshots and resumed
runs."""

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop.config import parse_net, parse_solver
from minidrop.errors import ConfigError, SnapshotError
from minidrop.solver import run_test

DATA = ('layer { name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 1 '
        'channels: 1 height: 1 width: 1 } }')
LINE = DATA + """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1
        bias_term: false weight_filler { type: "constant" value: 5 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 8 dim: 6 } shape { dim: 8 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 2 } } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param { num_output: 20 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "bn" }
layer { name: "drop1" type: "ApproxDropout" bottom: "bn" top: "drop1" approx_dropout_param { %s } }
layer { name: "ip2" type: "InnerProduct" bottom: "drop1" top: "ip2"
  inner_product_param { num_output: 5 weight_filler { type: "msra" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
  include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""


PERMUTED = NET.replace('"BatchNorm"', '"ReLU"') % "reshuffle_interval: %d"


def make(settings="", net=NET % "", **options):
    text = (f"lr_policy: 'fixed' max_iter: 8 random_seed: 3 solver_mode: CPU test_iter: 1 test_interval: 1 "
            f"{settings} net_param {{ {net} }}")
    solver = md.Solver(parse_solver(text, "solver.prototxt"), dtype="float64", **options)
    if "MemoryData" in net:
        for one in (solver.net, *solver.test_nets):
            one.set_input_arrays([[[[1.0]]]], [1.0])
    return solver


def weights_of(solver):
    return {name: p.numpy().copy() for name, p in solver.net.parameters().items()}


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("tested", [True, False])
def test_averages_and_tests_worked_out_by_hand(warmup, tested):
    """w is 5, and w - 1 halves with each step: 4, 2, 1, ...; d = 0.75, or the least of it and (1 + t) / (10 +
    t). The test before the first step reads the weights."""
    solver = make(f"base_lr: 0.5 ema_decay: 0.75 ema_warmup: {str(warmup).lower()} "
                  f"ema_test: {str(tested).lower()}", LINE)
    losses = []
    solver.add_callback(lambda event: event.kind == "test" and losses.append(event.values["loss"]))
    solver.solve()
    average, expected = 5.0, [8.0]
    for t in range(8):
        w = 1 + 4 / 2 ** (t + 1)
        d = min(0.75, (1 + t) / (10 + t)) if warmup else 0.75
        average = d * average + (1 - d) * w
        expected.append(((average if tested else w) - 1) ** 2 / 2)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    assert solver.ema.averages["ip/weight"].item() == pytest.approx(average, rel=1e-14)
    assert solver.net.params["ip"]["weight"].data.item() == 1 + 4 / 256       # tests have left it


def test_averages_begin_as_the_weights_before_the_first_iteration(tmp_path):
    """Not as those that the fillers made, which were replaced."""
    solver = make("base_lr: 0.5 ema_decay: 0.75", LINE)
    solver.net.params["ip"]["weight"].data[...] = 9
    solver.step()
    assert solver.ema.averages["ip/weight"].item() == 0.75 * 9 + 0.25 * 5


@pytest.mark.parametrize("more, net", [
    ("type: 'Adam' momentum: 0.9", NET % ""), ("ema_warmup: true momentum: 0.9 iter_size: 2", NET % ""),
    ("momentum: 0.9", PERMUTED % 3),
])
def test_a_resumed_run_has_the_same_averages(more, net, tmp_path):
    settings = f"base_lr: 0.05 ema_decay: 0.9 {more}"
    whole, first, second = (make(settings, net, snapshot_prefix=tmp_path / name) for name in "abc")
    whole.step(8)
    first.step(4)
    second.restore(first.snapshot())
    second.step(4)
    assert second.ema.updates == whole.ema.updates == 8
    for name, average in whole.ema.averages.items():
        np.testing.assert_array_equal(second.ema.averages[name], average, err_msg=name)
        np.testing.assert_array_equal(second.net.parameters()[name].data, whole.net.parameters()[name].data)
    assert set(whole.ema.averages) == {"ip1/weight", "ip1/bias", "ip2/weight", "ip2/bias"}  # not those of bn


def test_a_snapshot_in_the_midst_of_a_test_holds_the_weights(tmp_path):
    """A signal asks for it between two batches, while the nets hold the averages."""
    tests = "base_lr: 0.05 ema_decay: 0.9"
    whole, second = make(tests), make(tests, snapshot_prefix=tmp_path / "b")
    first, taken = make(tests, snapshot_prefix=tmp_path / "a"), []

    def look(solver):
        if solver.ema.is_applied and solver.iteration == 3 and not taken:
            taken.append(solver.snapshot(tmp_path / "midst.h5"))
            assert solver.ema.is_applied and all(
                (p.data == solver.ema.averages[name]).all() for name, p in solver.ema.parameters.items())
    first.solve(look)
    second.restore(*taken)
    for solver in (whole, second):
        solver.solve()
    for solver in (first, second):
        for name, values in weights_of(whole).items():
            np.testing.assert_array_equal(weights_of(solver)[name], values, err_msg=name)


def test_training_is_what_it_is_without_averages():
    plain, averaged = make("base_lr: 0.05"), make("base_lr: 0.05 ema_decay: 0.9")
    for solver in (plain, averaged):
        solver.solve()
    for name, value in weights_of(plain).items():
        np.testing.assert_array_equal(value, averaged.net.parameters()[name].data, err_msg=name)


def test_averages_go_where_permuted_units_go():
    """With a learning rate of 0 the averages stay the weights, through every permutation."""
    solver = make("base_lr: 0.05 ema_decay: 0.9", PERMUTED % 2)
    solver.step(1)
    solver.settings.base_lr = 0
    for average, p in zip(solver.ema.averages.values(), solver.updater.parameters.values(), strict=True):
        average[...] = p.data
    before = weights_of(solver)
    solver.step(4)
    assert any((value != before[name]).any() for name, value in weights_of(solver).items())
    for name, average in solver.ema.averages.items():
        np.testing.assert_allclose(average, solver.net.parameters()[name].data, rtol=1e-12)


def test_who_loads_a_snapshot_chooses(tmp_path):
    """The test of the averages says what the solver's own test said, also of the best snapshot."""
    solver = make("base_lr: 0.2 ema_decay: 0.8 snapshot_best: '-loss'", snapshot_prefix=tmp_path / "run")
    tests = {}
    solver.add_callback(lambda event: event.kind == "test" and tests.update({event.iteration: event.values}))
    solver.solve()
    net = md.Net(parse_net(NET % ""), "TEST", "cpu", "float64", solver.seed)
    report = net.load_weights(solver.last_snapshot, ema=True)
    assert not report.left
    assert run_test(net, 1)["loss"] == tests[8]["loss"]
    best = min(tests, key=lambda i: tests[i]["loss"])
    copied, left = md.load_weights(net, tmp_path / "run_best.h5", ema=True)
    assert len(copied) == 7 and not left
    assert run_test(net, 1)["loss"] == tests[best]["loss"]
    net.load_weights(solver.last_snapshot)
    for name, value in weights_of(solver).items():
        np.testing.assert_array_equal(net.parameters()[name].data, value)


def test_what_has_no_averages(tmp_path):
    solver = make("base_lr: 0.1")
    net = solver.net
    for path in (solver.snapshot(tmp_path / "plain.h5"), net.save(tmp_path / "w.caffemodel") or
                 tmp_path / "w.caffemodel"):
        with pytest.raises(SnapshotError, match=r"holds no averages of weights, which a solver with"):
            net.load_weights(path, ema=True)


def test_runs_in_which_ema_decay_is_changed(tmp_path, caplog):
    plain, averaged = make("base_lr: 0.1"), make("base_lr: 0.1 ema_decay: 0.5")
    for solver in (plain, averaged):
        solver.step(2)
    saved = [solver.snapshot(tmp_path / f"{i}.h5") for i, solver in enumerate((plain, averaged))]
    averaged.restore(saved[0])
    assert "0.h5: holds no averages of the weights; they begin as its weights" in caplog.text
    before = weights_of(averaged)
    averaged.step()
    for name, average in averaged.ema.averages.items():
        expected = (before[name] + averaged.net.parameters()[name].data) / 2
        np.testing.assert_allclose(average, expected, rtol=1e-12, atol=1e-15)
    plain.restore(saved[1])
    assert "1.h5: holds averages of the weights, which end here, as ema_decay is 0" in caplog.text
    assert plain.iteration == 2


@in_turn("decay", ["1", "-0.1", "2"])
def test_a_decay_that_is_none(decay):
    with pytest.raises(ConfigError, match=r"solver.prototxt:1:\d+: ema_decay must be a share, 0 <= "):
        make(f"base_lr: 1 ema_decay: {decay}")


def test_settings_without_effect_are_named(caplog):
    make("base_lr: 1 ema_test: true ema_warmup: true")
    assert [text.partition(": ")[2] for text in caplog.messages] == [
        "ema_warmup has no effect: ema_decay is 0", "ema_test has no effect: ema_decay is 0"]


def test_a_forged_number_of_updates_is_refused(tmp_path):
    from minidrop.snapshot import Snapshot, read_snapshot, write_snapshot
    solver = make("base_lr: 0.1 ema_decay: 0.5 ")
    solver.step(2)
    read = read_snapshot(solver.snapshot(tmp_path / "a.h5"))
    write_snapshot(tmp_path / "b.h5", Snapshot(read.arrays, {**read.attrs, "ema_updates": -1}))
    with pytest.raises(SnapshotError, match="expected ema_updates to be an integer from 0 on, got -1"):
        solver.restore(tmp_path / "b.h5")
