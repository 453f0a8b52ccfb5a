import struct

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidrop.data import HDF5Records
from minidrop.data import hdf5 as hdf5_module
from minidrop.data.hdf5_checks import look_at_chunks
from minidrop.errors import DataError


def write(path, count=10, first=0, **options):
    """A file whose record r of `data` holds 4 * (first + r) .. + 3 and whose label is first + r."""
    with h5py.File(path, "w") as h5:
        values = np.arange(4 * first, 4 * (first + count)).reshape(count, 2, 2)
        h5.create_dataset("data", data=values.astype(np.float32), **options)
        h5.create_dataset("label", data=np.arange(first, first + count))


@pytest.fixture
def listed(tmp_path):
    """Return a function that writes the list file and opens it."""
    def open_list(*names, datasets=("data", "label")):
        path = tmp_path / "list.txt"
        path.write_text("".join(f"{name}\n" for name in names))
        return HDF5Records(path, datasets)
    return open_list


@pytest.mark.parametrize("options", [{}, {"chunks": (3, 2, 1)}, {"chunks": (4, 2, 2), "compression": "gzip"},
                                     {"dtype": ">f4"}])
def test_rows_come_in_the_order_asked_for(tmp_path, listed, options, monkeypatch):
    monkeypatch.setattr(hdf5_module, "BLOCK_BYTES", 40)     # two records and a half: several blocks
    write(tmp_path / "a.h5", **options)
    records = listed("a.h5")
    rows = [7, 0, 9, 3, 3, 8]
    got = records.read(rows)
    assert got["label"].tolist() == rows and got["label"].dtype == np.int64
    np.testing.assert_array_equal(got["data"], [[[4 * r, 4 * r + 1], [4 * r + 2, 4 * r + 3]] for r in rows])
    assert got["data"].dtype == np.float32 and got["data"].dtype.isnative
    assert (len(records), records.shapes("data"), records.shapes("label")) == (10, (2, 2), ())
    assert records.record_bytes == 4 * 4 + 8


def test_far_apart_rows_are_read_one_by_one(tmp_path, listed, monkeypatch):
    monkeypatch.setattr(hdf5_module, "SINGLE_ROW_BYTES", 8)
    write(tmp_path / "a.h5", 100)
    assert listed("a.h5").read([90, 5, 50])["data"][:, 0, 0].tolist() == [360, 20, 200]


def test_types_stay_as_stored(tmp_path, listed):
    for number, dtype in enumerate(["u1", "i2", "f2", "f8", "?"]):
        with h5py.File(tmp_path / f"{number}.h5", "w") as h5:
            h5["x"] = np.ones((3, 2), dtype)
        records = listed(f"{number}.h5", datasets=["x"])
        assert records.read([1])["x"].dtype == np.dtype(dtype) == records.dtypes("x")


