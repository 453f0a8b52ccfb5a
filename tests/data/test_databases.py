"""LMDB and LevelDB: what is written is read, by many at a time, in folders that nobody changes."""

import gc
import os
import shutil
import stat
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from fake_database import COUNT, IMAGES, Fake

from minidrop.config.minidrop_pb2 import Datum
from minidrop.data import Batches
from minidrop.data import probe as probe_module
from minidrop.data.database_writer import new_database
from minidrop.data.databases import MAIN_FILES, open_database
from minidrop.data.datum import write_datum
from minidrop.data.datum_records import DatumRecords
from minidrop.data.sources import find_database, find_source
from minidrop.errors import DataError

PACKAGES = {"LMDB": "lmdb", "LEVELDB": "plyvel"}


def make(path, kind, values):
    with new_database(path, kind) as put:
        for number, value in enumerate(values):
            put(b"%08d" % number, value)
    return path


@pytest.fixture(scope="module", params=list(PACKAGES))
def stored(request, tmp_path_factory):
    """(path, kind) of a database of IMAGES, image n with label n."""
    pytest.importorskip(PACKAGES[request.param], reason="the package that reads such databases")
    path = tmp_path_factory.mktemp("db") / "it"
    return make(path, request.param, (write_datum(image, n) for n, image in enumerate(IMAGES))), request.param


@pytest.fixture
def lmdb():
    return pytest.importorskip("lmdb", reason="the package (of the extra `caffe`) that reads such databases")


def records_of(stored, **settings):
    return DatumRecords(open_database(*stored), **settings)


def listing(folder):
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


# -- reading -------------------------------------------------------------------------------------------------
def test_in_order_and_at_random(stored):
    records = records_of(stored)
    assert len(records) == COUNT and records.layout == {"data": ((1, 3, 4), np.uint8),
                                                        "label": ((), np.int32)}
    got = records.read(np.arange(COUNT))
    assert (got["data"] == IMAGES).all() and (got["label"] == np.arange(COUNT)).all()
    for indices in ([2099, 0, 5, 6, 7, 1999], np.random.default_rng(1).integers(0, COUNT, 20)):
        for fresh in (records, records_of(stored)):
            assert fresh.read(np.array(indices))["label"].tolist() == list(indices)
    with pytest.raises(DataError, match=r"it: expected record numbers within 0\.\.2099, got 2100"):
        records.one(COUNT)
    assert records.where(1234) == f"{stored[0]}: record 1234 (key '00001234')"


def test_few_keys_are_remembered(stored):
    records = records_of(stored)
    records.read(np.arange(COUNT))
    assert records._marks == [b"00000000", b"00001000", b"00002000"]


def test_a_batch_is_the_same_whoever_reads_it(stored):
    """Round the end, from the beginning or after a jump; with records left out at the beginning."""
    on, jumping = (Batches(records_of(stored), 64, skip=7) for _ in range(2))
    labels = [on.batch(n)["label"].tolist() for n in range(40)]
    assert sum(labels, []) == [(7 + i) % COUNT for i in range(64 * 40)]
    for n in (39, 2, 33, 0):
        assert jumping.batch(n)["label"].tolist() == labels[n]
    assert on.where(1, 3).endswith(": record 74 (key '00000074')")


