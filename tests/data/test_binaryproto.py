"""Caffe's .binaryproto files against protobuf's own writer; damaged ones."""

from contextlib import suppress

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from minidrop import DataError
from minidrop.data import binaryproto
from minidrop.data.binaryproto import read_array, read_blob, write_blob

# Names, numbers and types as in Caffe's caffe.proto; FLOAT and DOUBLE fields, and dim, are repeated.
FIELDS = [("num", 1, "INT32"), ("channels", 2, "INT32"), ("height", 3, "INT32"), ("width", 4, "INT32"),
          ("data", 5, "FLOAT"), ("diff", 6, "FLOAT"), ("shape", 7, "MESSAGE"), ("double_data", 8, "DOUBLE"),
          ("double_diff", 9, "DOUBLE")]


def blob_proto(packed):
    """Return Caffe's class BlobProto; with its repeated numbers packed, or one by one as old writers have
    them."""
    file = descriptor_pb2.FileDescriptorProto(name="blob.proto", package="caffe", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    shape, blob = file.message_type.add(name="BlobShape"), file.message_type.add(name="BlobProto")
    for message, fields in ((shape, [("dim", 1, "INT64")]), (blob, FIELDS)):
        for name, number, kind in fields:
            field = message.field.add(name=name, number=number, type=getattr(kinds, f"TYPE_{kind}"),
                                      label=kinds.LABEL_OPTIONAL)
            if kind == "MESSAGE":
                field.type_name = ".caffe.BlobShape"
            elif kind != "INT32":
                field.label, field.options.packed = kinds.LABEL_REPEATED, packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.BlobProto"))


PACKED, UNPACKED = blob_proto(True), blob_proto(False)
X = np.random.default_rng(0).standard_normal((2, 3, 4, 5))


def write(path, message):
    path.write_bytes(message.SerializeToString())
    return path


@pytest.mark.parametrize("kind", [PACKED, UNPACKED])
def test_new_and_old_shapes(tmp_path, kind):
    old = kind(num=2, channels=3, height=4, width=5, data=X.reshape(-1), diff=[1, 2])
    found = read_blob(write(tmp_path / "mean.binaryproto", old))
    assert found.dtype == np.float32 and found.flags.writeable
    np.testing.assert_array_equal(found, X.astype(np.float32))
    new = kind(shape={"dim": [6, 20]}, data=X.reshape(-1))
    found = read_blob(write(tmp_path / "new", new))
    np.testing.assert_array_equal(found, X.astype(np.float32).reshape(6, 20))
    large = kind(shape={"dim": [300, 1]}, data=range(300))          # lengths of several bytes
    assert read_blob(write(tmp_path / "large", large)).shape == (300, 1)


@pytest.mark.parametrize("kind", [PACKED, UNPACKED])
def test_double_precision(tmp_path, kind):
    path = write(tmp_path / "x", kind(shape={"dim": [2, 60]}, double_data=X.reshape(-1), double_diff=[3.0]))
    found = read_blob(path)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, X.reshape(2, 60))


def test_a_single_number(tmp_path):
    assert read_blob(write(tmp_path / "x", PACKED(shape={}, data=[2.5]))).shape == ()


def test_numpy_files(tmp_path):
    for array in (X, X.astype(np.float32), np.arange(6).reshape(2, 3), np.asfortranarray(X[0, 0])):
        np.save(tmp_path / "x.npy", array)
        found = read_array(tmp_path / "x.npy")
        assert found.dtype == array.dtype and type(found) is np.ndarray
        np.testing.assert_array_equal(found, array)
    path = write(tmp_path / "x.binaryproto", PACKED(shape={"dim": [2]}, data=[1, 2]))
    assert read_array(path).tolist() == [1, 2]


