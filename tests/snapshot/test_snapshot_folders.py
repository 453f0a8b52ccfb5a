"""Snapshots in folders: the newest, the valid, and which are removed."""

import os
import time

import pytest
from snapshots import example

from minidrop.errors import SnapshotError
from minidrop.snapshot import list_snapshots, newest_valid, prune, write_snapshot


def fill(folder, *iterations):
    for iteration in iterations:
        write_snapshot(folder / f"run_iter_{iteration}.h5", example(iteration))


def names(paths):
    return [path.name for path in paths]


def test_newest_is_the_latest_iteration_not_the_last_name(tmp_path):
    fill(tmp_path, 900, 1000, 50)
    assert names(list_snapshots(tmp_path)) == ["run_iter_1000.h5", "run_iter_900.h5", "run_iter_50.h5"]
    assert newest_valid(tmp_path) == tmp_path / "run_iter_1000.h5"


def test_newest_valid_passes_over_broken_files_and_says_so(tmp_path):
    fill(tmp_path, 1, 2, 3, 4)
    raw = (tmp_path / "run_iter_4.h5").read_bytes()
    (tmp_path / "run_iter_4.h5").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    (tmp_path / "run_iter_3.h5").write_bytes(raw[:700])
    (tmp_path / "other.h5").write_text("x")
    skipped = []
    assert newest_valid(tmp_path, skipped) == tmp_path / "run_iter_2.h5"
    assert sorted(message.split(": ")[0].rsplit("/")[-1] for message in skipped) == \
        ["other.h5", "run_iter_3.h5", "run_iter_4.h5"]


def test_newest_valid_of_nothing(tmp_path):
    assert newest_valid(tmp_path) is None
    assert newest_valid(tmp_path / "nowhere") is None
    (tmp_path / "file").touch()
    with pytest.raises(SnapshotError, match="cannot be listed"):
        newest_valid(tmp_path / "file")


def test_prune(tmp_path):
    fill(tmp_path, 10, 20, 30, 40, 50)
    write_snapshot(tmp_path / "best.h5", example(15))
    (tmp_path / "broken.h5").write_text("x")
    (tmp_path / "notes.txt").touch()
    deleted = prune(tmp_path, 2, protect=[tmp_path / "best.h5", str(tmp_path / "run_iter_20.h5")])
    assert names(deleted) == ["run_iter_30.h5", "run_iter_10.h5"]
    assert sorted(os.listdir(tmp_path)) == ["best.h5", "broken.h5", "notes.txt", "run_iter_20.h5",
                                            "run_iter_40.h5", "run_iter_50.h5"]


def test_prune_keeping_all(tmp_path):
    fill(tmp_path, 10, 20, 30)
    assert prune(tmp_path, 0) == []
    assert len(os.listdir(tmp_path)) == 3
    assert prune(tmp_path / "nowhere", 3) == []


def test_a_truncated_file_does_not_count_as_kept(tmp_path):
    fill(tmp_path, 10, 20, 30)
    (tmp_path / "run_iter_30.h5").write_bytes((tmp_path / "run_iter_30.h5").read_bytes()[:-5])
    assert names(prune(tmp_path, 1)) == ["run_iter_10.h5"]


def test_prune_leaves_links_and_removes_leftovers(tmp_path):
    fill(tmp_path, 10, 20)
    (tmp_path / "latest.h5").symlink_to("run_iter_10.h5")
    old, new = ".minidrop-0123456789abcdef.part", ".minidrop-fedcba9876543210.part"
    for name, age in ((old, 3600), (".run_iter_30.h5.123.part", 3600), (new, 1), (".other.part", 3600)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    for keep in (9, 0):         # the second time nothing is left to do
        assert sorted(names(prune(tmp_path, keep))) == [old, ".run_iter_30.h5.123.part"][:keep]
    assert (tmp_path / "latest.h5").is_symlink()
    assert (tmp_path / new).exists() and (tmp_path / ".other.part").exists()
