"""What Caffe's tools put into databases: images of a list, MNIST, pairs of MNIST, and CIFAR-10."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from minidrop.data.database_writer import new_database
from minidrop.data.datum import write_datum, write_encoded
from minidrop.data.idx import read_idx
from minidrop.data.image_list import ImageRecords
from minidrop.data.images import ENCODINGS, decode, encode, pillow, read_image_file, resize
from minidrop.errors import DataError
from minidrop.rng import generator

Pairs = Iterator[tuple[bytes, bytes]]
"""Keys that rise, and Datums."""


def store(path: str | os.PathLike, kind: str, records: Iterable[tuple[bytes, bytes]],
          report: Callable[[int], None]) -> int:
    """Make a database of (key, value) pairs, whole or not at all, and return how many there were.

    kind: "LMDB" or "LEVELDB"; `report` is told how many have been written, every 1000. Raises DataError if
    there is something called `path`, or no record at all; OSError.
    """
    count = 0
    with new_database(path, kind) as put:
        for key, value in records:
            put(key, value)
            count += 1
            if not count % 1000:
                report(count)
        if not count:
            raise DataError(f"{path}: expected records to write, got none; it is not made")
    return count


def image_datums(images: ImageRecords, skipped: Callable[[str], None], encoding: str | None = None,
                 check_size: bool = False, shuffle: bool = False, seed: int = 0) -> Pairs:
    """Yield the images of a list as Datums, with keys such as 00000007_cats/1.jpg.

    An image that cannot be read is left out, and `skipped` is told why. encoding: None stores pixels, ""
    images in the format of their own file's name, "png" and others in that one; a file that needs no change
    is stored as it is. check_size: all must have the size of the first, else DataError.
    """
    pillow()
    order = np.arange(len(images))
    if shuffle:
        order = generator(seed, "convert_imageset").permutation(order)
    first = None
    for number, index in enumerate(order.tolist()):
        try:
            content = read_image_file(images.file(index))
            image = decode(content, images.color)
        except (DataError, ValueError) as error:
            found = error if isinstance(error, DataError) else f"expected an image, got {error}"
            skipped(f"{images.where(index)}: {found}")
            continue
        if images.size is not None:
            image = resize(image, *images.size)
        first = first or image.shape
        if check_size and image.shape != first:
            raise DataError(f"{images.where(index)}: expected channels x height x width of "
                            f"{' x '.join(map(str, first))} as of the first image, got "
                            f"{' x '.join(map(str, image.shape))}; give --resize_height and --resize_width, "
                            "or leave out --check_size")
        label = int(images.list.labels[index])
        key = b"%08d_" % number + os.fsencode(images.list.name(index))
        if encoding is None:
            yield key, write_datum(image, label)
            continue
        name = Path(images.file(index)).suffix[1:].lower()
        wanted = encoding.lower().lstrip(".") or name
        if wanted not in ENCODINGS:
            raise DataError(f"{images.where(index)}: expected an image called .{', .'.join(ENCODINGS)}, got "
                            "none of them; give --encode_type")
        is_as_wanted = ENCODINGS.get(name) == ENCODINGS[wanted] and images.size is None and (
            images.color or len(decode(content)) == 1)
        yield key, write_encoded(content if is_as_wanted else encode(image, wanted), label)


def read_mnist(images: str | os.PathLike, labels: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Return images uint8 (records, height, width) and labels uint8 (records,) of two idx files, perhaps
    gzipped.

    Raises DataError if they cannot be read or do not fit together.
    """
    pixels, classes = read_idx(Path(images)), read_idx(Path(labels))
    for path, array, axes, what in ((images, pixels, 3, "images"), (labels, classes, 1, "labels")):
        if array.ndim != axes or array.dtype != np.uint8:
            raise DataError(f"{path}: expected an idx file of {what}, bytes on {axes} axes, got "
                            f"{array.dtype} of shape {array.shape}; name the other file")
    if len(pixels) != len(classes):
        raise DataError(f"{labels}: expected {len(pixels)} labels, one for each image in {images}, got "
                        f"{len(classes)}; take both files of one set")
    return pixels, classes


def mnist_datums(images: np.ndarray, labels: np.ndarray) -> Pairs:
    """Yield the images (records, height, width) as Datums of one channel, with keys such as 00000007."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        yield b"%08d" % number, write_datum(image[None], label)


def siamese_datums(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> Pairs:
    """Yield as many random pairs as there are images: Datums of two channels, label 1 for equal labels."""
    pairs = generator(seed, "convert_mnist_siamese_data").integers(len(images), size=(len(images), 2))
    for number, pair in enumerate(pairs):
        yield b"%08d" % number, write_datum(images[pair], int(labels[pair[0]] == labels[pair[1]]))


def cifar_datums(images: np.ndarray, labels: np.ndarray) -> Pairs:
    """Yield the images (records, 3, 32, 32) as Datums, with keys such as 00007."""
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        yield b"%05d" % number, write_datum(image, label)