WHOLE = PACKED(shape={"dim": [2, 3]}, data=[1, 2, 3, 4, 5, 6]).SerializeToString()
DAMAGED = {
    "empty": (b"", "holds no values"),
    "a text": (b"0.1 0.2 0.3\n", "unknown kind|no such file|holds no values"),
    "too few values": (PACKED(shape={"dim": [2, 3]}, data=[1, 2]).SerializeToString(),
                       r"has 8 bytes of values for the shape \(2, 3\)"),
    "no shape": (PACKED(data=[1, 2]).SerializeToString(), r"for the shape \(0, 0, 0, 0\)"),
    "part of a value": (WHOLE + b"\x2a\x01\x00", "has 25 bytes of values"),
    "a negative length": (PACKED(num=-1, channels=-1, height=1, width=1, data=[1]).SerializeToString(),
                          "has 4 bytes of values for the shape"),
    "lengths beyond all bounds": (PACKED(shape={"dim": [2 ** 62] * 30}, data=[1]).SerializeToString(),
                                  "has 4 bytes of values for the shape"),
    "an endless number": (b"\x08" + b"\xff" * 20, "a number of more than ten bytes at byte 1"),
    "a group": (WHOLE + b"\x0b", "a field of the unknown kind 3"),
    "a length beyond the end": (b"\x2a\xff\xff\xff\xff\x07", "ends within a field of 2147483647 bytes"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(tmp_path, name):
    content, message = DAMAGED[name]
    (tmp_path / "x.binaryproto").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.binaryproto: expected a \.binaryproto file, a serialized "
                                        f"BlobProto of Caffe, got one that .*({message})"):
        read_blob(tmp_path / "x.binaryproto")


def test_every_cut_and_every_changed_byte_is_read_or_refused(tmp_path):
    path = tmp_path / "x"
    for i in range(len(WHOLE)):
        changed = [WHOLE[:i] + bytes([byte]) + WHOLE[i + 1:] for byte in (0, 1, 127, 128, 255)]
        for content in (WHOLE[:i], *changed):
            path.write_bytes(content)
            with suppress(DataError):
                assert read_blob(path).size == 6


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    for name in ("none.npy", "none.binaryproto"):
        with pytest.raises(DataError, match=f"{name}: cannot be read .No such file or directory.; check"):
            read_array(tmp_path / name)
    monkeypatch.setattr(binaryproto, "MOST_BYTES", 10)
    (tmp_path / "large").write_bytes(WHOLE)
    with pytest.raises(DataError, match="large: expected at most 10 bytes, got .*; if it is yours, MINI"):
        read_array(tmp_path / "large")


def test_damaged_numpy_files(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, X)
    whole = path.read_bytes()
    shapes = [whole.replace(b"(2, 3, 4, 5)", shape)
              for shape in (b"(2, (, 4, 5)", b"(10 ** 9, 4)", b"(9999, 9999)")]
    for content in (b"", whole[:5], whole[:-1], *shapes, whole[:10] + b"(" * 118 + whole[128:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=(
                r"x.npy: expected (a .npy file of numbers, got (another kind of file|a damaged one \(.*\)); "
                r"make it again|\d+ bytes for the shape .* of float\d\d, got \d+; the file is damaged: make "
                r"it again)$")):
            read_array(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="x.npy: expected a .npy file of numbers, got entries of object; "):
        read_array(path)
    np.save(path, np.array(["a"]))
    with pytest.raises(DataError, match="x.npy: expected a .npy file of numbers, got entries of <U1; make "):
        read_array(path)


@pytest.mark.parametrize("shape", [(), (300,), (2, 3), (1, 3, 4, 5), (1, 2, 1, 2, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_what_is_written_is_read_by_protobuf_and_by_us(tmp_path, shape, dtype):
    array = np.random.default_rng(0).uniform(0, 200, shape).astype(dtype)
    path = tmp_path / "a.binaryproto"
    write_blob(path, array)
    got = read_blob(path)
    assert (got == array).all() and got.shape == shape
    assert got.dtype == (np.float64 if dtype == np.float64 else np.float32)
    blob = blob_proto(packed=True).FromString(path.read_bytes())
    assert list(blob.double_data if dtype == np.float64 else blob.data) == array.ravel().tolist()
    assert blob.HasField("num") == (len(shape) == 4) and blob.channels == (3 if len(shape) == 4 else 0)
    assert [item.name for item in tmp_path.iterdir()] == ["a.binaryproto"]
