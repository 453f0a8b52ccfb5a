"""minidrop train in this process: the run folder, resuming, errors."""

import json
import os

import numpy as np
import pytest


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder(tiny, minidrop):
    result = minidrop("train", "--solver", tiny.solver)
    assert result.code == 0 and result.err == ""
    (folder,) = (tiny.path / "runs").iterdir()
    # the solver's folder, where the file is just called solver
    assert folder.name.startswith("task-2")
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.jsonl", "net.prototxt", "run.json", "snapshots", "solver.prototxt", "train.log"]
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == [
        f"task_iter_{n}.h5" for n in (10, 20, 30, 40)]
    lines = lines_of(folder)
    assert [(line["iteration"], line["phase"]) for line in lines] == [
        *((0, "TEST"), (0, "TRAIN"), (5, "TRAIN"), (10, "TRAIN"), (15, "TRAIN"), (20, "TEST"), (20, "TRAIN")),
        *((25, "TRAIN"), (30, "TRAIN"), (35, "TRAIN"), (40, "TRAIN"), (40, "TEST"))]
    assert set(lines[1]["values"]) == {"loss", "lr"}
    assert lines[-1]["net"] == 0 and set(lines[-1]["values"]) == {"accuracy", "loss"}
    out = result.out.splitlines()
    assert out.count("ip1 computes only the units kept by drop1") == 1
    assert out[-1].startswith("done: 40 iterations in ")
    accuracy = f"accuracy = {lines[-1]['values']['accuracy']:.6g}"
    assert (accuracy in out[-1]
            and f"snapshots: {folder.relative_to(tiny.path)}/snapshots/task_iter_*.h5" in out[-1])
    assert any(line.startswith("Iteration 20 (") and " iter/s), loss = " in line for line in out)
    log = (folder / "train.log").read_text()
    assert all(line in log for line in out)


def test_the_resolved_files_train_the_same_net(tiny, minidrop, weights_of):
    code = minidrop("train", "--solver", tiny.solver, "--out", "a", "--seed", "9", "--set", "base_lr=0.1",
                    "--dropout", "approx:ROW", "--set", "layer.ip1.inner_product_param.num_output=30").code
    assert code == 0
    solver = (tiny.path / "a/solver.prototxt").read_text()
    assert "base_lr: 0.1" in solver and "random_seed: 9" in solver
    net = (tiny.path / "a/net.prototxt").read_text()
    assert 'pattern: "ROW"' in net and "num_output: 30" in net
    # The data is looked for beside the working folder too.
    for name in ("train.txt", "train.h5"):
        (tiny.path / name).write_bytes((tiny.folder / name).read_bytes())
    assert minidrop("train", "--solver", "a/solver.prototxt", "--out", "b").code == 0
    a, b = (weights_of(tiny.path / path)
            for path in ("a/snapshots/task_iter_40.h5", "b/snapshots/a_iter_40.h5"))
    assert all(np.array_equal(a[key], b[key]) for key in a)


def test_snapshot_prefix_of_the_file_is_honoured(tiny, minidrop):
    assert minidrop("train", "--solver", tiny.solver, "--set", "snapshot_prefix=snaps/x").code == 0
    assert (tiny.path / "snaps/x_iter_40.h5").exists()
    out = minidrop("train", "--solver", tiny.solver, "--set", "snapshot_prefix=snaps/x", "--resume",
                   "auto").out
    assert "going on at iteration 40 from snaps/x_iter_40.h5" in out
    # Of another run under the same prefix, started later than these snapshots, nothing is taken.
    command = ("train", "--solver", tiny.solver, "--set", "snapshot_prefix=snaps/x", "--out", "new")
    minidrop(*command, "--set", "max_iter=5", "--set", "snapshot_after_train=false")
    out = minidrop(*command, "--resume", "auto").out
    assert "no snapshot of task/solver.prototxt yet in new: starting anew" in out


def test_an_old_run_is_not_overwritten(tiny, minidrop):
    assert minidrop("train", "--solver", tiny.solver, "--out", "o").code == 0
    result = minidrop("train", "--solver", tiny.solver, "--out", "o")
    assert result.code == 1
    assert "--out o: holds a run already; go on with --resume auto" in result.err


