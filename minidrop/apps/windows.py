"""Windows of images with what is around them, as Caffe's detector cuts them for a net."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.data.image_arrays import resize_image
from minidrop.errors import ShapeError


def crop_window(image: np.ndarray, window: Any, fill: np.ndarray, context_pad: int = 0) -> np.ndarray:
    """Return a window (top, left, bottom, right) of an image (height, width, channels), float32.

    bottom and right are not included. With context_pad the result has the shape of `fill`, the image that
    shows where this one ends, and `context_pad` pixels at each of its edges are of around the window;
    without, it is as large as the window. Raises ShapeError for a window that is not inside the image.
    """
    top, left, bottom, right = (int(place) for place in window)
    if not (0 <= top < bottom <= image.shape[0] and 0 <= left < right <= image.shape[1]):
        raise ShapeError(f"expected a window (top, left, bottom, right) within the image of "
                         f"{image.shape[0]} x {image.shape[1]}, got {(top, left, bottom, right)}")
    if not context_pad:
        return image[top:bottom, left:right]
    rows, to_rows = _places(top, bottom, image.shape[0], fill.shape[0], context_pad)
    columns, to_columns = _places(left, right, image.shape[1], fill.shape[1], context_pad)
    whole = fill.astype(np.float32)
    whole[to_rows, to_columns] = resize_image(image[rows, columns], whole[to_rows, to_columns].shape[:2])
    return whole


def _places(low, high, length, side, pad):
    """Return along one axis (what to take of the image, where it goes in the result).

    Caffe counts the last pixel as part of what it measures, though not of what it takes: so the sizes below
    are one larger than the slices.
    """
    half = (high - low + 1) / 2
    reach = half * (side / (side - 2 * pad))
    first, last = round(low + half - reach), round(low + half + reach)
    scale = side / (last - first + 1)
    begin, end = max(first, 0), min(last, length)
    at = min(round((begin - first) * scale), side - 1)
    size = max(round((end - begin + 1) * scale), 1)
    return slice(begin, end), slice(at, min(at + size, side))
