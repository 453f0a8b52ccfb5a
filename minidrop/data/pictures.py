"""PictureRecords: records that are an image and a label, perhaps of different sizes."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from minidrop.data.limits import how_to_raise, raised
from minidrop.data.records import Records
from minidrop.errors import DataError

BATCH_BYTES = 1 << 30       # of unpacked images


class PictureRecords(Records):
    """Records with the arrays "data" (channels, height, width) and "label". A subclass defines `one`.

    All have as many channels as the first. Their heights and widths are the first one's too, except that they
    may be any from `crop` on where that is given, and any at all in a batch of one. Then `read` returns
    "data" as a list of arrays, or as an array of another shape than the layout says.
    """

    windowed = False
    unpacks = True          # whether images like the first can need much more memory than their records

    def __init__(self, crop: int = 0):
        self.crop = crop

    def one(self, index: int) -> tuple[np.ndarray, int]:
        """Return the image (channels, height, width) and the label of a record."""
        raise NotImplementedError

    def how_to_mend(self) -> str:
        """Return what a user can do about images of different sizes."""
        return "give transform_param a crop_size, take batch_size 1, or scale all images to one size"

    @cached_property
    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """{name: (shape, dtype)} of image and label, as those of the first record are."""
        image, _ = self.one(0)
        return {"data": (image.shape, image.dtype), "label": ((), np.dtype(np.int32))}

    def read(self, indices: np.ndarray) -> dict[str, Any]:
        """Return {"data": array, or list of arrays that differ; "label": array}, as in Records.

        Raises DataError for batches that need too much memory, and for images that differ in size.
        """
        count = len(indices)
        if self.unpacks and count * self.record_bytes > raised(BATCH_BYTES):
            raise DataError(f"{self.name}: expected batches of at most {raised(BATCH_BYTES) >> 20} MiB, got "
                            f"{count} images of {self.record_bytes} bytes; use a smaller batch_size, or, "
                            f"{how_to_raise()}")
        out = self.empty(count)
        images, labels = out["data"], out["label"]
        unlike: dict[int, np.ndarray] = {}
        room = raised(BATCH_BYTES)
        for place, index in enumerate(indices.tolist()):
            image, labels[place] = self.one(index)
            if image.shape == images.shape[1:] and image.dtype == images.dtype:
                images[place] = image
                continue
            self._check(image, index, count)
            unlike[place] = image
            room -= image.nbytes
            if room < 0:      # also where the first is no packed image
                raise DataError(f"{self.where(index)}: expected batches of at most "
                                f"{raised(BATCH_BYTES) >> 20} MiB, got larger images; use a smaller "
                                f"batch_size, or, {how_to_raise()}")
        if not unlike:
            return out
        every = [unlike.get(place, image) for place, image in enumerate(images)]
        alike = all(image.shape == every[0].shape for image in every)
        return {"data": np.stack(every) if alike else every, "label": labels}

    def _check(self, image, index, count):
        """Raise DataError unless an image may stand in a batch of `count` beside those of the layout."""
        expected, _ = self.layout["data"]
        least = min(image.shape[1:])
        if image.shape[0] == expected[0] and (
                image.shape == expected or (least >= self.crop if self.crop else count == 1)):
            return
        wanted = (f"{expected[0]} channels and a height and width of at least {self.crop}" if self.crop else
                  f"{' x '.join(map(str, expected))} (channels, height, width) as of the first record")
        mend = ("make all images of one kind, in colour or gray" if image.shape[0] != expected[0] else
                f"leave out smaller images, or lower crop_size, {self.crop}" if self.crop else
                self.how_to_mend())
        got = " x ".join(map(str, image.shape))
        raise DataError(f"{self.where(index)}: expected {wanted}, got {got}; {mend}")
