"""Images as arrays (height, width, channels): read, resized, cropped, and made the input of a net."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidrop.data.images import PIXELS, decode, read_image_file
from minidrop.data.limits import how_to_raise, raised
from minidrop.errors import DataError, ShapeError

# What each of red, green and blue adds to the brightness, as in scikit-image, by which Caffe's own load_image
# reads (ITU-R BT.709).
_BRIGHTNESS = np.array([0.2125, 0.7154, 0.0721], np.float32)


def load_image(path: str | os.PathLike, color: bool = True) -> np.ndarray:
    """Return an image file as float32 in [0, 1], (height, width, 3) in the order red, green, blue.

    color: False gives (height, width, 1), the brightness. The image is upright, of 8 bits a channel, and
    without its transparency. Raises DataError if the file is missing, no image, damaged, or too large, or if
    Pillow is not installed.
    """
    content = read_image_file(path)
    try:
        pixels = decode(content, color=True)[::-1].transpose(1, 2, 0)
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as an image, it is {error}; check that the file is "
                        f"whole") from None
    pixels = pixels.astype(np.float32, order="C") / np.float32(255)
    if color:
        return pixels
    grey = pixels[:, :, :1]
    return grey.copy() if (pixels == grey).all() else (pixels @ _BRIGHTNESS)[:, :, None]


def resize_image(image: np.ndarray, new_dims: Sequence[int], interp_order: int = 1) -> np.ndarray:
    """Return an image (height, width, channels) resized to new_dims = (height, width), as float32.

    interp_order: 1 interpolates between the four nearest pixels, 0 takes the nearest. The centre of the first
    pixel lies half a pixel inside, and outside the image its edge goes on: OpenCV's INTER_LINEAR. Nothing is
    smoothed first, so an image made much smaller shows single pixels.
    """
    image = np.asarray(image)
    height, width = _sizes(new_dims)
    if image.ndim != 3 or not image.size or image.dtype.kind not in "biuf":
        raise ShapeError(f"resize_image: expected numbers (height, width, channels), none of them 0, got "
                         f"shape {image.shape} of {image.dtype}")
    if interp_order not in (0, 1):
        raise DataError(f"resize_image: interp_order must be 0 (nearest) or 1 (linear), got {interp_order}")
    image = image.astype(np.float32, copy=False)
    for axis, length in ((0, height), (1, width)):
        if image.shape[axis] != length:
            image = _along(image, axis, length, interp_order)
    return image if image.base is None else image.copy()


def _sizes(new_dims):
    try:
        height, width = (int(length) for length in new_dims)
    except (TypeError, ValueError):
        raise ShapeError(f"resize_image: expected (height, width), got {new_dims!r}") from None
    if min(height, width) < 1 or height * width > raised(PIXELS):
        raise ShapeError(f"resize_image: expected a height and width of at least 1 and at most "
                         f"{raised(PIXELS)} pixels, got {height} x {width}; {how_to_raise()}")
    return height, width


def _along(image, axis, length, order):
    """Return an image resized along one axis."""
    before = image.shape[axis]
    places = (np.arange(length) + 0.5) * (before / length) - 0.5
    if order == 0:
        return image.take(np.clip(np.rint(places).astype(np.intp), 0, before - 1), axis)
    places = np.clip(places, 0, before - 1)
    low = np.floor(places).astype(np.intp)
    high = np.minimum(low + 1, before - 1)
    share = (places - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    first = image.take(low, axis)
    return first + (image.take(high, axis) - first) * share


def oversample(images: Any, crop_dims: Sequence[int]) -> np.ndarray:
    """Return ten crops of each image: the four corners and the centre, then the same mirrored left to right.

    images: arrays (height, width, channels) of one shape; crop_dims: (height, width) of a crop. Returns
    float32 (10 * images, height, width, channels), the ten of an image together. Raises ShapeError for a crop
    that is larger than the images.
    """
    images = [np.asarray(image) for image in images]
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise ShapeError(f"oversample: expected images (height, width, channels) of one shape, got shapes "
                         f"{', '.join(map(str, shapes)) or 'of none'}")
    height, width, channels = shapes[0]
    rows, columns = (int(length) for length in crop_dims)
    if not 1 <= rows <= height or not 1 <= columns <= width:
        raise ShapeError(f"oversample: expected crops of at most {height} x {width}, the size of the images, "
                         f"got {rows} x {columns}")
    lows, lefts = (0, height - rows), (0, width - columns)
    corners = [(top, left) for top in lows for left in lefts] + [((height - rows) // 2,
                                                                  (width - columns) // 2)]
    crops = np.empty((10 * len(images), rows, columns, channels), np.float32)
    for i, image in enumerate(images):
        for j, (top, left) in enumerate(corners):
            crop = image[top:top + rows, left:left + columns]
            crops[10 * i + j] = crop
            crops[10 * i + 5 + j] = crop[:, ::-1]
    return crops


def fit_mean(mean: Any, shape: Sequence[int]) -> np.ndarray:
    """Return a mean that can be taken off an input of `shape`, (batch, channels, height, width), as float32.

    mean: one number for each channel, or an array (channels, height, width), also with an axis of 1 before
    it, or for one channel (height, width); it is resized to the input. Raises ShapeError for others.
    """
    mean, (channels, *size) = np.asarray(mean, np.float32), shape[1:]
    if mean.shape == (channels,):
        return mean[:, None, None]
    if mean.ndim == 4 and len(mean) == 1:
        mean = mean[0]
    if mean.ndim == 2 and channels == 1:
        mean = mean[None]
    if mean.ndim != 3 or len(mean) != channels or not mean.size:
        raise ShapeError(f"mean: expected {channels} numbers or an array ({channels}, height, width), got "
                         f"shape {mean.shape}")
    return resize_image(mean.transpose(1, 2, 0), size).transpose(2, 0, 1)


def to_input(image: Any, size: Sequence[int], transpose: Sequence[int] | None = None,
             channel_swap: Sequence[int] | None = None, raw_scale: float | None = None,
             mean: np.ndarray | None = None, input_scale: float | None = None) -> np.ndarray:
    """Return an image (height, width, channels) as the input of a net, float32, an array of its own.

        y = (swapped(transposed(resized(x))) * raw_scale - mean) * input_scale

    size: the (height, width) to which it is resized; what is None is left out. channel_swap: where each
    channel comes from, once `transpose` has put the channels first. Raises ShapeError.
    """
    image = np.asarray(image)
    x = image.astype(np.float32) if image.shape[:2] == tuple(size) else resize_image(image, size)
    if transpose is not None:
        x = x.transpose(transpose)
    if channel_swap is not None:
        x = x[list(channel_swap)]
    if raw_scale is not None:
        x = x * np.float32(raw_scale)
    if mean is not None:
        x = x - mean
    if input_scale is not None:
        x = x * np.float32(input_scale)
    return np.ascontiguousarray(x)
