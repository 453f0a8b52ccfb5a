"""Images in files and in records: decoded, made gray, resized, encoded, with the results that OpenCV gives.

Arrays are uint8 (channels, height, width), the channels in the order blue, green, red. Pillow decodes.
"""

import io
import os
from contextlib import suppress
from typing import Any

import numpy as np

from minidrop.data.limits import how_to_raise, raised
from minidrop.errors import DataError
from minidrop.files import read_regular

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")     # what OpenCV reads without further libraries
ENCODINGS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "bmp": "BMP", "tif": "TIFF", "tiff": "TIFF",
             "webp": "WEBP", "pgm": "PPM", "ppm": "PPM"}
FILE_BYTES = 256 << 20
PIXELS = 1 << 26            # of one image
SCANS = 100                 # of one JPEG: each costs as much time as decoding the image once
QUALITY = 95                # of encoded JPEGs, OpenCV's default
_ORIENTATION = 0x0112       # the EXIF tag
_BITS = 11                  # of the weights in `resize`


def pillow() -> Any:
    """Return the module PIL.Image. Raises DataError without Pillow."""
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("images: expected Pillow, which decodes them, got no such package; run: python -m "
                        'pip install "minidrop[images]", or python -m pip install pillow') from error
    return Image


def read_image_file(path: str | os.PathLike) -> bytes:
    """Return the content of an image file. Raises DataError unless it is a regular file below 256 MiB."""
    limit = raised(FILE_BYTES)
    try:
        content = read_regular(path, limit)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); check the "
                        "path and its permissions") from error
    if len(content) > limit:
        raise DataError(f"{path}: expected at most {limit} bytes of an image, got more; {how_to_raise()}")
    return content


def decode(content: bytes, color: bool | None = None) -> np.ndarray:
    """Return the image in `content`, uint8 (channels, height, width).

    color: True makes three channels and False one; both turn the image upright as its EXIF data says. None
    leaves what is there: 1 channel, 3, or 4 where it is transparent. Gray is OpenCV's to the bit, from PNG to
    1.

    Raises ValueError with what was found instead of an image, DataError without Pillow.
    """
    image_module = pillow()
    if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > SCANS:
        raise ValueError(f"a JPEG of more than {SCANS} scans, which takes too long")
    image = _opened(image_module, content)
    with image:
        if image.width * image.height > raised(PIXELS):
            raise ValueError(f"one of {image.width} x {image.height} pixels, more than {raised(PIXELS)} "
                             f"({how_to_raise()})")
        try:
            return _pixels(image, color)
        except (MemoryError, _Unfit):
            raise
        except Exception as error:      # Pillow raises whatever its decoders do
            raise ValueError(_said(error)) from error


class _Unfit(ValueError):
    """An image that is whole, but of a kind that is not read."""


def _opened(image_module, content):
    """Return a Pillow image whose pixels are not decoded yet.

    Pillow's own `open` has a limit on pixels that is the same for all of a program, and could only be raised
    for all of it; the caller has another one, looked at before a pixel is decoded. (Tiles of a TIFF keep
    Pillow's limit: they can be larger than their image.)
    """
    for load in (image_module.preinit, image_module.init):      # the usual formats first: that is fast
        load()
        for name in FORMATS:
            factory, accepts = image_module.OPEN.get(name, (None, None))
            fits = not accepts or accepts(content[:16])     # in words, where a library for it is missing
            if factory is None or not fits or isinstance(fits, str):
                continue
            try:
                return factory(io.BytesIO(content), "")
            except SyntaxError:         # what a decoder says that finds another format
                continue
            except Exception as error:
                raise ValueError(_said(error)) from error
    raise ValueError(f"no image ({', '.join(FORMATS)})")


def _said(error):
    return f"a damaged one ({' '.join(str(error).split())[:200] or type(error).__name__})"