def test_names_are_relative_to_the_list_then_to_the_working_folder(tmp_path, listed, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    write(tmp_path / "a.h5", 3)
    write(work / "a.h5", 5)
    write(work / "b.h5", 7)
    assert listed("a.h5", "", "  b.h5  ", str(work / "a.h5")).counts == (3, 7, 5)


def test_a_dataset_inside_a_group(tmp_path, listed):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["train/data"] = np.arange(6)
    assert listed("a.h5", datasets=["train/data"]).read([4])["train/data"].tolist() == [4]


def soft(h5, folder):
    h5["data"] = h5py.SoftLink("/label")


def soft_group(h5, folder):
    h5["real/data"] = np.zeros(10)
    h5["group"] = h5py.SoftLink("/real")


def external(h5, folder):
    write(folder / "other.h5")
    h5["data"] = h5py.ExternalLink("other.h5", "/data")


def virtual(h5, folder):
    write(folder / "other.h5")
    layout = h5py.VirtualLayout((10, 2, 2), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "data", (10, 2, 2))
    h5.create_virtual_dataset("data", layout)


def external_storage(h5, folder):
    (folder / "secret").write_bytes(bytes(80))
    h5.create_dataset("data", (10,), "f8", external=[(str(folder / "secret"), 0, 80)])


def of(value, **options):
    return lambda h5, folder: h5.create_dataset("data", data=value, **options) and None


def declared(h5, folder):
    h5.create_dataset("data", (10**12, 784), "u1", chunks=(1000, 784))


def half_written(h5, folder):
    h5.create_dataset("data", (10, 2), "f4", chunks=(2, 2))[:6] = 1


def never_written(h5, folder):
    h5.create_dataset("data", (10, 2), "f4")


def bomb(h5, folder):
    chunk = (300 << 20,)
    dataset = h5.create_dataset("data", (1,), "u1", maxshape=(None,), chunks=chunk, compression="gzip")
    dataset.id.write_direct_chunk((0,), b"x")


@pytest.mark.parametrize("make, message", [
    (soft, "'data': expected data in this file, got a soft link"),
    (external, "'data': expected data in this file, got an external link"),
    (virtual, "got virtual storage"),
    (external_storage, "got external storage"),
    (of(np.zeros(10, "S3")), r"expected integers, floats or booleans of at most 8 bytes, got \|S3"),
    (of(["a"] * 10, dtype=h5py.string_dtype()), "expected integers, floats or booleans"),
    (of(np.zeros(10, "c16")), "got complex128"),
    (of(np.zeros(10, [("a", "f4")])), "expected integers, floats or booleans"),
    (of(np.float32(1)), r"records along the first axis, got the shape \(\)"),
    (of(h5py.Empty("f4")), "expected numbers, got none at all"),
    (of(np.zeros((0, 3))), r"got the shape \(0, 3\)"),
    (of(np.zeros(9)), "as many records of 'label' as of 'data', 9, got 10"),
    (lambda h5, folder: h5.create_group("data") and None, "expected a dataset, got a group"),
    (lambda h5, folder: h5.create_dataset("dta", data=np.zeros(10)) and None,
     r"got none of that name \(the file holds 'dta', 'label'\); did you mean 'dta'"),
    (declared, "expected 1000000000 chunks of data .* got 0"),
    (half_written, "expected 5 chunks of data .* got 3"),
    (never_written, "expected 80 bytes of data .* got 0"),
    (bomb, "chunks whose records take at most 256 MiB"),
])
def test_what_is_refused(tmp_path, listed, make, message):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        h5["label"] = np.arange(10)
        make(h5, tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        listed("a.h5")
    assert str(caught.value).startswith(str(tmp_path / "a.h5")) and "\n" not in str(caught.value)


def test_a_link_on_the_way_is_refused(tmp_path, listed):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        soft_group(h5, tmp_path)
    with pytest.raises(DataError, match="'group': expected data in this file, got a soft link"):
        listed("a.h5", datasets=["group/data"])


def test_files_must_agree_in_the_shape_of_a_record(tmp_path, listed):
    write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "shape.h5", "w") as h5:
        h5["data"], h5["label"] = np.zeros((5, 2, 3), "f4"), np.arange(5)
    with pytest.raises(DataError, match=r"shape.h5: dataset 'data': expected records of shape \(2, 2\) as in "
                       r".*a.h5, got shape \(2, 3\); all files of a list must agree"):
        listed("a.h5", "shape.h5")


@pytest.mark.parametrize("types, read_as", [(("f4", "f8"), "f8"), (("f8", "f4"), "f8"), (("f4", "u1"), "f4"),
                                            (("i8", "f4"), "f8"), (("?", "f4"), "f4"), (("u1", "i2"), "i2"),
                                            (("f4", ">f4"), "f4")])
def test_files_of_different_types_are_read_in_one_that_holds_both(tmp_path, listed, types, read_as):
    for number, dtype in enumerate(types):
        with h5py.File(tmp_path / f"{number}.h5", "w") as h5:
            h5["x"] = np.array([[0, 1], [1, 0]], dtype)
    records = listed("0.h5", "1.h5", datasets=["x"])
    got = records.read([3, 0, 2])["x"]
    assert got.tolist() == [[1, 0], [0, 1], [0, 1]] and got.dtype == read_as == records.dtypes("x")


def test_a_file_is_looked_at_once_however_often_the_list_names_it(tmp_path, listed, monkeypatch):
    write(tmp_path / "a.h5")
    opened = []
    open_hdf5 = hdf5_module.open_hdf5
    monkeypatch.setattr(hdf5_module, "open_hdf5", lambda path: opened.append(path) or open_hdf5(path))
    records = listed(*["a.h5"] * 500)
    assert (len(records), len(opened)) == (5000, 1)
    assert records.read([4999])["label"].tolist() == [9]


@pytest.mark.parametrize("content, message", [
    (b"", "expected at least one line"), (b" \n\n", "expected at least one line"),
    (b"ok.h5\nnone.h5\n", "list.txt:2: no such file 'none.h5'"), (b"\xff\xfe", "got something else"),
    (b"a\0b", "got something else"), (b"x" * 5000, "a line that names none|system refuses"),
    (b"ok.h5\nroot:*:20228:0\n", "list.txt:2: expected the name of an HDF5 file, got a line that names none"),
    (b"\x89HDF\r\n\x1a\nrest", "expected a text file that names HDF5 files, got an HDF5 file")])
def test_wrong_lists(tmp_path, content, message):
    write(tmp_path / "ok.h5")
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        HDF5Records(tmp_path / "list.txt", ("data",))
    assert "20228" not in str(caught.value)      # no message repeats a foreign file


def test_a_missing_file_of_a_known_data_set_names_the_command(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/train.txt").write_text("train.h5\n")
    with pytest.raises(DataError, match="minidrop data digits"):
        HDF5Records(tmp_path / "digits/train.txt", ("data",))
    with pytest.raises(DataError, match="cannot be read .* minidrop data digits"):
        HDF5Records(tmp_path / "digits/test.txt", ("data",))


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: b"no HDF5 file at all",
                                    lambda content: content[:len(content) // 2]])
def test_damaged_files(tmp_path, listed, damage):
    write(tmp_path / "a.h5", 1000)
    (tmp_path / "a.h5").write_bytes(damage((tmp_path / "a.h5").read_bytes()))
    with pytest.raises(DataError, match="a.h5: expected a readable HDF5 file"):
        listed("a.h5")


def test_a_damaged_chunk_is_found_when_it_is_read(tmp_path, listed):
    write(tmp_path / "a.h5", 1000, chunks=(100, 2, 2), fletcher32=True)
    with h5py.File(tmp_path / "a.h5") as h5:
        offset = h5["data"].id.get_chunk_info(5).byte_offset
    with open(tmp_path / "a.h5", "rb+") as file:
        file.seek(offset + 10)
        file.write(b"\xff\xff\xff")
    records = listed("a.h5")
    assert records.read([3])["label"].tolist() == [3]
    with pytest.raises(DataError, match="a.h5: expected a readable HDF5 file"):
        records.read([550])


def chunk_key(size, *offset):
    """The entry of a chunk in the index of the older form of HDF5: size, filters left out, place, 0."""
    return struct.pack(f"<II{len(offset) + 1}Q", size, 0, *offset, 0)


@pytest.mark.parametrize("size, offset, message", [
    (0, (3, 0, 0), r"got one of 0 bytes at \(3, 0, 0\)"),
    (4, (3, 0, 0), r"got one of 4 bytes at \(3, 0, 0\)"),               # less than its checksum takes
    (2**31, (3, 0, 0), r"got one of 2147483648 bytes at \(3, 0, 0\)"),
    (None, (3, 2, 0), r"bytes at \(3, 2, 0\)"),                         # beside the shape
    (None, (4, 0, 0), r"bytes at \(4, 0, 0\)|bad coordinate"),          # between two places
    (None, (2**40, 0, 0), r"bytes at \(1099511627776, 0, 0\)|bad coordinate"),
    (None, (0, 0, 0), "expected 4 chunks of data for the shape .* got 3"),  # twice the same place
])
def test_chunks_that_are_not_where_the_shape_has_them(tmp_path, listed, size, offset, message):
    write(tmp_path / "a.h5", chunks=(3, 2, 2), compression="gzip", fletcher32=True)
    with h5py.File(tmp_path / "a.h5") as h5:
        stored = h5["data"].id.get_chunk_info(1).size
    content = (tmp_path / "a.h5").read_bytes()
    assert content.count(chunk_key(stored, 3, 0, 0)) == 1
    (tmp_path / "a.h5").write_bytes(content.replace(
        chunk_key(stored, 3, 0, 0), chunk_key(stored if size is None else size, *offset)))
    with pytest.raises(DataError, match=message):
        listed("a.h5")


def test_chunks_are_looked_at_in_older_libraries_too(tmp_path):
    class OlderID:
        def __init__(self, dataset_id):
            self.get_num_chunks, self.get_chunk_info = dataset_id.get_num_chunks, dataset_id.get_chunk_info

    write(tmp_path / "a.h5", chunks=(3, 2, 2))
    with h5py.File(tmp_path / "a.h5") as h5:
        found = [[], []]
        look_at_chunks(h5["data"].id, found[0].append)
        look_at_chunks(OlderID(h5["data"].id), found[1].append)
    assert sorted(found[0]) == sorted(found[1]) and len(found[0]) == 4


def test_chunks_that_share_their_bytes(tmp_path, listed):
    with h5py.File(tmp_path / "a.h5", "w") as h5:
        data = h5.create_dataset("data", data=np.zeros(40_000, "u1"), chunks=(10_000,))
        first, *others = (data.id.get_chunk_info(number).byte_offset for number in range(4))
    content = (tmp_path / "a.h5").read_bytes()
    for old, new in [(len(content), first + 10_000), *((other, first) for other in others)]:
        content = content.replace(struct.pack("<Q", old), struct.pack("<Q", new))
    (tmp_path / "a.h5").write_bytes(content[:first + 10_000])
    with pytest.raises(DataError, match="'data': expected chunks that do not overlap, got 40000 bytes"):
        listed("a.h5", datasets=["data"])


def test_a_file_changed_during_the_run(tmp_path, listed):
    write(tmp_path / "a.h5", 10)
    records = listed("a.h5")
    write(tmp_path / "a.h5", 8)
    with pytest.raises(DataError, match="as at the start.*do not change data files"):
        records.read([0])
    (tmp_path / "a.h5").unlink()
    with pytest.raises(DataError, match="a.h5"):
        records.read([0])


def test_rows_outside_the_file(tmp_path, listed):
    write(tmp_path / "a.h5")
    for rows in ([10], [-1]):
        with pytest.raises(DataError, match=r"expected rows within 0\.\.9"):
            listed("a.h5").read(rows)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes_give_records_or_our_error(tmp_path, data):
    path = tmp_path / "a.h5"
    write(path, chunks=(3, 2, 2), compression="gzip")
    content = bytearray(path.read_bytes())
    # The signature and what follows, where the structure lies.
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    (tmp_path / "list.txt").write_text("a.h5\n")
    try:
        records = HDF5Records(tmp_path / "list.txt", ("data", "label"))
        records.read(np.arange(min(len(records), 10)))
    except DataError:
        pass


def test_chunks_between_wanted_rows_are_not_unpacked(tmp_path, listed, monkeypatch):
    """Chunks of 3 records of 16 bytes: where more than 60 bytes, with a whole chunk, are not wanted."""
    monkeypatch.setattr(hdf5_module, "SINGLE_ROW_BYTES", 60)
    write(tmp_path / "a.h5", 100, chunks=(3, 2, 2), compression="gzip")
    read, dataset_type = [], h5py.Dataset
    get = dataset_type.__getitem__
    monkeypatch.setattr(dataset_type, "__getitem__",
                        lambda self, rows: read.append((self.name, rows)) or get(self, rows))
    rows = [0, 2, 4, 8, 20, 22, 23, 90]
    assert listed("a.h5").read(rows)["data"][:, 0, 0].tolist() == [4 * row for row in rows]
    assert [(rows.start, rows.stop) for name, rows in read if name == "/data"] == [(0, 9), (20, 24), (90, 91)]
