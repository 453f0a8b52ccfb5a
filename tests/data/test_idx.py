import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidrop.data import read_idx
from minidrop.errors import DataError


def idx(code, array, dtype):
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(dtype).tobytes()


GOOD = idx(0x08, np.arange(24).reshape(2, 3, 4), ">u1")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("code, dtype", [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"),
                                         (0x0E, "f8")])
def test_every_type_is_read_in_native_order(tmp_path, pack, code, dtype):
    expected = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(pack(idx(code, expected, f">{dtype}")))
    got = read_idx(tmp_path / "a")
    assert got.dtype == np.dtype(dtype) and got.dtype.isnative
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("content, message", [
    (b"", "a header of 4 bytes, got 0 bytes"),
    (GOOD[:3], "a header of 4 bytes, got 3 bytes"),
    (b"\x01" + GOOD[1:], "expected an idx header"),
    (b"\0\0\x07" + GOOD[3:], "got 0, 0x07, 3 axes"),
    (b"\0\0\x08\0", "got 0, 0x08, 0 axes"),
    (GOOD[:10], "the lengths of 3 axes, got 6 bytes"),
    (GOOD[:-1], r"24 bytes for the shape \(2, 3, 4\) of uint8, got 23 bytes"),
    (GOOD + b"\0", "to end after 24 bytes"),
    (struct.pack(">HBB2I", 0, 8, 2, 5, 0), r"got the shape \(5, 0\)"),
    (struct.pack(">HBB3I", 0, 14, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "got 0 bytes"),
    (gzip.compress(GOOD, mtime=0)[:-9], "expected a whole gzip file"),
    (gzip.compress(GOOD, mtime=0)[:-8] + bytes(8), "expected a whole gzip file"),
    (gzip.compress(GOOD[:-1], mtime=0), "got 23 bytes"),
])
def test_damage_is_named(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(tmp_path / "a")
    assert str(caught.value).startswith(str(tmp_path / "a")) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "none")
    with pytest.raises(DataError, match="Is a directory"):
        read_idx(tmp_path)


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_give_an_array_or_our_error(tmp_path_factory, content, after_header):
    path = tmp_path_factory.mktemp("idx") / "a"
    path.write_bytes((b"\0\0\x08\x01" if after_header else b"") + content)
    try:
        assert read_idx(path).size > 0
    except DataError:
        pass


def test_the_real_mnist_files():
    folder = Path(os.environ.get("MINIDROP_DATA", "")) / "mnist"
    if "MINIDROP_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("$MINIDROP_DATA/mnist is absent")
    images = read_idx(folder / "t10k-images-idx3-ubyte.gz")
    labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz")
    assert images.shape == (10000, 28, 28) and images.dtype == np.uint8 and images.max() == 255
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: cannot be read .expected a regular file, got a pipe"):
        read_idx(tmp_path / "pipe")
