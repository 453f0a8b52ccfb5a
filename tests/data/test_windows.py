"""R-CNN's window files: what they say, how windows are placed, and what batches are made of."""

import numpy as np
import pytest

from minidrop.data.images import encode, resize
from minidrop.data.windows import Placed, WindowBatches, WindowFile, place_window
from minidrop.errors import ConfigError, DataError

HEAD = "# 0\na.png\n3\n20\n30\n"


def window_file(folder, text, *thresholds):
    (folder / "windows.txt").write_text(text)
    return WindowFile(folder / "windows.txt", *thresholds)


def test_foreground_and_background(tmp_path):
    found = window_file(tmp_path, HEAD + "4\n2 0.5 0 1 2 3\n7 0.1 1 1 2 2\n4 0.35 0 0 1 1\n1 1 5 5 9 9\n"
                        "# 1\nb c.png\n3\n5\n6\n0\n", 0.5, 0.3)
    assert found.images == [("a.png", (3, 20, 30)), ("b c.png", (3, 5, 6))]
    assert [(window.label, window.box)
            for window in found.foreground] == [(2, (0, 1, 2, 3)), (1, (5, 5, 9, 9))]
    assert [(window.label, window.box, window.line) for window in found.background] == [(0, (1, 1, 2, 2), 8)]


@pytest.mark.parametrize("text, message", [
    ("", "expected images and their windows, got none"),
    ("a.png\n", ":1: expected the beginning of an image, '# number', got another line; correct the file"),
    ("# 0\n", "expected the path of an image, got the end of the file; it is cut short"),
    ("# 0\na.png\nx\n", ":3: expected the number of channels of an image, got another line"),
    (HEAD + "9999999999\n", ":6: expected the number of an image's windows, got another line"),
    (HEAD + "999999999\n1 1 0 0 1 1\n",
     "expected a window, 'class overlap x1 y1 x2 y2', got the end of the file"),
    (HEAD + "1\n1 1 0 0 1\n", ":7: expected a window, 'class overlap x1 y1 x2 y2', got another line"),
    (HEAD + "1\n1 1 5 0 1 1\n", ":7: expected a window with x1 <= x2, y1 <= y2 and a finite overlap"),
    (HEAD + "1\n1 nan 0 0 1 1\n", ":7: expected a window with x1 <= x2, y1 <= y2 and a finite overlap"),
    (HEAD + "1\n1 1 0 0 1 99999999999\n", ":7: expected a window with"),
    (HEAD + "1\n0 1 0 0 1 1\n", ":7: expected a class of at least 1 for a window in the foreground, got "
                                "another line"),
], ids=range(11))
def test_other_files(tmp_path, text, message):
    """None is shown: it may be any file that the user may read."""
    with pytest.raises(DataError) as caught:
        window_file(tmp_path, text)
    assert message in str(caught.value) and "windows.txt" in str(caught.value)
    assert not any(repr(line) in str(caught.value) for line in text.splitlines())