def test_two_readers_and_two_threads(stored):
    readers = [records_of(stored) for _ in range(3)]
    for place in range(0, 300, 3):
        for shift, reader in enumerate(readers):
            assert reader.one(place + shift)[1] == place + shift
    found = []
    threads = [threading.Thread(target=lambda reader=reader: found.append(
        reader.read(np.arange(COUNT))["label"].sum())) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [sum(range(COUNT))] * 3
    readers[0].close()
    assert readers[1].one(4)[1] == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_goes_on_reading(stored):
    records = records_of(stored)
    records.read(np.arange(100))
    child = os.fork()
    if not child:
        right = False
        try:
            other = records_of(stored)
            right = (records.read(np.arange(100, 1200))["label"] == np.arange(100, 1200)).all() and (
                other.one(3)[1] == 3)
            records.close()
            other.close()
        finally:
            os._exit(0 if right else 1)
    assert records.read(np.arange(100, 1200))["label"].sum() == sum(range(100, 1200))
    assert os.waitpid(child, 0)[1] == 0
    assert records.one(COUNT - 1)[1] == COUNT - 1


def test_nothing_in_the_folder_changes_even_if_it_could(stored):
    path, _ = stored
    before = listing(path)
    records = records_of(stored)
    records.read(np.arange(COUNT))
    records.close()
    assert listing(path) == before


def test_a_folder_that_is_read_only(stored):
    path, _ = stored
    os.chmod(path, stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert records_of(stored).one(7)[1] == 7
    finally:
        os.chmod(path, stat.S_IRWXU)


def test_temporary_folders_go(stored, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    records = records_of(stored)
    assert len(list(tmp_path.iterdir())) == (stored[1] == "LEVELDB")
    records.close()
    assert list(tmp_path.iterdir()) == []
    records_of(stored).one(0)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_other_tools_read_it(lmdb, tmp_path):
    """The keys, the layout of the folder and the bytes of the records are Caffe's."""
    path = make(tmp_path / "db", "LMDB", [write_datum(IMAGES[0], 3)])
    assert sorted(os.listdir(path)) == ["data.mdb"]
    with lmdb.open(str(path), readonly=True) as environment, environment.begin() as transaction:
        assert transaction.get(b"00000000") == Datum(channels=1, height=3, width=4, data=IMAGES[0].tobytes(),
                                                     label=3).SerializeToString()


def test_what_caffe_writes_is_read(lmdb, tmp_path):
    """An environment of a terabyte, as Caffe makes it, and fields in any order."""
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 40) as environment:
        with environment.begin(write=True) as transaction:
            for n in (1, 0):
                transaction.put(b"%08d_a b.jpg" % n, b"\x28\x05\x18\x01\x10\x01\x08\x02\x22\x02"
                                + bytes([n, 9]))
    records = records_of((tmp_path / "db", "LMDB"))
    assert records.read(np.arange(2))["data"].reshape(2, 2).tolist() == [[0, 9], [1, 9]]
    assert records.one(0)[1] == 5


# -- damage --------------------------------------------------------------------------------------------------
def test_keys_that_lead_in_a_circle():
    pairs = [(b"%d" % (n % 3), write_datum(IMAGES[n], n)) for n in range(9)]
    with pytest.raises(DataError,
                       match=r"^fake: expected keys that rise, got b'0' behind b'2'; the database is"):
        DatumRecords(Fake(pairs, 9)).read(np.arange(9))
    with pytest.raises(DataError, match="expected keys that rise"):
        DatumRecords(Fake(pairs, 2**60)).read(np.array([2**59]))


def test_fewer_records_than_it_says():
    with pytest.raises(DataError, match=r"^fake: expected 3 records, got 1; the database is damaged"):
        DatumRecords(Fake([(b"a", write_datum(IMAGES[0], 0))], 3)).read(np.arange(3))


@pytest.fixture
def untrusted(monkeypatch):
    monkeypatch.delenv("MINIDROP_TRUST_DATA")
    monkeypatch.setattr(probe_module, "_passed", set())


def test_a_sound_database_is_tried_once(stored, untrusted, monkeypatch):
    started, popen = [], probe_module.subprocess.Popen
    monkeypatch.setattr(probe_module.subprocess, "Popen", lambda *a, **k: started.append(a) or popen(*a, **k))
    for _ in range(2):
        assert records_of(stored).one(COUNT - 1)[1] == COUNT - 1
    assert len(started) == 1


def test_an_lmdb_that_is_cut_short(lmdb, stored, untrusted, tmp_path):
    if stored[1] != "LMDB":
        pytest.skip("of an LMDB")
    whole = (stored[0] / "data.mdb").read_bytes()
    (tmp_path / "data.mdb").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(DataError,
                       match=rf"data\.mdb: expected a readable LMDB, got {len(whole) // 2} bytes instead of "
                                        rf"the {len(whole)} of its pages \(in a process that tries it\); the "
                                        rf"file is damaged: make it again$"):
        open_database(tmp_path, "LMDB")


def test_mutated_databases_are_read_or_refused(stored, untrusted, tmp_path):
    """Bytes of the pages that lead to the records are changed: the library may crash, not this process."""
    path, kind = stored
    rng = np.random.default_rng(3)
    refused = 0
    for n in range(8):
        folder = shutil.copytree(path, tmp_path / str(n))
        files = [file for file in folder.iterdir() if file.name not in ("lock.mdb", "LOCK", "LOG")]
        for file in files if kind == "LEVELDB" else [folder / "data.mdb"]:
            content = bytearray(file.read_bytes())
            for place in rng.integers(0, max(1, min(len(content), 1 << 15)), 40) if content else ():
                content[place] = rng.integers(256)
            file.write_bytes(content[:-1] if kind == "LEVELDB" else content)
        try:
            DatumRecords(open_database(folder, kind)).read(np.arange(COUNT))
        except DataError as error:
            refused += 1
            assert str(folder) in str(error) and "\n" not in str(error)
    assert refused >= 4


@pytest.mark.parametrize("kind", PACKAGES)
def test_a_library_that_crashes_is_named(kind, untrusted, tmp_path, monkeypatch):
    program = tmp_path / "crash.py"
    program.write_text("import os, signal\nprint(0, flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)")
    pytest.importorskip(PACKAGES[kind], reason="the package that reads such databases")
    path = make(tmp_path / "db", kind, [b"x"])
    monkeypatch.setattr(probe_module, "PROGRAM", str(program))
    name = probe_module.WORDS[kind.lower()][1]
    with pytest.raises(DataError, match=rf"expected a readable {name}, got a crash of the {name} library"):
        open_database(path, kind)


# -- what is not there ---------------------------------------------------------------------------------------
def test_another_kind(stored, tmp_path):
    path, kind = stored
    other = next(name for name in PACKAGES if name != kind)
    with pytest.raises(DataError,
                       match=rf"expected the folder of a database of the kind {other}, .* got that of a "
                                        rf"database of the kind {kind}; write backend: {kind} "):
        open_database(path, other)
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError,
                           match="got another one; name the folder of a database, or make it again"):
            open_database(wrong, kind)


@pytest.mark.parametrize("kind", PACKAGES)
def test_without_the_package(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[kind], None)
    for name in ("data.mdb", "CURRENT"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError,
                       match=rf"expected the package {PACKAGES[kind]}, .*pip install \"minidrop\["):
        open_database(tmp_path, kind)
    with pytest.raises(DataError, match=f"expected the package {PACKAGES[kind]}"):
        make(tmp_path / "db", kind, [b"x"])
    assert sorted(os.listdir(tmp_path)) == ["CURRENT", "data.mdb"]


# -- writing -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", PACKAGES)
def test_whole_or_not_at_all(kind, tmp_path):
    pytest.importorskip(PACKAGES[kind], reason="the package that writes such databases")

    def failing():
        yield b"1"
        assert len(os.listdir(tmp_path)) == 1 and not (tmp_path / "db").exists()
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "db", kind, failing())
    assert os.listdir(tmp_path) == []
    make(tmp_path / "db", kind, [b"1"])
    with pytest.raises(DataError,
                       match="db: expected the name of a new database, got one that exists; delete it"):
        make(tmp_path / "db", kind, [b"2"])
    with pytest.raises(DataError, match="expected a name in a folder that exists"):
        make(tmp_path / "none" / "db", kind, [b"2"])
    assert [value for _, value in open_database(tmp_path / "db", kind).walk()] == [b"1"]
    assert os.listdir(tmp_path) == ["db"]


