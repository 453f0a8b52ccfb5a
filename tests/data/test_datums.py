"""Datums: what is in the records of a database, alike, unlike and malformed."""

import numpy as np
import pytest
from fake_database import IMAGES, Fake

from minidrop.config.minidrop_pb2 import Datum
from minidrop.data.datum import read_datum, write_datum, write_encoded
from minidrop.data.datum_records import DatumRecords
from minidrop.data.images import encode
from minidrop.errors import DataError


# -- Datums --------------------------------------------------------------------------------------------------
def test_arrays_of_floats_and_encoded_images():
    floats = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    array, label = read_datum(write_datum(floats, -7))
    assert (array == floats).all() and array.dtype == np.float32 and label == -7
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes them")
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 6), np.uint8)
    for color, channels in ((None, 3), (True, 3), (False, 1)):
        array, label = read_datum(write_encoded(encode(image, "png"), 4), color)
        assert array.shape == (channels, 5, 6) and label == 4
        assert color is False or (array == image).all()
    gray = write_encoded(encode(image[:1], "png"), 0)
    assert read_datum(gray)[0].shape == (1, 5, 6) and read_datum(gray, True)[0].shape == (3, 5, 6)


@pytest.mark.parametrize("fields, message", [
    ({"channels": -1, "height": 2, "width": 2, "data": b"1234"},
     "one of channels x height x width -1 x 2 x 2"),
    ({"data": b"1234"}, "one of channels x height x width 0 x 0 x 0"),
    ({"channels": 1, "height": 2, "width": 2}, "one without data"),
    ({"channels": 1, "height": 2, "width": 2, "data": b"1234", "float_data": [1] * 4},
     "one with both data and float_data"),
    ({"channels": 1, "height": 2, "width": 2, "data": b"123"}, "3 values for 1 x 2 x 2, which is 4"),
    ({"channels": 2**31 - 1, "height": 2**31 - 1, "width": 2**31 - 1, "data": b"123"},
     "3 values for 2147483647 x 2147483647 x 2147483647, which is 9903520300447984150353281023"),
    ({"channels": 1, "height": 2, "width": 2, "float_data": [1] * 5}, "5 values for 1 x 2 x 2, which is 4"),
])
def test_malformed_datums(fields, message):
    records = DatumRecords(Fake([(b"a", write_datum(IMAGES[0], 1)),
                                 (b"b\xff", Datum(**fields).SerializeToString())]))
    with pytest.raises(DataError) as caught:
        records.read(np.arange(2))
    assert str(caught.value) == (f"fake: record 1 (key 'b\\\\xff'): expected a Datum with an image or an "
                                 f"array, got {message}; make the database again, e.g. with: minidrop "
                                 f"convert_imageset")


@pytest.mark.parametrize("value", [b"\xff", b"\x22\xff\xff\xff\xff\x0f", b"\x08"],
                         ids=["tag", "long", "short"])
def test_bytes_that_are_no_datum(value):
    with pytest.raises(DataError,
                       match=r"^fake: record 0 \(key 'a'\): expected a Datum .* bytes that are none; make"):
        len(DatumRecords(Fake([(b"a", value)])).layout)


def test_an_encoded_record_that_is_no_image():
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes them")
    with pytest.raises(DataError, match=r"record 0 \(key 'a'\): expected .*, got no image \(BMP"):
        DatumRecords(Fake([(b"a", write_encoded(b"text", 1))])).one(0)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_mutated_datums_are_read_or_refused():
    """Bytes changed, cut off or repeated: an array of as many values as its shape says, or a DataError."""
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes them")
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (3, 8, 9), np.uint8)
    seeds = [write_datum(IMAGES[0], 300), write_datum(IMAGES[0].astype(np.float32), 1),
             *(write_encoded(encode(image, kind), 2) for kind in ("png", "jpg", "bmp", "webp", "tiff"))]
    read = 0
    for n in range(600):
        value = bytearray(seeds[n % len(seeds)])
        for place in rng.integers(0, len(value), rng.integers(1, 6)):
            value[place] = rng.integers(256)
        if n % 5 == 0:
            value = value[:rng.integers(len(value))]
        if n % 7 == 0:
            value += value[:rng.integers(len(value) + 1)]
        try:
            array, label = DatumRecords(Fake([(b"k", bytes(value))])).one(0)
        except DataError as error:
            assert str(error).startswith("fake: record 0 (key 'k'): expected a Datum")
        else:
            read += 1
            assert array.ndim == 3 and array.size and array.dtype in (np.uint8, np.float32)
            assert -2**31 <= label < 2**31
    assert 50 < read < 550


