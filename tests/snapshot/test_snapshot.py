"""Snapshots: what goes in comes out, failed writes change nothing, no file does worse than SnapshotError."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidrop.data import probe  # the module: minidrop.data does not export the function
from minidrop.data.hdf5_disk import Disk
from minidrop.errors import SnapshotError
from minidrop.snapshot import (
    Snapshot,
    join_key,
    list_snapshots,
    newest_valid,
    prune,
    read_header,
    read_snapshot,
    seal,
    split_key,
    write_snapshot,
)

ROOT = Path(__file__).parent.parent.parent
NET = 'name: "mlp"\nlayer { name: "ip1" }  # größer\n'


def example(iteration=7, size=20):
    rng = np.random.default_rng(iteration)
    return Snapshot({"data/ip1/weight": rng.normal(size=(size, 3)).astype("f4"),
                     "data/ip1/bias": np.zeros(size, "f4"),
                     "solver/history/ip1/weight/0": rng.normal(size=(size, 3))},
                    {"iteration": iteration, "seed": 2**63 + 5, "net": NET, "rate": 0.1, "empty": "",
                     "low": -3})


def assert_same(a, b):
    assert {k: (v, type(v)) for k, v in a.attrs.items()} == {k: (v, type(v)) for k, v in b.attrs.items()}
    assert sorted(a.arrays) == sorted(b.arrays)
    for key, array in a.arrays.items():
        assert b.arrays[key].dtype == array.dtype and b.arrays[key].shape == array.shape
        assert b.arrays[key].tobytes() == array.tobytes()


def reseal(path):
    """Give a file that was changed behind the seal a right seal again, as someone who means harm would."""
    with open(path, "r+b", buffering=0) as file:
        seal.write_seal(file, 7)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run_iter_7.h5"


# What goes in comes out

def test_round_trip(path):
    write_snapshot(path, example())
    assert_same(example(), read_snapshot(path))
    assert read_header(path) == {"iteration": 7, "seed": 2**63 + 5, "net": NET, "rate": 0.1, "empty": "",
                                 "low": -3}
    assert os.listdir(path.parent) == ["run_iter_7.h5"]


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i2", ">i4", "i8", "u8", "f2", "f4", ">f4", "f8"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3, 2), (2, 1, 3)])
def test_dtypes_and_shapes_are_kept_exactly(path, dtype, shape):
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    write_snapshot(path, Snapshot({"a": array}))
    result = read_snapshot(path).arrays["a"]
    assert result.dtype == np.dtype(dtype) and result.dtype.byteorder == np.dtype(dtype).byteorder
    assert result.shape == shape and result.tobytes() == array.tobytes()
    assert result.flags.writeable and result.flags.c_contiguous


def test_special_floats_and_strided_arrays(path):
    array = np.array([[np.nan, np.inf], [-0.0, 5e-324], [1, 2]])
    attrs = {"nan": float("nan"), "inf": float("inf")}
    write_snapshot(path, Snapshot({"t": array.T, "step": array[::2]}, attrs))
    result = read_snapshot(path)
    assert result.arrays["t"].tobytes() == array.T.tobytes()
    assert result.arrays["step"].tobytes() == array[::2].tobytes()
    assert np.isnan(result.attrs["nan"]) and result.attrs["inf"] == float("inf")


def test_long_text_and_numpy_scalars(path):
    text = "layer { }  # ü\n" * 300_000
    write_snapshot(path, Snapshot({}, {"net": text, "iteration": np.int64(3), "loss": np.float32(0.5)}))
    assert read_header(path) == {"net": text, "iteration": 3, "loss": 0.5}


def test_the_same_content_gives_the_same_bytes(path, tmp_path):
    write_snapshot(path, example())
    write_snapshot(tmp_path / "b.h5", example())
    assert path.read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_plain_hdf5_tools_read_it(path):
    write_snapshot(path, example())
    with h5py.File(path) as file:
        assert file["data/ip1/weight"].shape == (20, 3) and file.attrs["iteration"] == 7
    assert path.read_bytes().startswith(b"minidrop snapshot 1\niteration 7\nbytes ")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.text(max_size=6), min_size=1, max_size=4).map(tuple), max_size=6, unique=True))
def test_any_names_can_be_keys(tmp_path_factory, parts):
    for names in parts:
        names = ("data", str(len(names)), *names)  # one length at a time: no key begins another
        key = join_key(*names)
        assert split_key(key) == names and key.count("/") == len(names) - 1
    path = tmp_path_factory.mktemp("keys") / "a.h5"
    printable = [names for names in parts if join_key(*names).isprintable()]
    arrays = {join_key("data", len(names), *names): np.full(2, i) for i, names in enumerate(printable)}
    write_snapshot(path, Snapshot(arrays))
    assert {key: array[0] for key, array in read_snapshot(path).arrays.items()} == \
        {key: array[0] for key, array in arrays.items()}


@pytest.mark.parametrize("arrays, attrs, message", [
    ({"a//b": np.zeros(1)}, {}, "cannot be an array's key"),
    ({"/a": np.zeros(1)}, {}, "cannot be an array's key"),
    ({"": np.zeros(1)}, {}, "cannot be an array's key"),
    ({"a/./b": np.zeros(1)}, {}, "cannot be an array's key"),
    ({"a\0": np.zeros(1)}, {}, "cannot be an array's key"),
    ({"a\ud800": np.zeros(1)}, {}, "cannot be an array's key"),
    ({"a" * 70_000: np.zeros(1)}, {}, "cannot be an array's key"),
    ({"a/" * 40 + "b": np.zeros(1)}, {}, "cannot be an array's key"),
    ({"a": np.zeros(1), "a/b": np.zeros(1)}, {}, "also the beginning of another key"),
    ({"a": [1, 2]}, {}, "expected a NumPy array of booleans, integers or floats up to 8 bytes, got list"),
    ({"a": np.array(["x"])}, {}, "got <U1"),
    ({"a": np.array([None])}, {}, "got object"),
    ({"a": np.zeros(2, "c8")}, {}, "got complex64"),
    ({"a": np.zeros(2, "longdouble")}, {}, "got float128"),
    ({"a": np.zeros(2, "i4,f4")}, {}, "got"),
    ({}, {"x": [1]}, "attribute 'x': expected str, int or float, got list"),
    ({}, {"x": None}, "got NoneType"),
    ({}, {"x": "a\0b"}, "no text may hold a NUL"),
    ({}, {"x": "\udc80"}, "cannot be stored as UTF-8"),
    ({}, {"": 1}, "must not be empty"),
    ({}, {"x": 2**64}, "does not fit into 64 bits"),
    ({}, {"iteration": float("nan")}, "attribute 'iteration': expected an integer from 0 on, got nan"),
    ({}, {"iteration": np.float32("inf")}, "got inf"),
])
def test_what_cannot_be_stored_is_refused_before_writing(path, arrays, attrs, message):
    if message == "got float128" and np.dtype("longdouble").itemsize == 8:
        pytest.skip("long double is a plain double here")
    with pytest.raises(SnapshotError, match=message) as caught:
        write_snapshot(path, Snapshot(arrays, attrs))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert os.listdir(path.parent) == []


# Failing writes

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


# Files that are no snapshots

def refuse(path, message):
    for read in (read_snapshot, read_header):
        with pytest.raises(SnapshotError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_foreign_files(tmp_path):
    refuse(tmp_path / "nothing.h5", "there is no such snapshot; check the name and the folder")
    refuse(tmp_path, "expected a snapshot, got a folder; name a file in it")
    (tmp_path / "empty.h5").touch()
    refuse(tmp_path / "empty.h5", "this is no minidrop snapshot")
    (tmp_path / "text.h5").write_text("net: 'a'\n" * 1000)
    refuse(tmp_path / "text.h5", "this is no minidrop snapshot")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data/ip1/weight"] = np.zeros(3)
    refuse(tmp_path / "other.h5", "this is no minidrop snapshot")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.h5")
        refuse(tmp_path / "pipe.h5", "expected a snapshot, got a pipe")
    with pytest.raises(SnapshotError, match="cannot be the name"):
        read_snapshot("a\0b")


def test_damaged_files(path):
    write_snapshot(path, example())
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    refuse(path, f"truncated or overlong: expected {len(whole)} bytes, got {len(whole) - 1}; use")
    path.write_bytes(whole + b"x")
    refuse(path, "truncated or overlong")
    path.write_bytes(whole[:20])
    refuse(path, r"damaged \(its first lines\)")
    path.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    refuse(path, r"damaged \(wrong checksum\); use an older one")
    path.write_bytes(whole.replace(b"iteration 7", b"iteration 8", 1))
    refuse(path, "wrong checksum")
    path.write_bytes(whole.replace(b"snapshot 1", b"snapshot 3", 1))
    refuse(path, "expected snapshot format 1 or 2, got '3'; use the version of minidrop that wrote it")


def link_to(target):
    def add(file, other):
        file["data/ip1/extra"] = target(other)
    return add


def external_data(file, other):
    file.create_dataset("x", (4,), "f4", external=[(other, 0, 16)])


def virtual(file, other):
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(other, "secret", (3,))
    file.create_virtual_dataset("x", layout)


def unallocated(file, _):
    file.create_dataset("x", (2**40,), "f8")


def early_claim(file, _):
    file.create_dataset("x", (2**20,) * 3, "u1")


def chunked(file, _):
    file.create_dataset("x", data=np.zeros(1000), chunks=(10,), compression="gzip")


def compact(file, _):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((3,)), plist).write(
        h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(3, "i4"))


def dataset(data, dtype):
    def add(file, _):
        file.create_dataset("x", data=data, dtype=dtype)
    return add


def ragged():
    rows = np.empty(2, object)
    rows[:] = np.arange(3, dtype="i4"), np.arange(2, dtype="i4")
    return rows


def vlen(file, _):
    file.create_dataset("x", data=ragged(), dtype=h5py.vlen_dtype("i4"))


def subarray(file, _):
    file.create_dataset("x", (2,), np.dtype("(3,)f4"))


def references(file, _):
    file.create_dataset("x", data=[file.ref, file.ref], dtype=h5py.ref_dtype)


def deep(file, _):
    file.create_group("x/" * 200)


def cycle(file, _):
    file["data/again"] = file["data"]


def root_cycle(file, _):
    file["data/ip1/again"] = file["/"]


def twice(file, _):
    file["data/again"] = file["data/ip1/weight"]


def named_type(file, _):
    file["x"] = np.dtype("f4")


def null_space(file, _):
    file["x"] = h5py.Empty("f4")


def attribute(value, **options):
    def add(file, _):
        file.attrs.create("x", value, **options)
    return add


CRAFTED = {
    "soft link": (link_to(lambda other: h5py.SoftLink("/data/ip1/weight")), "is a soft or external link"),
    "dangling link": (link_to(lambda other: h5py.SoftLink("/nothing")), "is a soft or external link"),
    "external link": (link_to(lambda other: h5py.ExternalLink(other, "secret")), "soft or external link"),
    "external storage": (external_data, "stored in another file"),
    "virtual": (virtual, "virtual"),
    "no allocation": (unallocated, "claims 8796093022208 bytes that the file does not hold"),
    "huge": (early_claim, "claims 1152921504606846976 bytes"),
    "chunked": (chunked, "chunked"),
    "compact": (compact, "compact"),
    "text array": (dataset(["a", "b"], h5py.string_dtype()), "expected booleans, integers or floats"),
    "fixed text": (dataset(np.array([b"ab"]), "S2"), "expected booleans, integers or floats"),
    "vlen": (vlen, "expected booleans"),
    "compound": (dataset(np.zeros(2, "i4,f4"), None), "expected booleans"),
    "subarray": (subarray, "expected booleans"),
    "enum": (dataset([0, 1], h5py.enum_dtype({"A": 0, "B": 1}, "i4")), "expected booleans"),
    "opaque": (dataset(np.zeros(2, "V5"), None), "expected booleans"),
    "complex": (dataset(np.zeros(2, "c8"), None), "expected booleans"),
    "references": (references, "expected booleans"),
    "deep": (deep, "nested more than 32 deep"),
    "cycle": (cycle, "second link to the same object"),
    "root cycle": (root_cycle, "second link to the same object"),
    "twice": (twice, "second link to the same object"),
    "named type": (named_type, "neither a group nor an array"),
    "null": (null_space, "expected booleans"),
}
CRAFTED_ATTRIBUTES = {
    "vlen text": attribute("text"),
    "list": attribute([1, 2, 3]),
    "null": attribute(h5py.Empty("f4")),
    "vlen": attribute(ragged(), dtype=h5py.vlen_dtype("i4")),
    "no utf-8": attribute(np.bytes_(b"\xff\xfe")),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_structure(path, name):
    craft, message = CRAFTED[name]
    with h5py.File(path.parent / "other.hdf", "w") as file:
        file["secret"] = np.zeros(3, "f4")
    write_snapshot(path, example())
    with h5py.File(path, "r+") as file:
        craft(file, str(path.parent / "other.hdf"))
    tracemalloc.start()
    with pytest.raises(SnapshotError):  # the old seal no longer fits
        read_snapshot(path)
    reseal(path)
    with pytest.raises(SnapshotError, match=message) as caught:
        read_snapshot(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6 and "\n" not in str(caught.value)


def test_crafted_in_an_older_form_of_hdf5(path):
    with h5py.File(path, "w", libver=("earliest", "v108"), userblock_size=seal.SEAL_SIZE) as file:
        file["data/ip1/weight"] = np.zeros(3)
    reseal(path)
    refuse(path, "an older form of HDF5")


@pytest.mark.parametrize("name", CRAFTED_ATTRIBUTES)
def test_crafted_attribute(path, name):
    write_snapshot(path, example())
    with h5py.File(path, "r+") as file:
        CRAFTED_ATTRIBUTES[name](file, "")
    reseal(path)
    refuse(path, "attribute 'x': expected|structure is broken")


# Fuzzing

FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x89HDF\r\n\x1a\n", b"minidrop snapshot 1\n"]))
def test_random_bytes(path, data, start):
    path.write_bytes(start + data)
    with pytest.raises(SnapshotError):
        read_snapshot(path)
    assert newest_valid(path.parent) is None


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    path = tmp_path_factory.mktemp("valid") / "a.h5"
    write_snapshot(path, example())
    return path.read_bytes()


@FUZZ
@given(st.data())
def test_mutated_snapshots(path, valid, data):
    raw = bytearray(valid)
    place = st.integers(0, len(raw) - 1)
    flips = st.lists(st.tuples(place, st.integers(0, 7)), min_size=1, max_size=8, unique=True)
    for at, bit in data.draw(flips):
        raw[at] ^= 1 << bit
    del raw[data.draw(st.just(len(raw)) | place):]
    path.write_bytes(raw)
    with pytest.raises(SnapshotError):
        read_snapshot(path)


RESEALED = """
import random, resource, sys
from minidrop.data import probe  # the module: minidrop.data does not export the function
from minidrop.data.hdf5_disk import Disk
from minidrop.errors import SnapshotError
from minidrop.snapshot import read_snapshot, seal
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
folder = sys.argv[1]
valid = open(folder + "/valid.bin", "rb").read()
rng = random.Random(0)
outcomes = {"read": 0, "refused": 0}
for _ in range(500):
    raw = bytearray(valid)
    for _ in range(rng.randint(1, 4)):
        raw[rng.randrange(seal.SEAL_SIZE, len(raw))] = rng.choice([0, 1, 255, rng.randrange(256)])
    if rng.random() < 0.2:
        del raw[rng.randrange(seal.SEAL_SIZE, len(raw)):]
    with open(folder + "/a.h5", "w+b", buffering=0) as file:
        file.write(raw)
        seal.write_seal(file, 0)
    try:
        read_snapshot(folder + "/a.h5")
        outcomes["read"] += 1
    except SnapshotError:
        outcomes["refused"] += 1
