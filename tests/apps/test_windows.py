"""Windows of images with their context: against Caffe's own steps, and sizes that leave nothing."""

import re

import numpy as np
import pytest

from minidrop.apps.windows import crop_window
from minidrop.data.image_arrays import resize_image
from minidrop.errors import ShapeError

IMAGE = np.random.default_rng(0).random((9, 12, 3)).astype(np.float32)


@pytest.mark.parametrize("window, rows, columns, to_rows, to_columns", [
    ((3, 4, 6, 7), (2, 8), (3, 9), (0, 6), (0, 8)),
    ((0, 0, 2, 3), (0, 4), (0, 5), (1, 6), (1, 8)),         # beyond the image's top and left
    ((6, 8, 9, 12), (5, 9), (7, 12), (0, 4), (0, 6)),       # beyond its bottom and right
])
def test_where_windows_go(window, rows, columns, to_rows, to_columns):
    fill = np.full((6, 8, 3), 7, np.float32)
    expected = fill.copy()
    shape = to_rows[1] - to_rows[0], to_columns[1] - to_columns[0]
    part = resize_image(IMAGE[slice(*rows), slice(*columns)], shape)
    expected[slice(*to_rows), slice(*to_columns)] = part
    np.testing.assert_array_equal(crop_window(IMAGE, window, fill, 1), expected)
    assert (fill == 7).all()


def test_the_rule_of_caffes_detector_along_one_axis():
    """21 to 65 of 71 pixels: how the half is rounded hangs on the order of the operations, here Caffe's."""
    image = np.arange(71, dtype=np.float32)[:, None, None].repeat(56, 1)
    found = crop_window(image, (21, 0, 65, 56), np.full((56, 56, 1), -1, np.float32), 18)
    assert np.flatnonzero(found[:, 28, 0] >= 0).tolist() == list(range(8, 40))


def test_a_large_context_leaves_at_least_a_pixel_of_the_image():
    rng = np.random.default_rng(1)
    for _ in range(300):
        side, length = (int(rng.integers(3, 30)) for _ in range(2))
        low = int(rng.integers(0, length))
        high, pad = int(rng.integers(low + 1, length + 1)), int(rng.integers(1, (side - 1) // 2 + 1))
        fill = np.full((side, side, 1), -1, np.float32)
        found = crop_window(np.ones((length, length, 1), np.float32), (low, low, high, high), fill, pad)
        assert found.shape == fill.shape and found.max() == 1


@pytest.mark.parametrize("window", [(0, 0, 10, 3), (-1, 0, 2, 3), (2, 2, 2, 3), (0, 3, 2, 3)])
@pytest.mark.parametrize("pad", [0, 1])
def test_windows_that_are_not_inside_the_image(window, pad):
    for given in (window, np.array(window)):        # scripts have the rows of an array
        with pytest.raises(ShapeError, match=f"within the image of 9 x 12, got {re.escape(str(window))}"):
            crop_window(IMAGE, given, np.zeros((6, 8, 3)), pad)


def test_without_context_it_is_the_window():
    np.testing.assert_array_equal(crop_window(IMAGE, (1, 2, 4, 8), np.zeros((6, 8, 3))), IMAGE[1:4, 2:8])
