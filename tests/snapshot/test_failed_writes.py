"""Snapshots: a write that fails, is interrupted or killed leaves the file before it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from snapshots import ROOT, assert_same, example

from minidrop.data.hdf5_disk import Disk
from minidrop.errors import SnapshotError
from minidrop.snapshot import newest_valid, read_snapshot, write_snapshot


def assert_old_file_survives(path, message):
    with pytest.raises(SnapshotError, match=message) as caught:
        write_snapshot(path, example(8, size=50_000))
    assert "\n" not in str(caught.value)
    assert os.listdir(path.parent) == [path.name]
    assert_same(example(7), read_snapshot(path))


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("mount") is None, reason="needs Linux's tmpfs")
@pytest.mark.parametrize("kilobytes", [16, 64, 300, 900, 1600])
def test_full_disk(tmp_path, kilobytes):
    """The new snapshot takes 2 MB; at each of these sizes it runs full at another moment."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", tmp_path],
                      capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        path = tmp_path / "a.h5"
        write_snapshot(path, example(7))
        assert_old_file_survives(path, "the disk is full, and it takes 2.0 MB; free some space")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("code, message", [
    (errno.ENOSPC, "the disk is full, and it takes 2.0 MB"), (errno.EDQUOT, "the disk is full"),
    (errno.EIO, "error")])
@pytest.mark.parametrize("call", range(5))
def test_error_at_any_write(path, monkeypatch, code, message, call):
    write_snapshot(path, example(7))
    calls = []

    def failing(disk, action, *arguments, original=Disk._attempt):
        def act(*arguments):
            calls.append(action)
            if len(calls) > call:
                raise OSError(code, os.strerror(code))
            return action(*arguments)
        return original(disk, act, *arguments)

    monkeypatch.setattr(Disk, "_attempt", failing)
    with pytest.raises(SnapshotError, match=message):
        write_snapshot(path, example(8, size=50_000))
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert_same(example(7), read_snapshot(path))


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_error_when_flushing_or_renaming(path, monkeypatch, name):
    write_snapshot(path, example(7))

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    assert_old_file_survives(path, "the disk is full")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_read_only_folder_as_the_system_reports_it(path, monkeypatch, code):
    write_snapshot(path, example(7))

    def fail(file, mode="r", *_, original=open, **options):
        if "x" in mode:
            raise OSError(code, os.strerror(code), str(file))
        return original(file, mode, **options)

    monkeypatch.setattr("builtins.open", fail)
    assert_old_file_survives(path, "cannot be written to; choose another one")


def test_read_only_folder(path):
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        pytest.skip("root may write to a read-only folder")
    write_snapshot(path, example(7))
    path.parent.chmod(0o500)
    try:
        assert_old_file_survives(path, "cannot be written to; choose another one")
    finally:
        path.parent.chmod(0o700)


def test_missing_folder_and_folder_in_the_way(tmp_path):
    with pytest.raises(SnapshotError, match="nowhere/a.h5: the snapshot was not written: the folder .* "
                                            "does not exist; create it"):
        write_snapshot(tmp_path / "nowhere" / "a.h5", example())
    (tmp_path / "taken").mkdir()
    with pytest.raises(SnapshotError, match="directory"):
        write_snapshot(tmp_path / "taken", example())
    assert os.listdir(tmp_path) == ["taken"]


def test_interrupted_write_leaves_the_old_file(path, monkeypatch):
    write_snapshot(path, example(7))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Disk, "_attempt", lambda disk, action, *arguments, original=Disk._attempt:
                        original(disk, interrupt))
    with pytest.raises(KeyboardInterrupt):
        write_snapshot(path, example(8))
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert_same(example(7), read_snapshot(path))


@pytest.mark.skipif(os.name != "posix", reason="needs signals to oneself")
@pytest.mark.parametrize("method", ["write", "readinto", "seek", "tell", "truncate", "flush"])
def test_what_a_signals_handler_raises_does_not_pass_through_hdf5(path, monkeypatch, method):
    """Its handler runs between any two lines of Python, so within all that HDF5 calls."""
    write_snapshot(path, example(7))
    original, calls = getattr(Disk, method), []

    def interrupted(disk, *arguments):
        calls.append(method)
        os.kill(os.getpid(), signal.SIGINT)
        return original(disk, *arguments)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(Disk, method, interrupted)
    for action in (lambda: write_snapshot(path, example(7)), lambda: read_snapshot(path)):
        calls.clear()
        try:
            action()
        except KeyboardInterrupt:
            assert calls
        else:
            assert not calls
    monkeypatch.undo()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert os.listdir(path.parent) == [path.name]
    assert_same(example(7), read_snapshot(path))


@pytest.mark.skipif(os.name != "posix", reason="needs signals to oneself")
def test_a_handler_that_only_takes_note_stops_no_snapshot(path, monkeypatch):
    noted, original = [], Disk.write

    def write(disk, data):
        os.kill(os.getpid(), signal.SIGINT)
        return original(disk, data)

    monkeypatch.setattr(Disk, "write", write)
    old = signal.signal(signal.SIGINT, lambda *_: noted.append(1))
    try:
        write_snapshot(path, example(7))
    finally:
        signal.signal(signal.SIGINT, old)
    assert noted
    assert_same(example(7), read_snapshot(path))


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_while_writing(tmp_path):
    """However a writer dies, the file under the final name is whole and one of those that it wrote."""
    code = """
import itertools, sys, numpy as np
from minidrop.snapshot import Snapshot, write_snapshot
for i in itertools.count():
    write_snapshot(sys.argv[1], Snapshot({"a": np.full(200_000, i)}, {"iteration": i}))
    print(i, flush=True)
"""
    path = tmp_path / "a.h5"
    for delay in (0.0, 0.003, 0.01, 0.03):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True,
                                 cwd=ROOT)
        assert child.stdout.readline() == "0\n"
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        snapshot = read_snapshot(path)
        assert (snapshot.arrays["a"] == snapshot.attrs["iteration"]).all()
        assert newest_valid(tmp_path) == path