print(outcomes["read"] + outcomes["refused"])
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a child that may die")
def test_mutated_and_sealed_again(valid, tmp_path):
    """With a right seal damage reaches HDF5: still nothing but SnapshotError, and little memory."""
    (tmp_path / "valid.bin").write_bytes(valid)
    child = subprocess.run([sys.executable, "-c", RESEALED, str(tmp_path)], capture_output=True, text=True,
                           timeout=120, cwd=ROOT)
    assert child.returncode == 0, child.stderr[-2000:]
    assert child.stdout == "500\n"


def test_a_snapshot_that_crashes_the_library_is_refused(path, valid, monkeypatch):
    path.write_bytes(valid)
    monkeypatch.delenv("MINIDROP_TRUST_DATA")
    assert read_snapshot(path).attrs == example().attrs         # tried once, and whole
    program = path.with_name("crash.py")
    program.write_text("import os, signal\nprint(0, flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(probe, "PROGRAM", str(program))
    assert read_header(path) == example().attrs
    os.utime(path, (1, 1))
    with pytest.raises(SnapshotError, match="7.h5: .* a crash of the HDF5 library .* that minidrop wrote"):
        read_snapshot(path)


# Folders

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


def test_importing_costs_nothing():
    code = "import sys, minidrop.snapshot; print([m for m in ('h5py', 'cupy', 'numba') if m in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert child.stdout == "[]\n"
