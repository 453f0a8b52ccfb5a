"""Files of a run that cannot be written: one line that names the file, and what was left is swept."""

import errno
import logging
import os
import sys

import h5py
import pytest

from minidrop import files
from minidrop.cli import plots, run_folder

console = sys.modules["minidrop.cli.console"]      # minidrop.cli.console is its handler


@pytest.fixture
def full():
    """open_to_append of a disk that is full."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs a device that is always full")
    return lambda path: open("/dev/full", "ab", buffering=0)


def fail(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_the_log_and_one_warning(tiny, minidrop, monkeypatch, full):
    monkeypatch.setattr(console, "open_to_append", full)
    for bar in ("--progress", "--no-progress"):
        result = minidrop("train", "--solver", tiny.solver, "--out", bar[2:], bar)
        assert result.code == 0 and (tiny.path / bar[2:] / "snapshots/task_iter_40.h5").exists()
        assert result.err.count("warning") == 1 and "error" not in result.err.lower()
        assert (f"warning: {bar[2:]}/train.log: cannot be written: No space left on device; training goes on "
                "without it\n") in result.err


def test_the_log_goes_on_when_there_is_space_again(tmp_path, full, capsys):
    log = console.LogFile(tmp_path / "a")
    disk, log.file = log.file, full("a")
    records = [logging.makeLogRecord({"msg": text, "levelname": "INFO"}) for text in ("1", "2", "3")]
    log.emit(records[0])
    log.emit(records[1])
    log.file.close()
    log.file = disk
    log.emit(records[2])
    log.close()
    assert (tmp_path / "a").read_text().endswith(" INFO    3\n") and capsys.readouterr().err.count("\n") == 1


def test_metrics_that_cannot_be_written_end_the_run(tiny, minidrop, monkeypatch, full):
    monkeypatch.setattr(run_folder, "open_to_append",
                        lambda path: (full if path.name == "metrics.jsonl" else files.open_to_append)(path))
    result = minidrop("train", "--solver", tiny.solver, "--out", "o")
    message = ("error: o/metrics.jsonl: cannot be written: No space left on device; go on later with "
               "--resume auto\n")
    assert (result.code, result.err) == (1, message)
    assert message.strip() in (tiny.path / "o/train.log").read_text()
    monkeypatch.undo()
    monkeypatch.chdir(tiny.path)
    assert minidrop("train", "--solver", tiny.solver, "--out", "o", "--resume", "auto").code == 0


def test_a_run_folder_on_a_full_disk_is_named_with_the_file(tiny, minidrop, monkeypatch):
    monkeypatch.setattr(files, "write_all", fail)
    result = minidrop("train", "--solver", tiny.solver, "--out", "o")
    assert (result.code, result.err) == (1, "error: --out o: the run folder cannot be written: o/run.json: "
                                            "No space left on device; choose another one\n")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_an_output_that_is_full_is_named(tiny, minidrop, monkeypatch, name):
    class Full:
        encoding = "utf-8"
        write = flush = fail

    monkeypatch.setattr(f"sys.{name}", Full())
    with pytest.raises(OSError) as caught:
        console.echo("a", err=name == "stderr")
    assert caught.value.filename == name
    if name == "stdout":
        result = minidrop("check", tiny.net)
        assert (result.code, result.err) == (1, "error: stdout: No space left on device\n")


def test_a_picture_that_cannot_be_written(tmp_path, minidrop, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    command = ("patterns", "--family", "ROW", "--units", "64", "--iterations", "20", "--png", "a.png")
    os.mkfifo("a.png")
    result = minidrop(*command)
    assert result.code == 1 and result.out == ""
    assert result.err.startswith("error: --png a.png: expected a regular file or none, got a link, a pipe or")
    os.unlink("a.png")
    monkeypatch.setattr(plots, "replace", fail)
    result = minidrop(*command)
    assert result.code == 1 and os.listdir() == []
    assert "error: --png a.png: cannot be written: No space left on device; free some space" in result.err


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "train.log", "net.prototxt"])
def test_a_pipe_in_the_run_folder_is_refused(tiny, minidrop, name):
    (tiny.path / "o").mkdir()
    os.mkfifo(tiny.path / "o" / name)
    result = minidrop("train", "--solver", tiny.solver, "--out", "o", "--resume", "auto")
    assert (result.code, result.err) == (1, f"error: --out o: the run folder cannot be written: o/{name}: "
                                            "expected a regular file or none, got a link, a pipe or a "
                                            "device; choose another one\n")


def test_a_resumed_run_sweeps_what_killed_ones_left(tiny, minidrop):
    assert minidrop("train", "--solver", tiny.solver, "--out", "o", "--set", "max_iter=10").code == 0
    part = ".minidrop-0123456789abcdef.part"
    for folder in ("o", "o/snapshots", "elsewhere"):
        os.makedirs(folder, exist_ok=True)
        (tiny.path / folder / part).write_bytes(b"half")
    assert minidrop("train", "--solver", tiny.solver, "--out", "o", "--resume", "auto").code == 0
    assert not list((tiny.path / "o").rglob(part))
    # Another run may be writing under a prefix of the solver file: there only what is old goes.
    shared = ("train", "--solver", tiny.solver, "--set", "snapshot_prefix=elsewhere/x", "--set", "max_iter=1")
    assert minidrop(*shared).code == 0 and (tiny.path / "elsewhere" / part).exists()
    os.utime(tiny.path / "elsewhere" / part, (0, 0))
    assert minidrop(*shared).code == 0 and not (tiny.path / "elsewhere" / part).exists()


def test_names_that_are_too_long_are_refused_before_training(tiny, minidrop):
    long = "snapshots/" + "n" * 246
    for prefix, fits in ((long, False), (long[:-5], True)):         # and _iter_40.h5, 11 characters
        result = minidrop("train", "--solver", tiny.solver, "--set", f"snapshot_prefix={prefix}")
        assert result.code == (0 if fits else 1)
    result = minidrop("train", "--solver", tiny.solver, "--set", f"snapshot_prefix={long}")
    assert "Iteration" not in result.out and result.err == (
        f"error: {long}_iter_40.h5: no snapshot can have this name, which is too long; choose a shorter "
        "snapshot_prefix\n")
    text = (tiny.folder / "net.prototxt").read_text().replace('name: "ip2"', f'name: "{"i" * 29_990}"')
    (tiny.folder / "net.prototxt").write_text(text)
    result = minidrop("train", "--solver", tiny.solver)
    assert result.code == 1 and "Iteration" not in result.out
    assert result.err.endswith(" cannot be an array's key; build keys with join_key, of names that are "
                               "not very long\n")


def test_what_only_looks_or_measures_replaces_no_file(tiny, minidrop):
    net = tiny.path / tiny.net
    net.write_text(net.read_text() + 'layer { name: "o" type: "HDF5Output" bottom: "ip2" bottom: "label" '
                                     'hdf5_output_param { file_name: "out.h5" } }')
    (tiny.path / "out.h5").write_text("old")
    for command in (("check", net), ("time", "--model", net, "--iterations", 1),
                    ("time", "--model", net, "--iterations", 1, "--phase", "TEST")):
        assert minidrop(*command).code == 0
        assert (tiny.path / "out.h5").read_text() == "old"
    result = minidrop("train", "--solver", tiny.solver, "--out", "run")
    assert result.code == 1 and "Iteration" not in result.out and result.err.endswith(
        "layer 'o' (HDF5Output): in test net 0 it would write the file of 'o' in the train net; include the "
        "layer in one phase, or give each a file_name of its own\n")
    assert minidrop("check", tiny.solver).code == 1
    assert (tiny.path / "out.h5").read_text() == "old"
    assert not list(tiny.path.glob(".minidrop-*"))
    net.write_text(net.read_text() + 'layer { name: "p" type: "HDF5Output" bottom: "ip2" bottom: "label" '
                                     'hdf5_output_param { file_name: "./out.h5" } }')
    assert "layer 'o' writes this file as well" in minidrop("check", net).err


def test_a_run_that_fails_replaces_no_output_of_its_net(tiny, minidrop):
    net = tiny.path / tiny.net
    net.write_text(net.read_text() + 'layer { name: "o" type: "HDF5Output" bottom: "ip2" bottom: "label" '
                                     'include { phase: TRAIN } hdf5_output_param { file_name: "out.h5" } }')
    (tiny.path / "out.h5").write_text("old")
    result = minidrop("train", "--solver", tiny.solver, "--out", "run", "--set", "base_lr=1e30")
    assert result.code == 1 and "not finite" in result.err
    assert (tiny.path / "out.h5").read_text() == "old" and not list(tiny.path.glob(".minidrop-*"))
    assert minidrop("train", "--solver", tiny.solver, "--out", "again").code == 0
    with h5py.File(tiny.path / "out.h5") as h5:
        assert h5["data"].shape == (320, 3, 1, 1)


@pytest.mark.parametrize("arguments, written, reads", [
    (["export", "--model", "NET", "--weights", "w.h5", "--onnx", "NET"], "--onnx", "--model"),
    (["export", "--model", "NET", "--weights", "v.h5,w.h5", "--onnx", "./w.h5"], "--onnx", "--weights"),
    (["export", "--model", "NET", "--weights", "w.h5", "--onnx", "w.h5/"], "--onnx", "--weights"),
    (["predict", "--model", "NET", "--weights", "w.h5", "a.csv", "w.csv", "--out", "w.csv"], "--out",
     "INPUT"),
    (["predict", "--model", "NET", "--weights", "w.h5", "a.csv", "-o", "w.h5", "--format", "csv"], "--out",
     "--weights"),
    (["classify", "--model_def", "NET", "--pretrained_model", "w.h5", "w.csv", "w.csv"], "OUTPUT_FILE",
     "INPUT_FILE"),
    (["draw_net", "NET", "NET"], "OUT", "NET")])
def test_no_output_takes_the_place_of_what_is_read(tiny, minidrop, arguments, written, reads):
    for name in ("w.h5", "w.csv"):
        (tiny.path / name).write_text("1")
    paths = [tiny.path / name for name in ("w.h5", "w.csv", tiny.net)]
    before = [path.read_bytes() for path in paths]
    result = minidrop(*(tiny.net if argument == "NET" else argument for argument in arguments))
    assert result.code == 2 and f"Error: {written} " in result.err
    assert f": is the file that is read as {reads}; name another one to write to" in result.err
    assert [path.read_bytes() for path in paths] == before


def test_an_output_may_have_the_name_of_a_blob_or_of_a_format(tiny, minidrop):
    """Such an option names no file, also where there is one of that name from the run before."""
    assert minidrop("train", "--solver", tiny.solver, "--out", "run", "--set", "max_iter=1").code == 0
    weights = next(tiny.path.glob("run/snapshots/*.h5")).relative_to(tiny.path)
    (tiny.path / "a.csv").write_text("1,2,3,4,5,6\n")
    for out in ("csv", "csv", "ip2_prob", "ip2_prob"):
        result = minidrop("predict", "a.csv", "--model", tiny.net, "--weights", weights, "--output",
                          "ip2_prob", "--format", "csv", "--out", out)
        assert (result.code, (tiny.path / out).exists()) == (0, True), result.err


def test_a_timeline_takes_no_network_file_s_place(tiny, minidrop):
    result = minidrop("train", "--solver", tiny.solver, "--timeline", tiny.net)
    assert result.code == 2 and f"--timeline {tiny.net}: expected a name that ends with .json" in result.err
