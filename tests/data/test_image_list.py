"""Lists of images and the images they name."""

import os

import numpy as np
import pytest

from minidrop.data import image_list
from minidrop.data.image_list import ImageList, ImageRecords
from minidrop.data.images import encode
from minidrop.errors import DataError

pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes images")


def listed(folder, text):
    (folder / "list.txt").write_bytes(text)
    return ImageList(folder / "list.txt")


@pytest.fixture
def pictures(tmp_path):
    """Three images, 4 x 5, 4 x 5 and 6 x 3, in a folder with a space in its name; their list."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (3, *size), np.uint8) for size in ((4, 5), (4, 5), (6, 3))]
    (tmp_path / "a b").mkdir()
    for n, array in enumerate(arrays):
        (tmp_path / "a b" / f"{n}.png").write_bytes(encode(array, "png"))
    return listed(tmp_path, b"a b/0.png 3\na b/1.png 1\n\na b/2.png -2\n"), arrays


def test_the_last_space_ends_the_path(tmp_path):
    images = listed(tmp_path, b"\xef\xbb\xbfa b c.jpg 12\r\n\n  x.png   +7  \n/caf\xc3\xa9 -1")
    assert [images.name(n) for n in range(3)] == ["a b c.jpg", "  x.png",
                                                  "/caf\N{LATIN SMALL LETTER E WITH ACUTE}"]
    assert images.labels.tolist() == [12, 7, -1] and images.where(1) == f"{tmp_path / 'list.txt'}:3"


@pytest.mark.parametrize("line", [
    b"a.jpg", b"a.jpg\t3", b"a.jpg x", b"3", b"a.jpg 99999999999", b"a.jpg 2147483648", b"a.jpg 1.5",
    b"a\0.jpg 1", b"\xff" * 300], ids=range(9))
def test_other_lines(tmp_path, line):
    """None is shown: it may be one of any file that the user may read."""
    with pytest.raises(DataError) as caught:
        listed(tmp_path, b"ok.jpg 1\n\n" + line + b"\n")
    assert str(caught.value) == (f"{tmp_path / 'list.txt'}:3: expected a path, a space and a label, an "
                                 "integer of 32 bits, got another line; correct it, or name another file")


def test_no_list(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="expected lines with a path and a label, got none"):
        listed(tmp_path, b"\n \n")
    with pytest.raises(DataError, match="none: the list of images cannot be read .*No such file"):
        ImageList(tmp_path / "none")
    monkeypatch.setattr(image_list, "LIST_BYTES", 5)
    with pytest.raises(DataError,
                       match="expected the list of images of at most 5 bytes, got more; if it is yours"):
        listed(tmp_path, b"a.jpg 1\n")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="cannot be read .expected a regular file, got a pipe or a device"):
        ImageList(tmp_path / "pipe")


def test_images_beside_the_list_and_behind_a_root(pictures, tmp_path, monkeypatch):
    images, arrays = pictures
    for records in (ImageRecords(images), ImageRecords(images, f"{tmp_path}/")):
        got = records.read(np.arange(2))
        assert (got["data"] == np.stack(arrays[:2])).all() and got["label"].tolist() == [3, 1]
    monkeypatch.chdir(tmp_path / "a b")
    named = listed(tmp_path, b"0.png 1\n")
    assert (ImageRecords(named).one(0)[0] == arrays[0]).all()


def test_size_and_gray(pictures):
    images, _ = pictures
    assert ImageRecords(images, size=(7, 8)).read(np.arange(3))["data"].shape == (3, 3, 7, 8)
    assert ImageRecords(images, color=False).read(np.arange(2))["data"].shape == (2, 1, 4, 5)
    assert [x.shape for x in ImageRecords(images, crop=3).read(np.arange(3))["data"]][2] == (3, 6, 3)
    with pytest.raises(DataError, match=r"list\.txt:4: image '.*a b/2\.png': expected 3 x 4 x 5 .* as of the "
                                        "first record, got 3 x 6 x 3; give new_height and new_width, or"):
        ImageRecords(images).read(np.arange(3))


def test_missing_and_damaged_images(pictures, tmp_path):
    images, _ = pictures
    (tmp_path / "a b" / "1.png").write_bytes(b"GIF89a")
    os.remove(tmp_path / "a b" / "2.png")
    records = ImageRecords(images)
    with pytest.raises(DataError, match=r"list\.txt:2: image '.*1\.png': expected an image, got no image "):
        records.one(1)
    with pytest.raises(DataError,
                       match=r"list\.txt:4: .*2\.png: cannot be read \(No such file or directory\)"):
        records.one(2)
