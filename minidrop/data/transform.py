"""What a TransformationParameter does to the first top of a data layer."""

from __future__ import annotations

import math

import numpy as np
from google.protobuf.message import Message

from minidrop.config import decimal
from minidrop.data.mean_file import finite, mean_of_settings
from minidrop.errors import ConfigError, DataError
from minidrop.rng import stream_key

_ONLY_FOR_ENCODED = ("force_color", "force_gray")
_MIRROR, _ROW, _COLUMN = range(3)       # the random words of a record, one for each purpose
_WORDS = 4                              # that Philox makes at a time
_PIECE = 1 << 16        # numbers that are worked on together: they stay in the cache


class Transform:
    """What transform_param makes of records: crop, take off the mean, mirror, scale.

        y = (crop(x) - crop(mean)) * scale, then perhaps mirrored left to right

    of shape (records, channels, crop_size, crop_size), or as x where crop_size is 0. The mean of an image is
    that of its pixels before cropping and mirroring. Of an image of H rows the crop begins at row
    (H - crop_size) // 2 in TEST, in TRAIN anywhere; columns likewise. `mirror` turns every other image on
    average, also in TEST.

    Images may be of other sizes than `shape` says, if the mean has no size of its own.

    What is drawn depends on (seed, layer name) and on the number of the record, counted from the beginning of
    the run through all epochs: neither on the batch size nor on who reads. Immutable.

    Raises ConfigError for settings that do not suit records of `shape`, DataError for a mean file that cannot
    be read. Source: data_transformer.cpp (BVLC/caffe).
    """

    def __init__(self, settings: Message, shape: tuple[int, ...], dtype: str, phase: str = "TEST",
                 seed: int = 0, layer_name: str = "", config_path: str | None = None, encoded: bool = False):
        self.record, self.dtype, self.training = tuple(shape), np.dtype(dtype), phase == "TRAIN"
        for name in _ONLY_FOR_ENCODED:
            if getattr(settings, name) and not encoded:
                raise ConfigError(f"transform_param: {name} is for encoded images (JPEG, PNG); these records "
                                  "are arrays: leave it out")
        self.crop, self.mirror = settings.crop_size, settings.mirror
        for name in ("crop_size", "mirror"):
            if getattr(settings, name) and len(shape) != 3:
                raise ConfigError(f"transform_param: {name} needs records (channels, height, width), got "
                                  f"records of shape {self.record}")
        if self.crop > min(shape[1:], default=0) and self.crop:
            raise ConfigError(f"transform_param: crop_size must be at most the height and width of the "
                              f"images, {shape[1]} x {shape[2]}, got {self.crop}")
        self.shape = (shape[0], self.crop, self.crop) if self.crop else self.record
        self.scale = self.dtype.type(decimal(settings.scale)) if settings.HasField("scale") else None
        self.mean = self._mean(settings, config_path)
        self._key = stream_key(seed, "transform", layer_name)

    def __call__(self, x: np.ndarray | list[np.ndarray], position: int = 0) -> np.ndarray:
        """Return the transformed records x, of the Transform's dtype; `position` is the number of the first.

        x is an array, or where crop_size is given a list of images of any sizes from crop_size on. x is not
        changed; what is returned may be x. Raises DataError if the mean has another size than the images.
        """
        alike = isinstance(x, np.ndarray)
        self._check_mean([x] if alike else x)
        if not self.crop and not self.mirror:
            return self._plain(x)
        height, width = x.shape[2:] if isinstance(x, np.ndarray) and not self.crop else (self.crop, self.crop)
        out = np.empty((len(x), self.record[0], height, width), self.dtype)
        drawn = list(zip(out, *self._drawn(position, len(x)), strict=True))
        step = max(1, _PIECE // max(1, math.prod(self.record))) if alike else 1
        for begin in range(0, len(x), step):
            piece = self._plain(x[begin:begin + step] if alike else x[begin][None])
            for image, (place, turned, *words) in zip(piece, drawn[begin:begin + step], strict=True):
                row, column = (self._begin(*pair) for pair in zip(
                    words, image.shape[1:], (height, width), strict=True))
                image = image[:, row:row + height, column:column + width]
                place[...] = image[:, :, ::-1] if turned else image
        return out

    def _begin(self, word, length, cropped):
        """Return where on an axis the crop begins."""
        room = length - cropped
        return word * (room + 1) >> 32 if self.training else room // 2

    def _check_mean(self, images):
        """Raise DataError unless each of these images, or arrays of them, has the size of the mean."""
        if self.mean is None or self.mean.ndim < 3 or self.mean.shape[1:] == (1, 1):
            return
        for place, image in enumerate(images):
            if image.shape[-2:] != self.mean.shape[1:]:
                raise DataError(
                    f"transform_param: mean_file: expected images of {self.mean.shape[1]} x "
                    f"{self.mean.shape[2]} as in the file, got {image.shape[-2]} x {image.shape[-1]} in "
                    f"entry {place} of the batch; use mean_value for images of different sizes, or make them "
                    "alike")

    def _plain(self, x):
        """Return (x - mean) * scale."""
        x = x if self.mean is None else x - self.mean
        if self.scale is None:
            return x.astype(self.dtype, copy=False)
        return np.multiply(x, self.scale, dtype=self.dtype)

    def _drawn(self, position, count):
        """Return lists, of `count` records from `position` on: whether mirrored, and words for row and
        column."""
        words = np.random.Philox(key=self._key, counter=position).random_raw(_WORDS * count)
        words = words.reshape(count, _WORDS) >> np.uint64(32)
        mirrored = words[:, _MIRROR] >> np.uint64(31) == 1
        yield mirrored.tolist() if self.mirror else [False] * count
        for word in (_ROW, _COLUMN):
            yield words[:, word].tolist()

    def _mean(self, settings, config_path):
        """Return what to take off, an array that fits records or (1,), or None."""
        found = mean_of_settings(settings, config_path)
        if found is not None:
            mean, what = found
            if mean.shape != self.record:
                raise ConfigError(f"{what}: expected a mean of shape "
                                  f"{self.record}, that of the records before cropping, got {mean.shape}; "
                                  "make it of this data with: python scripts/compute_mean.py, or of a "
                                  "database with: minidrop compute_image_mean")
            return finite(mean, self.dtype, what)
        channels = self.record[0] if len(self.record) == 3 else 1
        count = len(settings.mean_value)
        if count not in (0, 1, channels):
            raise ConfigError(f"transform_param: expected one mean_value, or one for each of the {channels} "
                              f"channels, got {count}")
        if not count:
            return None
        mean = np.array([decimal(value) for value in settings.mean_value], self.dtype)
        return mean.reshape(-1, 1, 1) if count > 1 else mean
