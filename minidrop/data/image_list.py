"""Lists of images: text files with a path and a label in each line; and their images as records."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Protocol

import numpy as np

from minidrop.data.images import decode, read_image_file, resize
from minidrop.data.limits import how_to_raise, raised
from minidrop.data.pictures import PictureRecords
from minidrop.errors import DataError
from minidrop.files import in_order, read_regular

LIST_BYTES = 256 << 20


def read_list_file(path: str | os.PathLike, what: str, most: int) -> bytes:
    """Return the content of a text file; DataError if it cannot be read or has more than `most` bytes."""
    limit = raised(most)
    try:
        content = read_regular(path, limit)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {what} cannot be read ({getattr(error, 'strerror', None) or error}); check "
                        "the path and its permissions") from error
    if len(content) > limit:
        raise DataError(f"{path}: expected {what} of at most {limit} bytes, got more; {how_to_raise()}")
    return content.removeprefix(b"\xef\xbb\xbf")


class ImageList:
    """The lines `PATH LABEL` of a text file: the last space ends the path, and the label is an integer.

    Empty lines do not count. Raises DataError for any other line, or if there is none. Memory: the file, and
    24 bytes per line.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._content = read_list_file(path, "the list of images", LIST_BYTES)
        self._begin, self._length, self._number = array("q"), array("i"), array("i")
        labels = array("q")
        begin = 0
        for number, line in enumerate(self._content.split(b"\n"), start=1):
            if text := line.rstrip():
                name, _, label = text.rpartition(b" ")
                name = name.rstrip(b" ")
                if not name or not _is_label(label) or b"\0" in name:
                    # The line itself is not shown: the list may be any file that its reader may read.
                    raise DataError(f"{self.path}:{number}: expected a path, a space and a label, an integer "
                                    "of 32 bits, got another line; correct it, or name another file")
                self._begin.append(begin)
                self._length.append(len(name))
                self._number.append(number)
                labels.append(int(label))
            begin += len(line) + 1
        if not labels:
            raise DataError(f"{self.path}: expected lines with a path and a label, got none; name another")
        self.labels = np.frombuffer(labels, np.int64).astype(np.int32)

    def __len__(self):
        return len(self.labels)

    def name(self, index: int) -> str:
        """Return the path in a line, as it is written there."""
        begin = self._begin[index]
        return os.fsdecode(self._content[begin:begin + self._length[index]])

    def where(self, index: int) -> str:
        """Describe a line, for messages."""
        return f"{self.path}:{self._number[index]}"


def _is_label(text):
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    return digits.isdigit() and len(digits) <= 10 and -2**31 <= int(text) < 2**31


class NamedImages(Protocol):
    """What ImageRecords reads: an ImageList, or anything else that names images and has their labels."""

    path: Path                  # what names them
    labels: np.ndarray          # int32

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return the path of an image."""

    def where(self, index: int) -> str:
        """Describe where an image is named, for messages."""


class ImageRecords(PictureRecords):
    """The images that a list names, with its labels.

    root: put before each path as it is; what results is looked up where the first image is, in the working
    directory or beside the list, see `files.in_order`. color: three channels, or one of gray. size: (height,
    width) to which all images are scaled, or None. Raises DataError, here or when reading, for what is
    missing or no image.
    """

    thread_safe = True
    entry = "line"              # what names an image, in messages

    def __init__(self, images: NamedImages, root: str = "", color: bool = True,
                 size: tuple[int, int] | None = None, crop: int = 0):
        super().__init__(crop)
        self.list, self.root, self.color, self.size = images, root, color, size
        beside = str(images.path.parent)
        places = [folder for folder in in_order(root + images.name(0), ["", beside])
                  if os.path.exists(os.path.join(folder, root + images.name(0)))]
        self.folder = places[0] if places else ""

    def __len__(self):
        return len(self.list)

    @property
    def name(self) -> str:
        """The path of the list."""
        return str(self.list.path)

    def file(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.folder, self.root + self.list.name(index))

    def where(self, index: int) -> str:
        return f"{self.list.where(index)}: image {self.file(index)!r}"

    def how_to_mend(self) -> str:
        return "give new_height and new_width, or a crop_size in transform_param, or take batch_size 1"

    def one(self, index: int) -> tuple[np.ndarray, int]:
        image = self.image(index)
        if self.size is not None:
            image = resize(image, *self.size)
        return image, int(self.list.labels[index])

    def image(self, index: int) -> np.ndarray:
        """Return an image as it is in its file, uint8 (channels, height, width), or raise DataError."""
        try:
            return decode(read_image_file(self.file(index)), self.color)
        except ValueError as error:
            raise DataError(f"{self.where(index)}: expected an image, got {error}; correct or leave out the "
                            f"{self.entry}") from error
        except DataError as error:
            raise DataError(f"{self.list.where(index)}: {error}") from error
