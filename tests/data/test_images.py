"""Images are decoded, made gray, resized and encoded as OpenCV does; bombs and damaged ones are refused."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest

from minidrop.data import images
from minidrop.data.images import decode, encode, read_image_file, resize
from minidrop.errors import DataError

Image = pytest.importorskip("PIL.Image", reason="Pillow (the extra `images`) decodes them")
LOSSLESS = ("png", "bmp", "tiff", "ppm")


@pytest.fixture
def cv2():
    return pytest.importorskip("cv2", reason="OpenCV (the extra `peers`) is the reference here")


def picture(height=24, width=20, channels=3, seed=0):
    """A smooth image (channels, height, width), as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (channels, -(-height // 4), -(-width // 4)), np.uint8)
    return resize(coarse, height, width)


def saved(image, name, **how):
    """The bytes of a Pillow image."""
    out = io.BytesIO()
    image.save(out, name, **how)
    return out.getvalue()


def from_cv2(array):
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("encoding", ["png", "jpg", "bmp", "tiff", "webp", "ppm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_as_opencv_decodes(cv2, encoding, channels):
    image = picture(33, 21, channels)
    name = "pgm" if encoding == "ppm" and channels == 1 else encoding
    made = cv2.imencode(f".{name}", image.transpose(1, 2, 0))[1]
    for flag, color in ((cv2.IMREAD_COLOR, True), (cv2.IMREAD_GRAYSCALE, False),
                        (cv2.IMREAD_UNCHANGED, None)):
        expected = from_cv2(cv2.imdecode(made, flag))
        got = decode(made.tobytes(), color)
        assert got.shape == expected.shape and got.dtype == np.uint8
        # From PNG and WebP OpenCV makes gray in other fixed points.
        most = 1 if color is False and encoding in ("png", "webp") else 0
        assert np.abs(got.astype(int) - expected).max() <= most


def test_upright_as_opencv_turns_it_and_as_it_is(cv2):
    turned = Image.fromarray(picture().transpose(1, 2, 0))
    exif = turned.getexif()
    exif[0x0112] = 6
    content = saved(turned, "JPEG", exif=exif)
    expected = from_cv2(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
    assert expected.shape == (3, 20, 24) and (decode(content, True) == expected).all()
    assert decode(content, None).shape == (3, 24, 20)


@pytest.mark.parametrize("seed", range(40))
def test_resize_is_that_of_opencv_to_the_bit(cv2, seed):
    rng = np.random.default_rng(seed)
    height, width, new_height, new_width = rng.integers(1, 60, 4).tolist()
    if seed % 4 == 0:
        height, width = 2 * new_height, 2 * new_width
    image = rng.integers(0, 256, (3, height, width), np.uint8)
    expected = cv2.resize(image.transpose(1, 2, 0), (new_width, new_height))
    np.testing.assert_array_equal(resize(image, new_height, new_width), from_cv2(expected))


def test_resize_by_hand():
    row = np.array([[[0, 100]]], np.uint8)
    assert resize(row, 1, 4).tolist() == [[[0, 25, 75, 100]]]
    assert resize(np.array([[[1, 2], [4, 8]]], np.uint8), 1, 1).tolist() == [[[4]]]
    assert resize(row, 1, 2) is row


@pytest.mark.parametrize("encoding", LOSSLESS)
def test_what_is_encoded_is_decoded(encoding):
    image = picture()
    assert (decode(encode(image, encoding)) == image).all()
    # PPM has a gray form with another name.
    assert (decode(encode(image[:1], "pgm" if encoding == "ppm" else encoding)) == image[:1]).all()
    assert np.abs(decode(encode(image, ".JPG")).astype(int) - image).mean() < 8


def test_an_unknown_encoding():
    with pytest.raises(DataError, match="^encode_type: expected one of jpg, .*, got 'gif'; correct it$"):
        encode(picture(), "gif")


def test_modes_of_all_kinds():
    pixels = picture().transpose(1, 2, 0)
    rgb = Image.fromarray(pixels)
    for mode, channels in (("RGBA", 4), ("LA", 4), ("L", 1), ("1", 1), ("P", 3)):
        content = saved(rgb.convert(mode), "PNG")
        assert [decode(content, color).shape for color in (None, True, False)] == [
            (channels, 24, 20), (3, 24, 20), (1, 24, 20)]
    assert decode(saved(rgb.convert("CMYK"), "JPEG"), None).shape == (3, 24, 20)
    assert (decode(saved(rgb, "PNG")) == pixels.transpose(2, 0, 1)[::-1]).all()
    deep = saved(Image.fromarray(np.full((3, 2), 0xABCD, np.uint16)), "PNG")
    assert decode(deep, False).tolist() == [[[0xAB] * 2] * 3] and decode(deep, True).shape == (3, 3, 2)
    with pytest.raises(ValueError, match="^one of 16 or 32 bits a pixel; make it one of 8$"):   # no damage
        decode(deep)


def png_of(width, height):
    """A PNG that says it has so many pixels."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""))


@pytest.mark.parametrize("content, message", [
    (b"", "^no image"), (b"no image at all", r"^no image \(BMP, JPEG, PNG, PPM, TIFF, WEBP\)$"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "^no image"),
    (png_of(10000, 8000), "^one of 10000 x 8000 pixels, more than 67108864 "),
    (png_of(2**31 - 1, 2**31 - 1), "^one of 2147483647 x 2147483647 pixels, more than"),
    (png_of(64, 64), "^a damaged one"),
    (b"\xff\xd8" + b"\xff\xda" * 101, "^a JPEG of more than 100 scans"),
], ids=["empty", "text", "program", "large", "huge", "short", "scans"])
def test_what_is_no_image_costs_nothing(content, message):
    with pytest.raises(ValueError, match=message):
        decode(content)


def test_pillows_own_limit_is_not_ours(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)         # an error from twice as many on
    image = picture()
    for encoding in ("png", "bmp", "ppm"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert (decode(encode(image, encoding), True) == image).all()
    assert Image.MAX_IMAGE_PIXELS == 100


def test_one_cut_short():
    content = encode(picture(60, 60), "jpg")
    for end in range(0, len(content) - 2, len(content) // 20):
        with pytest.raises(ValueError, match="^(no image|a damaged one)"):
            decode(content[:end])


def test_the_files(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encode(picture(), "png"))
    assert (decode(read_image_file(path)) == picture()).all()
    for name, message in (("none", "cannot be read .*No such file"), (".", "cannot be read .*directory")):
        with pytest.raises(DataError, match=message):
            read_image_file(tmp_path / name)
    monkeypatch.setattr(images, "FILE_BYTES", 10)
    with pytest.raises(DataError, match=r"a\.png: expected at most 10 bytes of an image, got more; if it is"):
        read_image_file(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    import os
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: cannot be read .expected a regular file, got a pipe"):
        read_image_file(tmp_path / "pipe")


def test_without_pillow(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r'^images: expected Pillow.*pip install "minidrop\[images\]"'):
        decode(b"x")