def test_resumed_in_parts_equals_uninterrupted(tiny, minidrop, weights_of):
    assert minidrop("train", "--solver", tiny.solver, "--out", "whole").code == 0
    assert minidrop("train", "--solver", tiny.solver, "--out", "parts", "--set", "max_iter=20").code == 0
    # Lines of after the snapshot, as a killed run leaves them: one whole, one torn.
    with open(tiny.path / "parts/metrics.jsonl", "a") as file:
        file.write('{"iteration": 20, "phase": "TRAIN", "values": {"loss": 7}}\n{"iteration": 2')
    result = minidrop("train", "--solver", tiny.solver, "--out", "parts", "--resume", "auto")
    assert result.code == 0
    assert "going on at iteration 20 from parts/snapshots/task_iter_20.h5" in result.out
    assert "the solver's settings are not what they were: max_iter: 20; now max_iter: 40" in result.err
    assert (tiny.path / "parts/metrics.jsonl").read_bytes() == (tiny.path
                                                                / "whole/metrics.jsonl").read_bytes()
    a, b = (weights_of(tiny.path / run / "snapshots/task_iter_40.h5") for run in ("whole", "parts"))
    assert set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in a)


def test_resume_auto_takes_this_solvers_newest_run_and_skips_broken_snapshots(tiny, minidrop):
    result = minidrop("train", "--solver", tiny.solver, "--resume", "auto")
    assert result.code == 0
    assert "no earlier run of task/solver.prototxt under runs: starting anew" in result.out
    (folder,) = (tiny.path / "runs").iterdir()
    # is another training
    assert minidrop("train", "--solver", tiny.solver, "--dropout", "conventional").code == 0
    newest = folder / "snapshots/task_iter_40.h5"
    newest.write_bytes(newest.read_bytes()[:-100])
    result = minidrop("train", "--solver", tiny.solver, "-snapshot", "auto")
    assert result.code == 0
    assert "passed over: " in result.err and "task_iter_40.h5" in result.err
    assert (f"going on at iteration 30 from "
            f"{folder.relative_to(tiny.path)}/snapshots/task_iter_30.h5" in result.out)


def test_a_folder_without_a_snapshot_starts_anew(tiny, minidrop):
    assert minidrop("train", "--solver", tiny.solver, "--out", "o", "--set", "snapshot=0", "--set",
                    "max_iter=7", "--set", "snapshot_after_train=false").code == 0
    result = minidrop("train", "--solver", tiny.solver, "--out", "o", "--resume", "auto")
    assert "no snapshot of task/solver.prototxt yet in o: starting anew" in result.out
    # a test and a display, once
    assert [line["iteration"] for line in lines_of(tiny.path / "o")].count(0) == 2


def test_resume_from_a_file_and_weights(tiny, minidrop):
    assert minidrop("train", "--solver", tiny.solver, "--out", "o").code == 0
    result = minidrop("train", "--solver", tiny.solver, "-snapshot=o/snapshots/task_iter_30.h5", "--out", "p")
    assert "going on at iteration 30 from o/snapshots/task_iter_30.h5" in result.out
    assert [line for line in lines_of(tiny.path / "o")
            if line["iteration"] >= 30] == lines_of(tiny.path / "p")
    result = minidrop("train", "--solver", tiny.solver, "-weights", "o/snapshots/task_iter_40.h5", "--out",
                      "q", "--set", "layer.ip2.name=other")
    assert result.code == 0
    assert "2 of 4 parameters copied" in result.out
    assert "not copied: other/weight" in result.err
    assert "not copied: other/weight" in (tiny.path / "q/train.log").read_text()
    result = minidrop("train", "--solver", tiny.solver, "-snapshot=o/snapshots/task_iter_30.h5", "--seed",
                      "4")
    assert result.code == 1 and "was written with random_seed 3, this solver says 4" in result.err
    result = minidrop("train", "--solver", tiny.solver, "-snapshot=o/snapshots/task_iter_30.h5", "--dropout",
                      "conventional")
    assert result.code == 0 and "written with --dropout not given, now it is conventional" in result.err


