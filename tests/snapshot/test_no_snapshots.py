"""Snapshots: no file does worse than SnapshotError: foreign, damaged, crafted and random ones."""

import os
import subprocess
import sys
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapshots import ROOT, example, refuse, reseal

from minidrop.data import probe  # the module: minidrop.data does not export the function
from minidrop.errors import SnapshotError
from minidrop.snapshot import newest_valid, read_header, read_snapshot, seal, write_snapshot


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
