"""Images: read, resized, cropped."""

import os

import numpy as np
import pytest

from minidrop.data.image_arrays import load_image, oversample, resize_image
from minidrop.errors import DataError, ShapeError

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [255, 255, 255], [0, 0, 0]]],
                   np.uint8)


def saved(path, pixels, **more):
    Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    Image.fromarray(pixels, **more).save(path)
    return path


def test_load_image_gives_rgb_in_0_to_1_and_the_brightness(tmp_path):
    path = saved(tmp_path / "a.png", COLOURS)
    image = load_image(path)
    assert image.dtype == np.float32 and image.shape == (2, 3, 3)
    np.testing.assert_array_equal(image, COLOURS.astype(np.float32) / 255)
    grey = load_image(path, color=False)
    assert grey.shape == (2, 3, 1)
    np.testing.assert_allclose(grey[0, :, 0], [0.2125, 0.7154, 0.0721], rtol=1e-6)


def test_load_image_of_grey_deep_and_transparent_files(tmp_path):
    grey = load_image(saved(tmp_path / "grey.png", COLOURS[:, :, 0]))
    np.testing.assert_array_equal(grey[:, :, 2], COLOURS[:, :, 0].astype(np.float32) / 255)
    deep = load_image(saved(tmp_path / "deep.png", np.array([[0, 65535]], np.uint16)), color=False)
    np.testing.assert_array_equal(deep[0, :, 0], [0, 1])
    alpha = np.concatenate([COLOURS, np.full((2, 3, 1), 7, np.uint8)], axis=2)
    np.testing.assert_array_equal(load_image(saved(tmp_path / "a.png", alpha)),
                                  COLOURS.astype(np.float32) / 255)


def test_load_image_refuses_what_is_none(tmp_path, monkeypatch):
    path = saved(tmp_path / "whole.png", COLOURS)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:50])
    os.mkfifo(tmp_path / "pipe")
    for name, what in (("text.png", "as an image, it is no image"), ("cut.png", "it is a damaged one"),
                       ("missing.png", "cannot be read"), ("pipe", "expected a regular file"),
                       (".", "cannot be read")):
        with pytest.raises(DataError, match=what):
            load_image(tmp_path / name)
    monkeypatch.setattr("minidrop.data.images.PIXELS", 5)
    with pytest.raises(DataError, match="3 x 2 pixels, more than 5"):
        load_image(path)


@pytest.mark.parametrize("size", [(7, 9), (3, 4), (5, 6), (1, 1), (5, 12), (11, 6)])
def test_resize_equals_opencv(size):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    image = np.random.default_rng(0).random((5, 6, 3), np.float32)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize_image(image, size), expected, atol=1e-6)


def test_resize_by_hand():
    line = np.array([[[0.0], [4.0]]])
    np.testing.assert_allclose(resize_image(line, (1, 4))[0, :, 0], [0, 1, 3, 4])
    np.testing.assert_array_equal(resize_image(line, (2, 4), 0)[1, :, 0], [0, 0, 4, 4])
    same = resize_image(line, (1, 2))
    same[...] = 9
    assert line.max() == 4


@pytest.mark.parametrize("image, size, order, what", [
    (np.zeros((2, 2)), (2, 2), 1, "height, width, channels"), (np.zeros((2, 2, 0)), (2, 2), 1, "none of"),
    (np.zeros((2, 2, 1)), (0, 2), 1, "at least 1"), (np.zeros((2, 2, 1)), (1 << 20, 1 << 20), 1, "pixels"),
    (np.zeros((2, 2, 1)), 3, 1, r"expected \(height, width\)"),
    (np.zeros((2, 2, 1)), (3, 3), 3, "0 .nearest"),
])
def test_resize_refuses(image, size, order, what):
    with pytest.raises((ShapeError, DataError), match=what):
        resize_image(image, size, order)


def test_oversample_takes_corners_centre_and_mirrors():
    images = [np.arange(30.0).reshape(5, 6, 1), np.arange(30.0).reshape(5, 6, 1) + 100]
    crops = oversample(images, (3, 2))
    assert crops.shape == (20, 3, 2, 1) and crops.dtype == np.float32
    assert crops[:5, 0, 0, 0].tolist() == [0, 4, 12, 16, 8]     # the first pixels, row by row of the corners
    np.testing.assert_array_equal(crops[5:10], crops[:5, :, ::-1])
    np.testing.assert_array_equal(crops[10:], crops[:10] + 100)


def test_oversample_refuses():
    with pytest.raises(ShapeError, match="at most 5 x 6"):
        oversample([np.zeros((5, 6, 1))], (6, 6))
    with pytest.raises(ShapeError, match="of one shape"):
        oversample([np.zeros((5, 6, 1)), np.zeros((4, 6, 1))], (2, 2))