def test_an_lmdb_grows(lmdb, tmp_path, monkeypatch):
    monkeypatch.setattr("minidrop.data.database_writer._MAP_BYTES", 1 << 16)
    path = make(tmp_path / "db", "LMDB", (bytes([n % 256]) * 3000 for n in range(1500)))
    assert [value[0] for _, value in open_database(path, "LMDB").walk()] == [n % 256 for n in range(1500)]


def test_an_empty_database_and_a_long_key(lmdb, tmp_path):
    with pytest.raises(DataError, match="expected records, got a database without any"):
        open_database(make(tmp_path / "db", "LMDB", []), "LMDB")
    with pytest.raises(DataError, match="expected keys of at most 511 bytes, got one of 600"), new_database(
            tmp_path / "other", "LMDB") as put:
        put(b"x" * 600, b"")


# -- what the system refuses ---------------------------------------------------------------------------------
@pytest.fixture
def as_nobody():
    """Return a folder of nobody's, and let the test go on without the rights of root where it has them."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs permissions as POSIX has them")
    folder = Path(tempfile.mkdtemp())           # outside of pytest's, which is its user's alone
    user = os.geteuid()
    try:
        if user == 0:
            os.chown(folder, 65534, -1)
            os.seteuid(65534)
        yield folder
    finally:
        os.seteuid(user)
        for path in (folder, folder / "db"):
            path.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", PACKAGES)
def test_permission_denied_is_no_damage(request, kind):
    pytest.importorskip(PACKAGES[kind], reason="the package that reads such databases")
    as_nobody = request.getfixturevalue("as_nobody")
    path = make(as_nobody / "db", kind, [write_datum(IMAGES[0], 0)])
    for file in path.iterdir():
        file.chmod(0)
    with pytest.raises(DataError, match="expected a file of a database that may be read, got: permission "
                                        "denied; check the name and the permissions"):
        open_database(path, kind)
    (path / MAIN_FILES[kind]).chmod(0o600)
    if kind == "LEVELDB":
        with pytest.raises(DataError, match="got: Permission denied; check the permissions"):
            open_database(path, kind)
    path.chmod(0)
    with pytest.raises(DataError, match="permission denied"):
        open_database(path, kind)
    as_nobody.chmod(0)
    with pytest.raises(DataError, match=r"source '.*/db': expected a folder that may be read, got: "
                                        r"permission denied \(.*/db\); check the permissions of the folders"):
        find_database(str(path))
    with pytest.raises(DataError, match="expected a file that may be read, got: permission denied"):
        find_source(str(path / "list.txt"))


@pytest.mark.parametrize("kind", PACKAGES)
def test_a_main_file_that_is_none(tmp_path, kind):
    file = tmp_path / MAIN_FILES[kind]
    file.touch()
    with pytest.raises(DataError, match="got an empty one; it is cut short"):
        open_database(tmp_path, kind)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match="expected a file of a database, got a folder, a pipe or a device"):
        open_database(tmp_path, kind)
