"""Callbacks: what they stop, and that an error of one leaves a solver that goes on as if nothing had been."""

import threading

import h5py
import numpy as np
import pytest

import minidrop as md
from minidrop.config import parse_solver
from minidrop.errors import ConfigError, SnapshotError
from minidrop.solver import Event, StopTraining

NET = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label"
        hdf5_data_param { source: "%s/list.txt" batch_size: 4 shuffle: true prefetch: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param { num_output: 12 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "ip1" top: "bn" }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "drop" type: "ApproxDropout" bottom: "bn" top: "drop" }
layer { name: "ip2" type: "InnerProduct" bottom: "drop" top: "ip2"
        inner_product_param { num_output: 3 weight_filler { type: "msra" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy"
        include { phase: TEST } }
"""
SETTINGS = ("base_lr: 0.1 lr_policy: 'fixed' momentum: 0.9 max_iter: 12 random_seed: 5 solver_mode: CPU "
            "test_iter: -1 test_interval: 3 display: 2 snapshot: 4 ")


@pytest.fixture
def make(tmp_path):
    """make(settings, name) -> a Solver on small files, whose snapshots begin with that name."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["label"] = rng.standard_normal((21, 5)), rng.integers(0, 3, 21)
    (tmp_path / "list.txt").write_text("a.h5\n")
    made = []

    def build(settings="", name="run", **options):
        text = f"{SETTINGS} {settings} net_param {{ {NET % tmp_path} }}"
        made.append(md.Solver(parse_solver(text), dtype="float64", snapshot_prefix=tmp_path / name,
                              **options))
        return made[-1]
    yield build
    for solver in made:
        solver.close()


def state(solver):
    """Everything that a run changes."""
    arrays = {name: p.data.copy() for name, p in solver.net.parameters().items()}
    arrays.update({f"{name}/{i}": h.copy() for name, history in solver.updater.history.items()
                   for i, h in enumerate(history)})
    if solver.ema is not None:
        arrays.update({f"ema/{name}": average.copy() for name, average in solver.ema.averages.items()})
    return {**arrays, "positions": np.array(list(solver.net.positions.values())),
            "losses": np.array(solver.losses)}


_undisturbed = {}       # {settings: the state after a run in peace}


def assert_undisturbed(solver, make, settings=""):
    """A solver has ended as one does that nothing has disturbed."""
    if settings not in _undisturbed:
        peaceful = make(settings, "undisturbed")
        peaceful.solve()
        _undisturbed[settings] = state(peaceful)
    assert_same(solver, _undisturbed[settings])


def assert_same(a, b):
    a, b = (one if isinstance(one, dict) else state(one) for one in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Oops(Exception):
    pass


def readers():
    """The threads that read records ahead, also those of other tests that are about to end."""
    return {thread for thread in threading.enumerate() if thread.name == "minidrop-prefetch"}


@pytest.mark.parametrize("settings", [pytest.param("", marks=pytest.mark.full),
                                      "iter_size: 2 average_loss: 3 ema_decay: 0.9"])
@pytest.mark.parametrize("kind, at", [("test", 6), ("step", 6), ("display", 6), ("snapshot", 8),
                                      ("display", 12), ("test", 12)])
def test_an_error_of_a_callback_costs_nothing(kind, at, settings, make, tmp_path):
    """At every kind of event, also the last ones: whole iterations are done, from which training goes on; and
    what a snapshot restores goes on to the same weights."""
    solver, error, active = make(settings), Oops("no"), []

    def fail(event):
        if (event.kind, event.iteration) == (kind, at) and not active:
            active.append(True)
            raise error
    before = readers()
    solver.add_callback(fail)
    with pytest.raises(Oops) as caught:
        solver.solve()
    assert caught.value is error
    assert readers() <= before          # they have ended
    done = at + (kind == "display" and at < 12)
    assert solver.iteration == done and solver.net.positions == {"data": done * solver.settings.iter_size}

    saved = solver.snapshot(tmp_path / "after.h5")
    last = make(settings, "other")
    last.restore(saved)
    last.solve()
    assert_undisturbed(last, make, settings)
    older = make(settings, "third")
    older.restore(tmp_path / "run_iter_4.h5")
    older.solve()
    assert_undisturbed(older, make, settings)
    if done < 12:
        solver.solve()
        assert_undisturbed(solver, make, settings)


@pytest.mark.parametrize("kind, at, done", [("test", 6, 6), ("step", 6, 6), ("display", 6, 7),
                                            ("snapshot", 8, 8)])
@pytest.mark.parametrize("raises", [True, False])
def test_stop_and_stop_training_end_a_run_in_the_same_way(kind, at, done, raises, make, tmp_path, caplog):
    caplog.set_level("INFO")
    solver = make()

    def stop(event):
        if (event.kind, event.iteration) == (kind, at):
            assert event.solver is solver
            if raises:
                raise StopTraining("that is enough")
            event.solver.stop()
    seen = []
    solver.add_callback(stop)
    solver.add_callback(seen.append)        # is told all the same
    last = solver.solve()
    assert solver.iteration == done and solver.is_saved
    assert solver.last_snapshot == tmp_path / f"run_iter_{done}.h5"
    assert (kind, at) in [(event.kind, event.iteration) for event in seen]
    assert last == [event.values for event in seen if event.kind == "test"][-1]
    assert ("that is enough" in caplog.text) == raises
    resumed = make(name="other")
    resumed.restore(solver.last_snapshot)
    resumed.solve()
    assert_undisturbed(resumed, make)


def test_step_ends_at_a_stop_too(make):
    solver = make()
    solver.add_callback(lambda event: event.kind == "test" and event.iteration == 3 and solver.stop())
    solver.step(9)
    assert solver.iteration == 3
    solver.step(9)          # the test is made again, and stops again
    assert solver.iteration == 3


class Counter:
    """A callback with a state of its own."""

    name = "my counter"

    def __init__(self):
        self.restart()

    def __call__(self, event: Event) -> None:
        self.count += event.kind == "step"

    def state_dict(self):
        return {"count": np.array([self.count])}

    def load_state_dict(self, state):
        if state.keys() != {"count"}:
            raise SnapshotError(f"{self.name}: not mine")
        self.count = int(state["count"][0])

    def restart(self):
        self.count = 0


def test_snapshots_keep_the_state_of_a_callback_that_has_one(make, caplog):
    solver = make()
    counter = solver.add_callback(Counter())
    solver.step(5)
    path = solver.snapshot()
    solver.step(2)
    other = make(name="other")
    second = other.add_callback(Counter())
    other.restore(path)
    other.step(2)
    assert counter.count == second.count == 7
    assert not caplog.records
    plain = make(name="plain")
    plain.restore(path)         # one that is not there any more does not matter
    plain.step(1)
    second.count = 9
    other.restore(plain.snapshot())
    assert second.count == 0
    assert "holds no state of my counter, which begins anew" in caplog.text
    second.load_state_dict = lambda state: (_ for _ in ()).throw(SnapshotError("not mine"))
    before = state(other)
    with pytest.raises(SnapshotError, match=r"iter_5\.h5: not mine"):
        other.restore(path)
    np.testing.assert_equal(state(other), before)


def test_callbacks_that_snapshots_could_not_keep_apart_are_refused(make):
    """The state of the second would be that of both in a resumed run."""
    solver = make()
    first = solver.add_callback(Counter())
    for again in (first, Counter()):
        with pytest.raises(ConfigError, match="there is a callback of the name 'my counter' already"):
            solver.add_callback(again)
    other = Counter()
    other.name = "another"
    solver.add_callback(other)
    for plain in (print, print):
        solver.add_callback(plain)
    half = type("Half", (), {"__call__": print, "state_dict": dict, "name": "half"})()
    with pytest.raises(ConfigError, match="Half has a state_dict, but no load_state_dict and no restart"):
        solver.add_callback(half)
    with pytest.raises(ConfigError, match="add_callback: expected a function of an Event, got 3"):
        solver.add_callback(3)
    assert solver.callbacks == [first, other, print, print]
