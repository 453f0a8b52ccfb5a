"""Windows of images for training detectors: R-CNN's window files, and batches of what is in them."""

from __future__ import annotations

import io
import math
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minidrop.data.image_list import read_list_file
from minidrop.data.images import decode, read_image_file, resize
from minidrop.data.limits import raised
from minidrop.data.mean_file import finite
from minidrop.errors import ConfigError, DataError
from minidrop.rng import generator

FILE_BYTES = 1 << 30            # of a window file
CACHE_BYTES = 1 << 30           # of image files that are kept in memory
CROP_MODES = ("warp", "square")
_PLACES = 2**31                 # beyond which no pixel can be
_NUMBERS = 7                    # of a Window


class Window(NamedTuple):
    """Columns x1..x2 and rows y1..y2 of an image, both inside, and the class of what is there."""

    image: int
    label: int
    box: tuple[int, int, int, int]
    line: int


class Windows:
    """Many Windows, in 28 bytes each: a window file of PASCAL VOC has ten million."""

    def __init__(self):
        self._numbers = array("i")

    def __len__(self):
        return len(self._numbers) // _NUMBERS

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        image, label, *box, line = self._numbers[_NUMBERS * index:_NUMBERS * (index + 1)]
        return Window(image, label, tuple(box), line)

    def append(self, window: Window) -> None:
        """Add a Window."""
        self._numbers.extend((window.image, window.label, *window.box, window.line))


class WindowFile:
    """The windows of a window file: `foreground` overlaps an object by fg_threshold or more, `background` by
    less than bg_threshold, and counts as class 0.

    For each image there are lines: "# number", its path, the number of its channels, its height, its width,
    the number of its windows, and for each of those "class overlap x1 y1 x2 y2". Raises DataError for
    anything else.
    """

    def __init__(self, path: str | os.PathLike, fg_threshold: float = 0.5, bg_threshold: float = 0.5):
        self.path = Path(path)
        self.images: list[tuple[str, tuple[int, int, int]]] = []        # path, (channels, height, width)
        self.foreground, self.background = Windows(), Windows()
        content = io.BytesIO(read_list_file(path, "the file of windows", FILE_BYTES))
        lines = enumerate((line.decode("utf-8", "surrogateescape").strip() for line in content), start=1)
        self._lines = ((number, line) for number, line in lines if line)
        for number, line in self._lines:
            if line.split()[0] != "#" or len(line.split()) != 2:
                raise self._wrong(number, "the beginning of an image, '# number'")
            self._read_image(fg_threshold, bg_threshold)
        if not self.images:
            raise DataError(f"{self.path}: expected images and their windows, got none; name another source")

    def where(self, window: Window) -> str:
        """Describe a window, for messages."""
        return f"{self.path}:{window.line}: window of image {self.images[window.image][0]!r}"

    def _read_image(self, fg_threshold, bg_threshold):
        _, name = self._line("the path of an image")
        if "\0" in name:
            raise DataError(f"{self.path}: expected the path of an image, got a zero byte in it; correct it")
        channels, height, width = (self._whole(f"the {what} of an image")
                                   for what in ("number of channels", "height", "width"))
        self.images.append((name, (channels, height, width)))
        for _ in range(self._whole("the number of an image's windows")):
            number, line = self._line("a window, 'class overlap x1 y1 x2 y2'")
            window, overlap = self._window(number, line)
            if overlap >= fg_threshold:
                if window.label < 1:
                    raise self._wrong(number, "a class of at least 1 for a window in the foreground")
                self.foreground.append(window)
            elif overlap < bg_threshold:
                self.background.append(window._replace(label=0))

    def _window(self, number, line):
        """Return the Window in a line, and its overlap."""
        try:
            label, overlap, *box = line.split()
            window = Window(len(self.images) - 1, int(label), tuple(map(int, box)), number)
            x1, y1, x2, y2 = window.box
            share = float(np.float32(overlap))
        except ValueError:
            raise self._wrong(number, "a window, 'class overlap x1 y1 x2 y2'") from None
        if (x2 < x1 or y2 < y1 or not math.isfinite(share)
                or max(map(abs, (window.label, *window.box))) >= _PLACES):
            raise self._wrong(number, "a window with x1 <= x2, y1 <= y2 and a finite overlap")
        return window, share

    def _line(self, what):
        found = next(self._lines, None)
        if found is None:
            raise DataError(f"{self.path}: expected {what}, got the end of the file; it is cut short: make "
                            "it again")
        return found

    def _whole(self, what):
        number, line = self._line(what)
        if not line.isascii() or not line.isdigit() or len(line) > 9:
            raise self._wrong(number, what)
        return int(line)

    def _wrong(self, number, what):
        # The line itself is not shown: a source may be any file that its reader may read.
        return DataError(f"{self.path}:{number}: expected {what}, got another line; correct the file, or "
                         "name another source")


