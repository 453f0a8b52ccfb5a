"""Early stopping: which test ends a training, the same in a resumed run, and what is refused."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
from cases import in_turn

import minidrop as md
from minidrop.config import parse_solver
from minidrop.errors import ConfigError, SnapshotError
from minidrop.solver import EarlyStopping, Event

NET = """
layer { name: "data" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 1 channels: 1 height: 1 width: 1 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 1
        bias_term: false weight_filler { type: "constant" value: %g } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "label" top: "loss" } layer { name: "value"
type: "Power" bottom: "ip" top: "value" power_param { power: 1 } include { phase: TEST } }
"""


def make(early, rate=0.5, start=4.0, more="", tmp_path=None, **options):
    """A Solver of a net with one weight w, whose loss is (w - 1)^2 / 2: w - 1 shrinks by 1 - rate a step."""
    text = (f"base_lr: {rate} lr_policy: 'fixed' max_iter: 40 random_seed: 1 solver_mode: CPU test_iter: 1 "
            f"test_interval: 2 {early} {more} net_param {{ {NET % start} }}")
    if tmp_path:
        options["snapshot_prefix"] = tmp_path / "run"
    solver = md.Solver(parse_solver(text, "solver.prototxt"), dtype="float64", **options)
    for net in (solver.net, *solver.test_nets):
        net.set_input_arrays([[[[1.0]]]], [1.0])
    return solver


def early(settings):
    return f"early_stopping {{ {settings} }}"


def fed(stopping, values, last=10**6):
    """The iterations at which a callback stops a training whose tests give these values."""
    stops = []
    solver = SimpleNamespace(settings=SimpleNamespace(max_iter=last, test_compute_loss=False),
                             test_nets=[SimpleNamespace(outputs=["x"])])
    for i, value in enumerate(values):
        solver.stop = lambda i=i: stops.append(i * 10)
        stopping(Event("test", i * 10, {"x": value}, 0, solver))
    return stops


NAN = math.nan


@in_turn("mode, patience, delta, values, stops, best", [
    ("max", 2, 0, [1, 2, 2, 3, 3, 3, 9], [50], (9, 60)),
    ("min", 2, 0, [3, 2, 2, 1, 1, 1], [50], (1, 30)),
    ("max", 1, 0, [5, 5], [10], (5, 0)),
    ("max", 2, 0.5, [1, 1.5, 1.4, 1.6], [20], (1.6, 30)),        # 1.5 is not more than 0.5 above 1
    ("min", 3, 0.25, [1, 0.8, 0.9, 0.7, 0.5], [], (0.7, 30)),     # 0.7 is more than 0.25 below 1
    ("max", 2, 0, [NAN, 1, NAN, NAN], [30], (1, 10)),
    ("min", 2, 0, [NAN, NAN, 1], [10], (1, 20)),
    ("min", 2, 0, [-math.inf, math.inf, 1], [10], (1, 20)),
])
def test_which_test_ends_it(mode, patience, delta, values, stops, best):
    """Worked out by hand: the first value is always better than none."""
    stopping = EarlyStopping("x", mode, patience, delta)
    assert fed(stopping, values) == stops
    assert (stopping.best, stopping.best_iteration) == best


def test_the_last_test_of_a_run_stops_nothing():
    stopping = EarlyStopping("x", "max", 1)
    assert fed(stopping, [2, 1], last=10) == [] and stopping.waited == 1


def test_a_training_ends_when_its_loss_is_hardly_better(tmp_path, caplog):
    """w - 1 = 3 / 2^i before iteration i, loss (w - 1)^2 / 2: 4.5, 0.28, 0.0176, 0.0011, ... at 0, 2, 4, 6,
    8. With min_delta 0.1 those at 6 and 8 are not better than that at 4."""
    caplog.set_level(logging.INFO)
    solver = make(early('metric: "loss" mode: MIN patience: 2 min_delta: 0.1'), tmp_path=tmp_path)
    assert solver.solve() == {"loss": 4.5 / 4**8, "value": [[1 + 3 / 256]]}
    assert solver.iteration == 8 and solver.last_snapshot == tmp_path / "run_iter_8.h5"
    assert solver.net.params["ip"]["weight"].data.item() == 1 + 3 / 256
    stopping = solver.early_stopping
    assert (stopping.best, stopping.best_iteration, stopping.waited) == (4.5 / 256, 4, 2)
    assert ("early stopping at iteration 8: in 2 tests in a row loss was not below 0.0175781 by more than "
            "0.1; the best is that of iteration 4") in caplog.text


def test_the_same_from_python_and_without_a_file():
    solver = make("")
    assert solver.early_stopping is None
    stopping = solver.add_callback(md.EarlyStopping("loss", "min", patience=2, min_delta=0.1))
    solver.solve()
    assert solver.iteration == 8 and stopping.best_iteration == 4
    solver.solve()              # nothing has changed: it ends again, at the same test
    assert solver.iteration == 8 and stopping.waited == 2
    stopping.patience = 3
    solver.solve()              # the test at 8 is made again and does not count again; that at 10 does
    assert solver.iteration == 10 and stopping.waited == 3


@pytest.mark.parametrize("at", range(1, 8))
def test_a_resumed_run_ends_at_the_same_test(at, tmp_path):
    settings = early('metric: "loss" mode: MIN patience: 2 min_delta: 0.1')
    solver = make(settings, tmp_path=tmp_path)
    solver.step(at)
    path = solver.snapshot(tmp_path / "at.h5")
    other = make(settings, tmp_path=tmp_path)
    other.early_stopping.waited = 7         # of no run
    other.restore(path)
    other.solve()
    assert other.iteration == 8 and other.early_stopping.best_iteration == 4
    assert other.net.params["ip"]["weight"].data.item() == 1 + 3 / 256


def test_the_best_snapshot_counts_its_own_test_once(tmp_path):
    """It is written behind the test of its iteration, which a run that is resumed from it makes again."""
    settings = early('metric: "loss" mode: MAX patience: 2')
    solver = make(settings, more='snapshot_best: "loss"', tmp_path=tmp_path)
    solver.solve()
    assert solver.iteration == 4            # the loss falls: the test at 0 is the best, 2 and 4 are not
    other = make(settings, more='snapshot_best: "loss"', tmp_path=tmp_path)
    other.restore(tmp_path / "run_best.h5")
    assert other.iteration == 0
    other.solve()
    assert other.iteration == 4 and other.early_stopping.best_iteration == 0


def test_a_snapshot_without_its_state_begins_anew(tmp_path, caplog):
    path = make("", tmp_path=tmp_path).snapshot(tmp_path / "plain.h5")
    solver = make(early('metric: "loss" mode: MIN'), tmp_path=tmp_path)
    solver.early_stopping.waited = 2
    solver.restore(path)
    assert solver.early_stopping.waited == 0
    assert "holds no state of early stopping by loss, which begins anew" in caplog.text


@in_turn("settings, message", [
    ('mode: MIN', "early_stopping: needs a metric, the name of an output of a test net"),
    ('metric: "loss"', "early_stopping: needs a mode: MIN for outputs that should be small"),
    ('metric: "los" mode: MIN', r"early_stopping: the test nets have no output 'los'; did you mean 'loss'\? "
                                r"\(outputs: loss, value\)"),
    ('metric: "total_loss" mode: MIN', "early_stopping: the test nets have no output 'total_loss'"),
    ('metric: "loss" mode: MIN patience: 0', "early_stopping: patience must be at least 1, got 0"),
    ('metric: "loss" mode: MIN min_delta: -1', "early_stopping: min_delta must be a number from 0 on, got "
                                               "-1"),
])
def test_mistakes_of_a_file(settings, message):
    with pytest.raises(ConfigError, match=rf"^solver.prototxt:1:\d+: {message}"):
        make(early(settings))


def test_total_loss_where_tests_report_it():
    solver = make(early('metric: "total_loss" mode: MIN patience: 1 min_delta: 1'),
                  more="test_compute_loss: true")
    solver.solve()
    assert solver.iteration == 4


@in_turn("arguments, message", [
    (("loss", "maximum"), "mode must be min or max, got 'maximum'"),
    (("loss", 3), "mode must be min or max, got 3"),
    (("loss", "max", 0), "patience: expected a whole number of at least 1, got 0"),
    (("loss", "max", 2.5), "patience: expected a whole number of at least 1, got 2.5"),
    (("loss", "max", 1, -0.5), "min_delta: expected a number from 0 on, got -0.5"),
])
def test_mistakes_in_python(arguments, message):
    with pytest.raises(ConfigError, match=message):
        EarlyStopping(*arguments)


def test_an_output_that_is_missing_or_no_number():
    solver = make("")
    solver.add_callback(EarlyStopping("los", "min"))
    with pytest.raises(ConfigError, match="early stopping: the test nets have no output 'los'; did you mean"):
        solver.step(1)
    solver.callbacks[:] = [EarlyStopping("value", "min")]
    with pytest.raises(ConfigError, match=r"early stopping: expected 'value' to be one number, got \[\["):
        solver.step(1)


def test_without_tests_it_has_no_effect_which_is_said(caplog):
    text = (f"base_lr: 1 lr_policy: 'fixed' max_iter: 4 solver_mode: CPU test_iter: 1 test_interval: 0 "
            f"early_stopping {{ metric: 'loss' mode: MIN }} net_param {{ {NET % 1} }}")
    md.Solver(parse_solver(text))
    assert "early_stopping has no effect: test_interval is 0" in caplog.text


@in_turn("counts", [[-2, 0, 0], [0, -1, 0], [0, 0, -2]])
def test_a_forged_state_is_refused(counts):
    stopping = EarlyStopping("loss", "min")
    with pytest.raises(SnapshotError, match="early stopping by loss: expected counts from 0 on"):
        stopping.load_state_dict({"best": np.array([1.0]), "counts": np.array(counts)})
    assert stopping.best is None
