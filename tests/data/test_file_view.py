"""FileView: a piece of a file in the place of a memoryview, read when it is used."""

import gc
import os
from contextlib import suppress

import numpy as np
import pytest

from minidrop.data.file_view import FileView, in_memory, kept_view
from minidrop.data.wire import BYTES, FOUR, Wire, as_key, as_varint
from minidrop.errors import DataError


@pytest.fixture
def content():
    return np.random.default_rng(0).bytes(20_000)


@pytest.fixture
def view(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with open(tmp_path / "a", "rb", buffering=0) as file:
        yield FileView(file, tmp_path / "a", 0, len(content))


def test_it_is_like_a_memoryview(view, content):
    assert len(view) == 20_000 and bytes(view) == content and in_memory(view).readonly
    for i in (0, 1, 4095, 4096, 19_999, 3):
        assert view[i] == content[i]
    for piece in (slice(10, 30), slice(None, 5), slice(19_990, 30_000), slice(50, 40), slice(30_000, None)):
        part = view[piece]
        assert isinstance(part, FileView) and bytes(part) == content[piece]
        assert len(part) == len(content[piece])
    assert bytes(view[100:9000][50:60]) == content[150:160] and view[100:9000][8000] == content[8100]


def test_a_kept_view_keeps_its_file_open(tmp_path, recwarn, view, content):
    with open(tmp_path / "a", "rb", buffering=0) as file:
        kept = kept_view(file, "a")[5:]
    own = os.stat(tmp_path / "a").st_ino
    os.unlink(tmp_path / "a")
    assert bytes(kept) == content[5:] and opened(own) == 2      # the view's and its own
    del kept
    gc.collect()
    assert opened(own) == 1 and not recwarn.list


def opened(inode):
    """How many of this process's descriptors are of a file."""
    count = 0
    for number in os.listdir("/dev/fd"):
        with suppress(OSError):         # that of the listing itself
            count += os.fstat(int(number)).st_ino == inode
    return count


def test_a_message_is_the_same_in_memory_and_in_the_file(tmp_path):
    raw = (as_key(1, 0) + as_varint(300) + as_key(2, BYTES) + as_varint(5000) + bytes(5000)
           + (as_key(3, FOUR) + b"abcd") * 100 + as_key(4, FOUR) + b"efgh")
    (tmp_path / "a").write_bytes(raw)
    with open(tmp_path / "a", "rb", buffering=0) as file:
        found = [[(number, kind, value if isinstance(value, int) else bytes(value))
                  for number, kind, value in Wire().fields(piece)]
                 for piece in (memoryview(raw), FileView(file, "a", 0, len(raw)))]
    assert found[0] == found[1] == [(1, 0, 300), (2, BYTES, bytes(5000)), (3, FOUR, b"abcd" * 100),
                                    (4, FOUR, b"efgh")]


def test_a_file_that_is_cut_short(view, tmp_path):
    part = view[10_000:]
    os.truncate(tmp_path / "a", 15_000)
    assert len(bytes(view[:15_000])) == 15_000
    for use in (bytes, in_memory, lambda piece: piece[9_999]):
        with pytest.raises(DataError, match="a: became shorter while it was read.*Try again"):
            use(part)