@dataclass(frozen=True)
class Placed:
    """Where a window is cut out of its image, and where in the crop it goes: (top, left, height, width)."""

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]


def place_window(box: tuple[int, int, int, int], height: int, width: int, crop: int, context: int = 0,
                 square: bool = False, mirrored: bool = False) -> Placed:
    """Return how a window of an image of height x width fills a crop of crop x crop.

    With `context` the window is made larger, so that when scaled it has so many more pixels on each side;
    `square` makes it the smallest square around itself first. What is then outside the image stays empty in
    the crop. Rounds as Caffe does, in float32. Raises ValueError if the window and the image have nothing in
    common.

    Source: window_data_layer.cpp (BVLC/caffe).
    """
    x1, y1, x2, y2 = box
    if not context and not square:
        if x1 < 0 or y1 < 0 or x2 >= width or y2 >= height:
            raise ValueError(f"columns {x1}..{x2} and rows {y1}..{y2}")
        return Placed((y1, x1, y2 - y1 + 1, x2 - x1 + 1), (0, 0, crop, crop))
    factor = np.float32(crop) / np.float32(crop - 2 * context)
    half = [np.float32((last - first + 1) / 2) for first, last in ((y1, y2), (x1, x2))]
    centre = [np.float32(first) + part for first, part in zip((y1, x1), half, strict=True)]
    if square:
        half = [max(half)] * 2
    sides = [_side(*one, crop) for one in zip(centre, [part * factor for part in half], (height, width),
                                              strict=True)]
    (top, rows, above, _, into_rows), (left, columns, before, behind, into_columns) = sides
    # The scaled part and what is empty before it may not fit, because both were rounded.
    first = behind if mirrored else before
    into_rows, into_columns = min(into_rows, crop - above), min(into_columns, crop - first)
    if min(into_rows, into_columns) < 1:
        raise ValueError(f"columns {x1}..{x2} and rows {y1}..{y2}, of which no pixel is left")
    return Placed((top, left, rows, columns), (above, first, into_rows, into_columns))


def _side(centre, half, length, crop):
    """Return, of one axis: the first pixel of the image, how many, the empty ones before and behind in the
    crop, and how many pixels the others become."""
    begin, end = _rounded(centre - half), _rounded(centre + half)
    before, behind = max(0, -begin), max(0, end - length + 1)
    count = end - behind - (begin + before) + 1
    if count < 1:
        raise ValueError(f"pixels {begin}..{end} of an axis")
    scale = np.float32(crop) / np.float32(end - begin + 1)
    return begin + before, count, *(_rounded(np.float32(part) * scale) for part in (before, behind, count))