# -- records of different kinds ------------------------------------------------------------------------------
def of_shapes(*shapes):
    return Fake([(b"%d" % n, write_datum(np.full(shape, n, np.uint8), n)) for n, shape in enumerate(shapes)])


def test_a_record_unlike_the_first():
    records = DatumRecords(of_shapes((1, 3, 4), (1, 3, 4), (1, 4, 4)))
    with pytest.raises(DataError) as caught:
        records.read(np.arange(3))
    assert str(caught.value) == (
        "fake: record 2 (key '2'): expected 1 x 3 x 4 (channels, height, width) as of the first record, got "
        "1 x 4 x 4; give transform_param a crop_size, take batch_size 1, or scale all images to one size")
    assert records.read(np.array([2]))["data"].shape == (1, 1, 4, 4)
    with pytest.raises(DataError, match="expected 1 x 3 x 4 .* got 3 x 3 x 4; make all images of one kind"):
        DatumRecords(of_shapes((1, 3, 4), (3, 3, 4))).read(np.array([1]))


def test_with_a_crop_sizes_may_differ():
    records = DatumRecords(of_shapes((1, 3, 4), (1, 5, 3), (1, 2, 9)), crop=3)
    assert [image.shape for image in records.read(np.arange(2))["data"]] == [(1, 3, 4), (1, 5, 3)]
    with pytest.raises(DataError,
                       match=r"record 2 .*: expected 1 channels and a height and width of at least 3, got "
                                        r"1 x 2 x 9; leave out smaller images, or lower crop_size, 3$"):
        records.read(np.arange(3))


def test_bytes_and_floats_together():
    floats = np.array([[[0.5, 300]]], np.float32)
    records = DatumRecords(Fake([(b"a", write_datum(np.ones((1, 1, 2), np.uint8), 0)),
                                 (b"b", write_datum(floats, 0))]))
    assert records.read(np.arange(2))["data"].reshape(2, 2).tolist() == [[1, 1], [0.5, 300]]


def test_images_that_unpack_to_more_than_a_batch_may_have(monkeypatch):
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes them")
    monkeypatch.setattr("minidrop.data.pictures.BATCH_BYTES", 5000)
    small, large = (write_encoded(encode(np.zeros((1, side, side), np.uint8), "png"), 0) for side in (20, 60))
    records = DatumRecords(Fake([(b"a", small), (b"b", large), (b"c", large)]), crop=10)
    assert len(records.read(np.arange(2))["data"]) == 2
    for indices in (np.arange(3), np.zeros(20, int)):
        with pytest.raises(DataError,
                           match=r"expected batches of at most 0 MiB, got .*; use a smaller batch_size"):
            records.read(indices)


def test_unpacked_images_behind_one_that_is_none(monkeypatch):
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes them")
    monkeypatch.setattr("minidrop.data.pictures.BATCH_BYTES", 5000)
    large = write_encoded(encode(np.zeros((1, 60, 60), np.uint8), "png"), 0)
    records = DatumRecords(Fake([(b"a", write_datum(np.zeros((1, 8, 8), np.uint8), 0)), (b"b", large),
                                 (b"c", large)]), crop=8)
    assert not records.unpacks and len(records.read(np.arange(2))["data"]) == 2
    with pytest.raises(DataError, match="record 2 .*: expected batches of at most 0 MiB, got larger images"):
        records.read(np.arange(3))