def _pixels(image, color):
    """Return the array of an opened image."""
    kind = image.format
    if color is False and kind == "JPEG":
        image.draft("L", image.size)        # brightness as it is stored, not computed again from colours
    image.load()
    if color is not None:
        image = _upright(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Older Pillow reads a PNG of 16 bits as "I"; none has more.
        if color is None or not (image.mode.startswith("I;16") or image.mode == "I" and kind == "PNG"):
            raise _Unfit("one of 16 or 32 bits a pixel; make it one of 8")
        gray = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.stack([gray] * 3) if color else gray[None]
    if color is None and "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
    if image.mode in ("1", "L"):
        gray = np.asarray(image.convert("L"))
        return np.stack([gray] * 3) if color else gray[None]
    if image.mode != "RGB" and not (image.mode == "RGBA" and color is None):
        image = image.convert("RGB")
    pixels = np.asarray(image).transpose(2, 0, 1)
    if color is False:
        return _gray(pixels, kind)[None]
    return np.concatenate([pixels[2::-1], pixels[3:]])


def _upright(image):
    with suppress(Exception):       # EXIF data that cannot be read turns nothing
        if image.getexif().get(_ORIENTATION, 1) != 1:
            from PIL import ImageOps
            return ImageOps.exif_transpose(image)
    return image


def _gray(rgb, kind):
    """Return the brightness 0.299 R + 0.587 G + 0.114 B of pixels, in the fixed point that OpenCV, or libpng
    in it, computes with."""
    red, green, blue = rgb.astype(np.int32)
    if kind == "PNG":
        return (9798 * red + 19235 * green + 3735 * blue >> 15).astype(np.uint8)
    return (4899 * red + 9617 * green + 1868 * blue + (1 << 13) >> 14).astype(np.uint8)


def encode(image: np.ndarray, encoding: str) -> bytes:
    """Return an image uint8 (1 or 3 channels, height, width) in the format of a file name's ending, "png".

    Raises DataError for a format that cannot be written, or without Pillow.
    """
    name = ENCODINGS.get(encoding.lower().lstrip("."))
    if name is None:
        raise DataError(f"encode_type: expected one of {', '.join(ENCODINGS)}, got {encoding!r}; correct it")
    pixels = image[0] if len(image) == 1 else image[::-1].transpose(1, 2, 0)
    out = io.BytesIO()
    pillow().fromarray(np.ascontiguousarray(pixels)).save(
        out, name, **{"quality": QUALITY} if name in ("JPEG", "WEBP") else {})
    return out.getvalue()


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image uint8 (channels, h, w) scaled to (channels, height, width) by linear interpolation.

    Equal to OpenCV's resize with INTER_LINEAR, bit for bit: weights of 11 bits, and means of 2 x 2 pixels
    where both sides are halved.
    """
    if image.shape[1:] == (height, width):
        return image
    if image.shape[1:] == (2 * height, 2 * width):
        sums = image[:, ::2].astype(np.uint16) + image[:, 1::2]
        return (sums[:, :, ::2] + sums[:, :, 1::2] + 2 >> 2).astype(np.uint8)
    left, right, *across = _taps(image.shape[2], width, inside=True)
    above, below, *down = _taps(image.shape[1], height)
    # Columns first: only the rows that are read, each once, as 32-bit integers.
    rows, place = np.unique(np.concatenate([above, below]), return_inverse=True)
    wide = image[:, rows].astype(np.int32)
    wide = (wide[:, :, left] * across[0] + wide[:, :, right] * across[1]) >> 4
    near, far = (wide[:, part] * weight[:, None] >> 16 for part, weight in zip(
        np.split(place.reshape(-1), 2), down, strict=True))
    return np.clip(near + far + 2 >> 2, 0, 255).astype(np.uint8)


def _taps(length, wanted, inside=False):
    """Return, for each of `wanted` places, the two of `length` neighbours and their weights times 2 ** _BITS.

    inside: at an edge the neighbour alone counts; else both do, and are the same.
    """
    at = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).astype(np.float32)
    first = np.floor(at).astype(np.int64)
    rest = at - first.astype(np.float32)
    if inside:
        rest = np.where((first < 0) | (first >= length - 1), np.float32(0), rest)
    weights = (np.rint(part * np.float32(1 << _BITS)).astype(np.int32)
               for part in (np.float32(1) - rest, rest))
    return np.clip(first, 0, length - 1), np.clip(first + 1, 0, length - 1), *weights