def _rounded(value):
    """Return the nearest integer, halves away from 0, as C's round()."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


class WindowBatches:
    """Batches of windows of a WindowFile, as a DataLayer reads them: batch(n) is a pure function of n.

    A batch has background first, then int(batch_size * fg_fraction) windows of the foreground, each drawn
    from all. A window becomes (window - mean) * scale of shape (3, crop, crop), blue, green, red. mean: an
    array (3,) or (3, height, width), of which the middle is taken; or None. Raises ConfigError for settings
    that do not fit.
    """

    def __init__(self, windows: WindowFile, batch_size: int, crop: int, fg_fraction: float = 0.25,
                 context: int = 0, square: bool = False, mirror: bool = False, mean: np.ndarray | None = None,
                 scale: float = 1.0, root: str = "", cache: bool = False, seed: int = 0, layer_name: str = "",
                 dtype: str = "float32"):
        self.windows, self.batch_size, self.crop = windows, batch_size, crop
        self.context, self.square, self.mirror, self.root = context, square, mirror, root
        self.seed, self.layer_name, self.dtype = seed, layer_name, np.dtype(dtype)
        self.scale = self.dtype.type(scale)
        foreground = int(np.float32(batch_size) * np.float32(fg_fraction))
        self._counts = batch_size - foreground, foreground
        for count, there, kind in zip(self._counts, (windows.background, windows.foreground),
                                      ("background", "foreground"), strict=True):
            if count and not there:
                raise ConfigError(f"window_data_param: {count} windows of a batch are {kind}, but "
                                  f"{windows.path} has none; change fg_fraction or {kind[0]}g_threshold")
        self.mean = self._cropped(mean)
        self._room = raised(CACHE_BYTES) if cache else 0
        self._kept: dict[str, bytes] = {}

    def batch(self, n: int) -> dict[str, np.ndarray]:
        """Return batch n: "data" (batch_size, 3, crop, crop) and "label" (batch_size,)."""
        data = np.zeros((self.batch_size, 3, self.crop, self.crop), self.dtype)
        label = np.zeros(self.batch_size, np.int32)
        for place, (window, mirrored) in enumerate(self._drawn(n)):
            self._put(data[place], window, mirrored)
            label[place] = window.label
        return {"data": data, "label": label}

    def where(self, n: int, place: int) -> str:
        """Describe the window that is entry `place` of batch n, for messages."""
        return self.windows.where(self._drawn(n)[place][0])

    def _drawn(self, n):
        """Return [(window, whether it is mirrored)] of batch n."""
        rng = generator(self.seed, "windows", self.layer_name, n)
        chosen = [there[i] for count, there in zip(self._counts, (self.windows.background,
                                                                  self.windows.foreground), strict=True)
                  for i in (rng.integers(len(there), size=count).tolist() if count else ())]
        mirrored = rng.integers(2, size=self.batch_size).tolist() if self.mirror else [0] * self.batch_size
        return list(zip(chosen, map(bool, mirrored), strict=True))

    def _put(self, out, window, mirrored):
        """Fill `out`, zeros, with a window."""
        image = self._image(window)
        try:
            placed = place_window(window.box, *image.shape[1:], self.crop, self.context, self.square,
                                  mirrored)
        except ValueError as error:
            raise DataError(f"{self.windows.where(window)}: expected a window in the image, which has "
                            f"{image.shape[2]} columns and {image.shape[1]} rows, got {error}; correct the "
                            "line") from None
        top, left, height, width = placed.source
        pixels = resize(image[:, top:top + height, left:left + width], *placed.target[2:])
        if mirrored:
            pixels = pixels[:, :, ::-1]
        top, left, height, width = placed.target
        part = slice(None), slice(top, top + height), slice(left, left + width)
        pixels = pixels.astype(self.dtype)
        if self.mean is not None:
            pixels -= self.mean[part] if self.mean.shape[1] > 1 else self.mean
        out[part] = pixels * self.scale

    def _image(self, window):
        name = self.root + self.windows.images[window.image][0]
        try:
            content = self._kept.get(name) or read_image_file(name)
            if name not in self._kept and len(content) <= self._room:
                self._kept[name] = content
                self._room -= len(content)
            return decode(content, color=True)
        except ValueError as error:
            raise DataError(f"{self.windows.where(window)}: expected an image, got {error}; correct or leave "
                            "it out") from error
        except DataError as error:
            raise DataError(f"{self.windows.where(window)}: {error}") from error

    def _cropped(self, mean):
        """Return the mean (3, 1, 1), or its middle (3, crop, crop), or None."""
        if mean is None:
            return None
        mean = finite(mean, self.dtype, "transform_param: the mean")
        if mean.ndim == 1:
            return mean.reshape(-1, 1, 1)
        if mean.ndim != 3 or mean.shape[0] != 3 or min(mean.shape[1:]) < self.crop:
            raise ConfigError(f"transform_param: the mean: expected a mean of 3 channels and at least "
                              f"{self.crop} x {self.crop}, got the shape {mean.shape}; make it of the images "
                              "that the windows are in")
        # Caffe takes the distance from the left edge for both axes.
        begin = (mean.shape[2] - self.crop) // 2
        if begin + self.crop > mean.shape[1]:
            raise ConfigError(f"transform_param: the mean: expected a square mean, got the shape "
                              f"{mean.shape}; scale it")
        return mean[:, begin:begin + self.crop, begin:begin + self.crop]
