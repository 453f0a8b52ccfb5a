import signal
import subprocess
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from minidrop.data import HDF5Records
from minidrop.data import probe as probe_module
from minidrop.data.probe import probe
from minidrop.errors import DataError


@pytest.fixture
def started(monkeypatch):
    """The programs that are started for files that nobody trusts."""
    monkeypatch.delenv("MINIDROP_TRUST_DATA")
    monkeypatch.setattr(probe_module, "_passed", set())
    programs, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen",
                        lambda *what, **how: programs.append(what) or popen(*what, **how))
    return programs


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("a.h5", "b.h5")]
    for path in paths:
        with h5py.File(path, "w") as h5:
            h5.create_dataset("data", data=np.arange(1000.0), chunks=(100,), compression="gzip")
    return paths


def list_of(folder, *paths):
    (folder / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    return folder / "list.txt"


def test_a_whole_file_is_tried_once_until_it_changes(tmp_path, files, started):
    for _ in range(2):
        records = HDF5Records(list_of(tmp_path, *files), ("data",))
        assert records.read([1999])["data"].tolist() == [999]
    assert len(started) == 1
    with h5py.File(files[0], "a") as h5:
        h5["label"] = np.arange(1000)
    HDF5Records(list_of(tmp_path, files[0]), ("data",))
    assert len(started) == 2


def test_files_that_are_trusted_are_not_tried(files, started, monkeypatch):
    monkeypatch.setenv("MINIDROP_TRUST_DATA", "1")
    probe(files, ["data"])
    assert started == []


@pytest.mark.parametrize("death, fault", [("SIGSEGV", "a crash of the HDF5 library"),
                                          ("SIGABRT", "a crash of the HDF5 library"),
                                          ("SIGPROF", "more than 5 s of work")])
def test_the_file_that_crashes_the_library_is_named(tmp_path, files, started, monkeypatch, death, fault):
    program = tmp_path / "crash.py"
    program.write_text("import os, signal\nprint(0)\nprint(1, flush=True)\n"
                       f"os.kill(os.getpid(), signal.{death})")
    monkeypatch.setattr(probe_module, "PROGRAM", str(program))
    with pytest.raises(DataError, match=f"b.h5: expected a readable HDF5 file, got {fault}") as caught:
        HDF5Records(list_of(tmp_path, *files), ("data",))
    assert "\n" not in str(caught.value)


def test_a_probe_that_somebody_ends_says_nothing_about_the_file(tmp_path, files, started, monkeypatch):
    program = tmp_path / "ended.py"
    program.write_text("import os, signal\nprint(0, flush=True)\nos.kill(os.getpid(), signal.SIGTERM)")
    monkeypatch.setattr(probe_module, "PROGRAM", str(program))
    assert len(HDF5Records(list_of(tmp_path, *files), ("data",))) == 2000


@pytest.fixture
def bomb(tmp_path):
    """A file whose one chunk should unfold to 1 MiB, and unfolds to 150."""
    with h5py.File(tmp_path / "bomb.h5", "w") as h5:
        dataset = h5.create_dataset("data", (1 << 20,), "u1", chunks=(1 << 20,), compression="gzip")
        packer, zeros = zlib.compressobj(1), bytes(1 << 20)
        packed = [packer.compress(zeros) for _ in range(150)]
        dataset.id.write_direct_chunk((0,), b"".join([*packed, packer.flush()]))
    return tmp_path / "bomb.h5"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no limit of memory is set on this system")
def test_a_chunk_that_unfolds_without_end_is_refused(tmp_path, bomb, started, monkeypatch):
    monkeypatch.setattr(probe_module, "MEMORY", 100 << 20)
    with pytest.raises(DataError, match="bomb.h5: expected a readable HDF5 file, got Can't .*filter"):
        HDF5Records(list_of(tmp_path, bomb), ("data",))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no limit of time is set on this system")
def test_a_file_that_takes_too_long_is_refused(bomb, started, monkeypatch):
    monkeypatch.setattr(probe_module, "SECONDS", 0.005)
    with pytest.raises(DataError, match="bomb.h5: .* more than 0.005 s of work"):
        probe([bomb], ["data"])


def test_what_is_no_hdf5_file_has_its_own_message(tmp_path, started):
    (tmp_path / "a.h5").write_bytes(b"no HDF5 file at all")
    with pytest.raises(DataError, match="a.h5: expected a readable HDF5 file, got: .*signature"):
        HDF5Records(list_of(tmp_path, tmp_path / "a.h5"), ("data",))


def test_all_that_is_in_a_file_is_read_where_no_names_are_given(tmp_path, started, monkeypatch, bomb):
    with h5py.File(bomb, "a") as h5:
        h5["group/round"] = h5["/"]
        h5.move("data", "group/data")
    monkeypatch.setattr(probe_module, "SECONDS", 0.005)
    probe([bomb], ["data"])         # there is none of that name
    with pytest.raises(DataError, match="bomb.h5: .* more than 0.005 s of work"):
        probe([bomb])