def test_dropout_families_fit_files_with_another_familys_settings(tiny, minidrop):
    net = tiny.folder / "net.prototxt"
    net.write_text(net.read_text().replace("dropout_ratio: 0.5", 'dropout_ratio: 0.5 pattern: "ROW" '
                                           'max_period: 8'))
    assert minidrop("check", tiny.solver, "--dropout", "approx:periodic").code == 0
    assert minidrop("time", "-model", tiny.net, "-iterations", "1", "--dropout", "approx:BLOCK").code == 0
    command = ("train", "--solver", tiny.solver, "--set", "max_iter=10", "--out", "o")
    result = minidrop(*command, "--dropout", "approx:periodic")
    line = "layer drop1: pattern PERIODIC instead of ROW; cleared what it does not read: max_period: 8"
    assert result.code == 0 and result.err == "" and line in result.out
    assert line in (tiny.path / "o/train.log").read_text()
    result = minidrop(*command, "--resume", "auto", "--dropout", "approx:PERIODIC")
    assert result.code == 0 and "--dropout" not in result.err       # one spelling, one training
    result = minidrop("check", tiny.solver, "--dropout", "approx:tiles")
    assert result.code == 1
    assert result.err.startswith("error: --dropout approx:tiles: unknown pattern 'tiles'; did you mean "
                                 "'TILE'?")


def test_patterns_that_are_not_what_they_were(tiny, minidrop):
    settings = "layer.drop1.approx_dropout_param.step=10"
    assert minidrop("train", "--solver", tiny.solver, "--out", "o", "--set", "max_iter=10", "--set",
                    settings).code == 0
    result = minidrop("train", "--solver", tiny.solver, "--out", "o", "--resume", "auto")
    line = ("the patterns of drop1 are not what they were: 5 of 10 in 2 STRATIFIED groups; now 10 of 20 in 2 "
            "STRATIFIED groups; set step: 10 to go on as before")
    assert result.code == 0 and f"warning: {line}\n" in result.err
    assert line in (tiny.path / "o/train.log").read_text()


def test_a_loss_that_is_not_finite_ends_the_run(tiny, minidrop):
    result = minidrop("train", "--solver", tiny.solver, "--out", "o", "--set", "base_lr=1e30")
    assert result.code == 1
    assert result.err.startswith("error: iteration ") and "Try a smaller base_lr" in result.err
    assert result.err.count("\n") == 1
    assert "Try a smaller base_lr" in (tiny.path / "o/train.log").read_text()


def test_an_explicit_gpu_mode_warns_once(tiny, minidrop):
    from minidrop.backend import cuda_devices
    if cuda_devices()[0]:
        pytest.skip("there is a GPU here")
    text = (tiny.folder / "solver.prototxt").read_text()
    (tiny.folder / "solver.prototxt").write_text(text.replace("CPU", "GPU"))
    result = minidrop("train", "--solver", tiny.solver)
    assert result.code == 0
    assert result.err.count("task/solver.prototxt:11:1: solver_mode is GPU, but there is none") == 1
    assert minidrop("train", "--solver", tiny.solver, "--device", "cpu").err == ""
    (tiny.folder / "solver.prototxt").write_text(text.replace("solver_mode: CPU", ""))
    assert minidrop("train", "--solver", tiny.solver).err == ""


def test_a_bar_is_drawn_when_asked_for(tiny, minidrop):
    result = minidrop("train", "--solver", tiny.solver, "--progress", "--out", "o")
    assert result.code == 0
    assert "40/40" in result.err
    assert "Iteration 20, Testing net (#0): " in result.out
    assert "Iteration 25" not in result.out and "Iteration 25" in (tiny.path / "o/train.log").read_text()
    assert result.out.splitlines()[-1].startswith("done: ")


def test_a_folder_that_cannot_be_written(tiny, minidrop):
    (tiny.path / "file").write_text("")
    result = minidrop("train", "--solver", tiny.solver, "--out", "file/run")
    assert result.code == 1
    assert "--out file/run: the run folder cannot be written: Not a directory" in result.err


def test_several_nets_are_written_down(tiny, minidrop):
    text = (tiny.folder / "solver.prototxt").read_text().replace('net: "net.prototxt"',
                                                                 'train_net: "net.prototxt"\n'
                                                                 'test_net: "other.prototxt" test_net: '
                                                                 '"net.prototxt"')
    (tiny.folder / "several.prototxt").write_text(text + "test_iter: 1")
    (tiny.folder / "other.prototxt").write_text((tiny.folder / "net.prototxt").read_text())
    result = minidrop("train", "--solver", "task/several.prototxt", "--out", "o")
    assert result.code == 0
    assert "Testing net (#1)" in result.out
    solver = (tiny.path / "o/solver.prototxt").read_text()
    assert 'train_net: "net.prototxt"' in solver
    assert [line for line in solver.splitlines() if line.startswith("test_net")] == [
        'test_net: "test_net_0.prototxt"', 'test_net: "net.prototxt"']
    # the data does not stand beside these
    assert minidrop("check", "o/solver.prototxt").code == 1
    assert {line["net"] for line in lines_of(tiny.path / "o") if line["phase"] == "TEST"} == {0, 1}