class TestPlaces:
    """By hand, from the description: the window, made larger by the context, fills the crop."""

    def test_without_context(self):
        assert place_window((2, 3, 5, 9), 20, 30, 8) == Placed((3, 2, 7, 4), (0, 0, 8, 8))
        with pytest.raises(ValueError, match=r"columns 2\.\.30 and rows 3\.\.9"):
            place_window((2, 3, 30, 9), 20, 30, 8)

    def test_context_inside(self):
        """A window of 12 x 12 in a crop of 12 with 3 on each side is doubled: 6 more a side, and one."""
        assert place_window((10, 10, 21, 21), 40, 40, 12, 3) == Placed((4, 4, 25, 25), (0, 0, 12, 12))

    def test_context_outside(self):
        """Rows and columns -6..18, of which 0..18 are there: 6 of 25 pixels of the crop's 12 stay empty."""
        placed = place_window((0, 0, 11, 11), 40, 40, 12, 3)
        assert placed == Placed((0, 0, 19, 19), (3, 3, 9, 9))
        assert place_window((0, 0, 11, 11), 40, 40, 12, 3,
                            mirrored=True) == Placed((0, 0, 19, 19), (3, 0, 9, 9))

    def test_square(self):
        """4 columns and 8 rows become 8 x 8, and one more, about the same centre."""
        assert place_window((10, 10, 13, 17), 40, 40, 9, square=True) == Placed((10, 8, 9, 9), (0, 0, 9, 9))

    def test_outside_altogether(self):
        for box in ((50, 0, 60, 9), (0, -30, 9, -20)):
            with pytest.raises(ValueError):
                place_window(box, 40, 40, 12, 3)

    def test_always_inside(self):
        rng = np.random.default_rng(0)
        placed = 0
        for _ in range(500):
            height, width, crop = rng.integers(5, 60, 3).tolist()
            x1, x2 = sorted(rng.integers(-5, width + 5, 2).tolist())
            y1, y2 = sorted(rng.integers(-5, height + 5, 2).tolist())
            context = int(rng.integers(0, (crop + 1) // 2))
            try:
                found = place_window((x1, y1, x2, y2), height, width, crop, context, bool(rng.integers(2)),
                                     bool(rng.integers(2)))
            except ValueError:
                continue
            placed += 1
            for (top, left, rows, columns), (most_rows, most_columns) in (
                    (found.source, (height, width)), (found.target, (crop, crop))):
                assert 0 <= top < top + rows <= most_rows and 0 <= left < left + columns <= most_columns
        assert placed > 300


class TestBatches:
    pytest.importorskip("PIL", reason="Pillow (the extra `images`) decodes images")
    TEXT = HEAD + "4\n2 0.9 0 1 9 12\n3 1 5 5 28 18\n1 0 0 0 29 19\n1 0.2 3 3 4 4\n"

    @pytest.fixture
    def image(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 256, (3, 20, 30), np.uint8)
        (tmp_path / "a.png").write_bytes(encode(image, "png"))
        return image

    def batches(self, folder, text=TEXT, **settings):
        return WindowBatches(window_file(folder, text), **{
            "batch_size": 8, "crop": 6, "fg_fraction": 0.3, "root": f"{folder}/", "layer_name": "w",
            **settings})

    def test_background_first(self, tmp_path, image):
        batches = self.batches(tmp_path, seed=4)
        labels = [batches.batch(n)["label"].tolist() for n in range(20)]
        assert all(row[:6] == [0] * 6 and set(row[6:]) <= {2, 3} for row in labels)
        assert {label for row in labels for label in row} == {0, 2, 3}
        boxes = {(0, 0, 29, 19): 9, (3, 3, 4, 4): 10, (0, 1, 9, 12): 7, (5, 5, 28, 18): 8}
        data = batches.batch(3)["data"]
        for place in range(8):
            line = int(batches.where(3, place).split(":")[1])
            x1, y1, x2, y2 = next(box for box, number in boxes.items() if number == line)
            assert (data[place] == resize(image[:, y1:y2 + 1, x1:x2 + 1], 6, 6)).all()

    def test_a_batch_is_a_function_of_its_number(self, tmp_path, image):
        one, other = (self.batches(tmp_path, mirror=True, cache=cache) for cache in (False, True))
        for n in (0, 5, 2):
            for name, array in one.batch(n).items():
                np.testing.assert_array_equal(array, other.batch(n)[name])
        assert (self.batches(tmp_path, seed=1).batch(0)["data"] != one.batch(0)["data"]).any()

    def test_mirror_mean_scale_and_empty_borders(self, tmp_path, image):
        text = HEAD + "1\n1 1 0 0 5 5\n"
        mean = np.arange(3 * 10 * 10).reshape(3, 10, 10)
        batches = self.batches(tmp_path, text, fg_fraction=1, crop=8, context=2, mirror=True, mean=mean,
                               scale=0.5)
        data = batches.batch(0)["data"]
        placed = [place_window((0, 0, 5, 5), 20, 30, 8, 2, mirrored=mirrored) for mirrored in (False, True)]
        pixels = resize(image[:, :placed[0].source[2], :placed[0].source[3]], *placed[0].target[2:])
        seen = set()
        for (_, mirrored), found in zip(batches._drawn(0), data, strict=True):
            seen.add(mirrored)
            top, left, height, width = placed[mirrored].target
            assert top == 2 and left == (0 if mirrored else 2)
            expected = np.zeros((3, 8, 8), np.float32)
            middle = mean[:, 1:9, 1:9][:, top:top + height, left:left + width]
            expected[:, top:top + height, left:left + width] = (
                (pixels[:, :, ::-1] if mirrored else pixels) - middle.astype(np.float32)) * 0.5
            np.testing.assert_array_equal(found, expected)
        assert seen == {True, False}

    def test_mean_values(self, tmp_path, image):
        plain, less = (self.batches(tmp_path, mean=mean) for mean in (None, np.array([1, 2, 3])))
        np.testing.assert_array_equal(less.batch(0)["data"][:, 1], plain.batch(0)["data"][:, 1] - 2)

    def test_what_does_not_fit(self, tmp_path, image):
        with pytest.raises(ConfigError, match="window_data_param: 2 windows of a batch are foreground, but "
                                              ".* has none; change fg_fraction or fg_threshold"):
            self.batches(tmp_path, HEAD + "1\n1 0 0 0 5 5\n")
        for mean in (np.zeros((3, 5, 9)), np.zeros((1, 9, 9)), np.zeros((3, 7, 20))):
            with pytest.raises(ConfigError, match="transform_param: the mean: expected a "):
                self.batches(tmp_path, mean=mean)
        outside = self.batches(tmp_path, HEAD + "1\n1 0 0 0 30 5\n", fg_fraction=0)
        with pytest.raises(DataError,
                           match=r"windows\.txt:7: window of image 'a\.png': expected a window in the image, "
                                            r"which has 30 columns and 20 rows, got columns 0\.\.30 and rows "
                                            r"0\.\.5"):
            outside.batch(0)
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(DataError, match=r"windows\.txt:\d+: .*: expected an image, got no image"):
            self.batches(tmp_path).batch(0)
        (tmp_path / "a.png").unlink()
        with pytest.raises(DataError, match=r"windows\.txt:\d+: .*a\.png: cannot be read"):
            self.batches(tmp_path).batch(0)
