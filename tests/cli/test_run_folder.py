"""Which files, snapshots and runs `minidrop train` takes for its own, and which it leaves alone."""

import json
import os
import shutil

import numpy as np
import pytest

from minidrop.apps.run_facts import read_facts
from minidrop.cli.prefix import PrefixLock
from minidrop.config import load_solver
from minidrop.config.nets import solver_nets
from minidrop.errors import ConfigError
from minidrop.snapshot import Snapshot, read_snapshot, write_snapshot
from minidrop.solver import Solver

SHARED = "snapshot_prefix=snaps/x"


@pytest.fixture
def train(tiny, minidrop):
    """Run minidrop train --out OUT with --set for each further argument; resume: --resume."""
    def call(out, *settings, resume=None):
        more = [part for setting in settings for part in ("--set", setting)]
        return minidrop("train", "--solver", tiny.solver, "--out", out, *more,
                        *(["--resume", resume] if resume else []))
    return call


class TestSharedPrefix:
    def test_a_run_that_is_alive_is_named(self, tiny, train):
        lock = PrefixLock("somewhere", "snaps/x", "a\x1b[2J")
        (tiny.path / "snaps").mkdir()
        lock.take()
        for resume in (None, "auto"):
            result = train("b", SHARED, resume=resume)
            assert result.code == 1 and result.err == (
                f"error: task/solver.prototxt:1:1: snaps/x is in use by the run in {tiny.path}/a\\x1b[2J, "
                f"which is alive: stop it first, or set another snapshot_prefix\n")
        lock.release()
        assert train("b", SHARED).code == 0
        assert not (tiny.path / "snaps/.x.lock").exists()

    def test_what_a_killed_run_left_locks_nothing(self, tmp_path):
        (tmp_path / ".x.lock").write_text("/somewhere")
        first, second = (PrefixLock("where", str(tmp_path / "x"), name) for name in "ab")
        first.take()
        with pytest.raises(ConfigError, match="in use by the run in .*/a, which is alive"):
            second.take()
        first.release()
        second.take()
        second.release()

    def test_a_planted_link_is_not_written_through(self, tiny, train):
        (tiny.path / "snaps").mkdir()
        (tiny.path / "precious").write_text("text")
        (tiny.path / "snaps/.x.lock").symlink_to("../precious")
        assert train("a", SHARED).code == 0
        assert (tiny.path / "precious").read_text() == "text"


class TestRunsOfOlderVersions:
    @pytest.fixture
    def older(self, tiny, train):
        """Make run and snapshots what the version before wrote, which named no runs."""
        def make(*settings):
            assert train("a", "max_iter=20", *settings).code == 0
            facts = json.loads((tiny.path / "a/run.json").read_text())
            for key in ("run", "number"):
                del facts[key]
            (tiny.path / "a/run.json").write_text(json.dumps(facts))
            for path in [*tiny.path.glob("a/snapshots/*.h5"), *tiny.path.glob("snaps/*.h5")]:
                old = read_snapshot(path)
                write_snapshot(path, Snapshot(old.arrays, {k: v for k, v in old.attrs.items() if k != "run"}))
        return make

    @pytest.mark.parametrize("settings", [(), (SHARED,)])
    def test_they_go_on(self, older, train, settings):
        older(*settings)
        for iteration in (20, 40):
            result = train("a", *settings, resume="auto")
            assert result.code == 0 and f"going on at iteration {iteration} from " in result.out
            assert "another run" not in result.err

    def test_another_seed_is_another_run(self, older, train, tiny):
        older(SHARED)
        file = tiny.path / "a/solver.prototxt"
        file.write_text(file.read_text().replace("random_seed: 3", "random_seed: 4"))
        result = train("a", SHARED, resume="auto")
        assert result.code == 1 and "snaps/x_iter_20.h5 is a snapshot of another run" in result.err


class TestClocks:
    def test_the_newest_run_is_the_one_begun_last(self, tiny, minidrop):
        command = ("train", "--solver", tiny.solver, "--set", "max_iter=10")
        first, second = (minidrop(*command).out.split("run folder ")[1].split("\n")[0] for _ in range(2))
        path = tiny.path / first / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "started": 2**40}))
        assert f"run folder {second}" in minidrop(*command, "--resume", "auto").out

    def test_times_of_files_do_not_count(self, tiny, train):
        assert train("a", SHARED, "max_iter=20").code == 0
        for name, time in (("10", 2**32), ("20", 0)):
            os.utime(tiny.path / f"snaps/x_iter_{name}.h5", (time, time))
        assert "going on at iteration 20" in train("a", SHARED, resume="auto").out


def test_the_file_of_a_second_test_net_is_not_replaced(tiny, train):
    (tiny.path / "mine").mkdir()
    (tiny.path / "mine/test_net_1.prototxt").write_text("# mine\n")
    result = train("mine")
    assert result.code == 1 and "mine: is no run folder and holds a test_net_1.prototxt" in result.err


@pytest.mark.parametrize("text", ['{"started": NaN}', '{"number": true}', '{"number": 1e400}',
                                  '{"run": "../x"}'])
def test_a_run_goes_on_without_its_broken_run_json(tiny, train, text):
    """What is in its folder is its own."""
    assert train("a", "max_iter=10").code == 0
    (tiny.path / "a/run.json").write_text(text)
    result = train("a", "max_iter=10", resume="auto")
    assert result.code == 0 and "going on at iteration 10 from" in result.out
    assert result.err.count("a/run.json: cannot be read (holds other things than a run's)") == 1
    assert read_facts(tiny.path / "a/run.json")["run"]


@pytest.mark.parametrize("what", ["removed", "renamed", "replaced"])
def test_a_run_folder_that_goes_away_ends_the_training_with_its_state(tiny, train, monkeypatch, what):
    step = Solver._step

    def stepped(solver):
        if solver.iteration == 7:
            os.rename("o", "away")
            if what == "removed":
                shutil.rmtree("away")
            if what == "replaced":
                os.mkdir("o")
        step(solver)
    monkeypatch.setattr(Solver, "_step", stepped)
    result = train("o")
    assert (result.code, result.err) == (1, "error: --out o: the run folder was removed or renamed while the "
                                            "training ran, which ends after iteration 8; go on with --resume "
                                            "o/snapshots/task_iter_8.h5 and another --out\n")
    monkeypatch.undo()
    monkeypatch.chdir(tiny.path)
    assert train("p", resume="o/snapshots/task_iter_8.h5").code == 0
    assert train("q").code == 0
    a, b = (read_snapshot(f"{run}/snapshots/task_iter_40.h5").arrays for run in "pq")
    assert all(np.array_equal(a[key], b[key]) for key in b)


@pytest.mark.parametrize("of_net", [False, True])
def test_the_resolved_files_describe_the_net_that_was_trained(tiny, minidrop, of_net):
    """A level of 0 at the command line stands against that of a file."""
    with open(tiny.net if of_net else tiny.solver, "a") as file:
        file.write("state { level: 3 }" if of_net else "train_state { level: 3 }")
    assert minidrop("train", "--solver", tiny.solver, "--level", "0", "--out", "a", "--set", "max_iter=1",
                    "--set", "test_interval=0").code == 0
    choice, _ = solver_nets(load_solver("a/solver.prototxt"))
    assert choice.state.level == 0
