"""Outputs are replaced whole or not at all, and pipes, devices and links are left alone."""

import errno
import os
import time
from pathlib import Path

import pytest

from minidrop import files
from minidrop.data import Vocabulary
from minidrop.errors import DataError, SnapshotError
from minidrop.snapshot import Snapshot, write_snapshot

NOT_REGULAR = "expected a regular file or none, got a link, a pipe or a device"


@pytest.fixture
def pipe(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / ("n" * 255)           # as long as a name can be
    for content in (b"a", "\N{EURO SIGN}"):
        files.replace(path, content)
    assert path.read_text(encoding="utf-8") == "\N{EURO SIGN}" and os.listdir(tmp_path) == [path.name]


def test_a_failure_leaves_the_old_file_and_says_its_name(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.replace(path, b"old")
    with pytest.raises(OSError) as caught, files.replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_no_planted_link_is_followed(tmp_path, monkeypatch):
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_text("precious")
    path.symlink_to("victim")
    files.replace(path, b"new")
    assert not path.is_symlink() and path.read_bytes() == b"new" and victim.read_text() == "precious"
    # Somebody who guesses the name of the temporary file wins nothing either.
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "0" * 16)
    (tmp_path / ".minidrop-0000000000000000.part").symlink_to("victim")
    with pytest.raises(FileExistsError):
        files.replace(path, b"newer")
    assert path.read_bytes() == b"new" and victim.read_text() == "precious"


def test_links_pipes_and_devices_are_not_appended_to(tmp_path, pipe):
    with files.open_to_append(tmp_path / "a") as file:
        file.write(b"1")
    with files.open_to_append(tmp_path / "a") as file:
        file.write(b"2")
    assert (tmp_path / "a").read_bytes() == b"12"
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "nowhere").symlink_to("b")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for path in (tmp_path / "link", tmp_path / "nowhere", pipe, "/dev/null"):
        with pytest.raises(OSError, match=NOT_REGULAR):
            files.open_to_append(path)
    os.close(reader)
    with pytest.raises(OSError, match=NOT_REGULAR):
        files.open_to_append(pipe)
    assert not (tmp_path / "b").exists()


def test_pipes_and_devices_are_not_replaced(tmp_path, pipe):
    for path in (pipe, "/dev/null"):
        with pytest.raises(OSError, match=NOT_REGULAR):
            files.replace(path, b"")
    with pytest.raises(SnapshotError, match=f"pipe: the snapshot was not written: {NOT_REGULAR}"):
        write_snapshot(pipe, Snapshot())
    with pytest.raises(DataError, match=f"pipe: the vocabulary cannot be written .{NOT_REGULAR}"):
        Vocabulary(["<unk>", "a"], "CHARACTER").save(pipe)
    with pytest.raises(SnapshotError, match="null"):
        write_snapshot("a\0b", Snapshot())
    assert os.listdir(tmp_path) == ["pipe"] and pipe.is_fifo()


@pytest.mark.parametrize("path", ["/", ".", "..", "folder/.", "folder"])
def test_a_folder_is_no_file_to_replace(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    with pytest.raises(IsADirectoryError) as caught:
        files.replace(path, b"")
    assert caught.value.filename == str(Path(path))
    assert os.listdir() == ["folder"] and not os.listdir("folder")


def test_all_is_written_where_the_system_takes_it_in_parts():
    class Slow:
        taken = b""

        def write(self, data):
            self.taken += bytes(data[:2])
            return len(data[:2])

    files.write_all(file := Slow(), b"seven..")
    assert file.taken == b"seven.."


def test_what_killed_writers_left_is_swept(tmp_path):
    name = ".minidrop-0123456789abcdef.part"
    (tmp_path / name).write_bytes(b"")
    (tmp_path / "victim").write_bytes(b"")
    (tmp_path / name.replace("0", "1")).symlink_to("victim")
    assert files.sweep(tmp_path) == []
    os.utime(tmp_path / name, (time.time() - files.LEFTOVER_AGE,) * 2)
    assert files.sweep(tmp_path) == [tmp_path / name] and files.sweep(tmp_path / "nowhere") == []
    assert len(os.listdir(tmp_path)) == 2


def test_a_process_that_ends_at_once_leaves_no_temporary_file(tmp_path):
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "a"):
        assert len(os.listdir(tmp_path)) == 1
        assert files.abandon() == [tmp_path / "a"]
        assert os.listdir(tmp_path) == []


def test_a_file_that_is_there_is_not_called_unwritten(tmp_path, monkeypatch):
    """A signal between the renaming and what follows it."""
    told, rename = [], os.replace
    monkeypatch.setattr("os.replace", lambda *paths: (rename(*paths), told.append(files.abandon())))
    with files.replacing(tmp_path / "a") as file:
        file.write(b"1")
    assert told == [[]] and (tmp_path / "a").read_bytes() == b"1"


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    path = tmp_path / "db"
    with files.making_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists() and folder.parent == tmp_path
    assert (path / "a").read_text() == "1" and os.listdir(tmp_path) == ["db"]
    with pytest.raises(FileExistsError) as caught, files.making_folder(path):
        pass
    assert caught.value.filename == str(path)
    with pytest.raises(KeyboardInterrupt), files.making_folder(tmp_path / "other") as folder:
        (folder / "a").write_text("1")
        raise KeyboardInterrupt
    with pytest.raises(FileExistsError), files.making_folder(tmp_path / "late"):
        (tmp_path / "late").mkdir()         # an empty folder, which a rename would replace
    assert sorted(os.listdir(tmp_path)) == ["db", "late"]


def test_folders_that_killed_writers_left_are_deleted(tmp_path):
    old, new = (tmp_path / f".minidrop-{digit * 16}.part" for digit in "01")
    for folder in (old, new):
        folder.mkdir()
        (folder / "a").write_text("1")
    then = time.time() - 2 * files.LEFTOVER_AGE
    os.utime(old / "a", (then, then))
    os.utime(old, (then, then))
    os.utime(new, (then, then))             # its file is written to
    assert files.sweep(tmp_path) == [old] and os.listdir(tmp_path) == [new.name]
    with files.making_folder(tmp_path / "x") as folder:
        (folder / "a").write_text("1")
        files.abandon()
        assert not folder.exists()
        folder.mkdir()


def test_a_failure_names_one_file_only(tmp_path):
    with pytest.raises(OSError) as caught, files.replacing(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "full")
    assert str(caught.value) == f"[Errno {errno.ENOSPC}] full: {str(tmp_path / 'a')!r}"
    with pytest.raises(OSError) as caught, files.making_folder(tmp_path / "none" / "a"):
        pass
    assert str(caught.value).endswith(f": {str(tmp_path / 'none' / 'a')!r}")


def test_a_regular_file_is_read_up_to_a_limit_and_nothing_else_is(tmp_path, pipe):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert [files.read_regular(path, most) for most in (0, 4, 5, 2**40)] == [b"1", *[b"12345"] * 3]
    for name, message in ((pipe, "expected a regular file, got a pipe or a device"), (tmp_path, "directory"),
                          (os.devnull, "expected a regular file"), (tmp_path / "none", "No such file")):
        with pytest.raises(OSError, match=message):
            files.read_regular(name, 9)
    if os.path.exists("/proc/self/status"):         # it says that it is empty
        assert len(files.read_regular("/proc/self/status", 99)) == 100