def test_what_has_no_effect_is_said(tiny, minidrop):
    assert minidrop("train", "--solver", tiny.solver, "--out", "a", "--set", "max_iter=10").code == 0
    result = minidrop("train", "--solver", tiny.solver, "--out", "b", "--resume",
                      "a/snapshots/task_iter_10.h5", "--dtype", "float64", "--set", "max_iter=5", "--set",
                      "test_interval=0", "--set", "snapshot_best=accuracy")
    assert result.code == 0
    assert "warning: the snapshot was written with --dtype float32, now it is float64" in result.err
    assert "warning: nothing is left to train: max_iter is 5; raise it with --set max_iter=N" in result.err
    assert "snapshot_best has no effect while test_interval is 0: no test is made" in result.err


def test_a_snapshot_prefix_that_cannot_be_written_is_found_before_training(tiny, minidrop):
    (tiny.path / "file").write_text("")
    result = minidrop("train", "--solver", tiny.solver, "--out", "a", "--set", "snapshot_prefix=file/x")
    assert result.code == 1 and "Iteration" not in result.out
    assert "snapshots cannot be written to the folder file: " in result.err
    assert result.err.rstrip().endswith("choose another snapshot_prefix")


# -- one run beside another ----------------------------------------------------------------------------------
def test_runs_with_one_prefix_do_not_go_on_from_each_other(tiny, minidrop):
    command = ("train", "--solver", tiny.solver, "--set", "snapshot_prefix=snaps/x")
    assert "another run" not in minidrop(*command, "--out", "a", "--set", "max_iter=20").err
    second = minidrop(*command, "--out", "b", "--set", "max_iter=40")
    assert second.code == 0
    assert second.err.count("snaps/x_iter_20.h5 is a snapshot of another run; those of the same") == 1
    lost = minidrop(*command, "--out", "a", "--resume", "auto")
    assert lost.code == 1 and lost.err == (
        "error: --resume auto: snaps/x_iter_40.h5 is a snapshot of another run with this snapshot_prefix, "
        "and none of the run in a is left; go on from it with --resume FILE, or start anew with another "
        "--out\n")
    assert minidrop(*command, "--out", "c", "--resume", "snaps/x_iter_20.h5").code == 0


def test_file_times_do_not_matter(tiny, minidrop):
    command = ("train", "--solver", tiny.solver, "--set", "snapshot_prefix=snaps/x", "--out", "a")
    assert minidrop(*command, "--set", "max_iter=20").code == 0
    for path in (tiny.path / "snaps").iterdir():
        os.utime(path, (0, 0))
    assert "going on at iteration 20 from snaps/x_iter_20.h5" in minidrop(*command, "--resume", "auto").out


@pytest.mark.parametrize("name", ["solver.prototxt", "net.prototxt", "metrics.jsonl"])
@pytest.mark.parametrize("resume", [(), ("--resume", "auto")])
def test_a_folder_with_other_files_is_no_run_folder(tiny, minidrop, name, resume):
    (tiny.path / "mine").mkdir()
    (tiny.path / "mine" / name).write_text("# mine\n")
    result = minidrop("train", "--solver", tiny.solver, "--out", "mine", *resume)
    assert result.code == 1 and f"--out mine: is no run folder and holds a {name}" in result.err
    assert [path.name for path in (tiny.path / "mine").iterdir()] == [name]
    assert (tiny.path / "mine" / name).read_text() == "# mine\n"


@pytest.mark.parametrize("text", [
    "[" * 100_000, "\0", "[1]", '{"started": "x"}', '{"run": 3}', "x" * (2 << 20)],
    ids=["deep", "binary", "list", "started", "run", "long"])
def test_a_broken_run_json_is_passed_over(tiny, minidrop, text):
    assert minidrop("train", "--solver", tiny.solver, "--set", "max_iter=20").code == 0
    (tiny.path / "runs/broken").mkdir()
    (tiny.path / "runs/broken/run.json").write_text(text)
    result = minidrop("train", "--solver", tiny.solver, "--resume", "auto")
    assert result.code == 0 and "going on at iteration 20" in result.out
    assert result.err.count("warning: runs/broken/run.json: cannot be read") == 1
