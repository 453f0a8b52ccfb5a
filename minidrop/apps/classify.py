"""Classes of images by a trained net, as Caffe's classify.py and its C++ example find them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import no_grad
from minidrop.data.binaryproto import read_array
from minidrop.data.image_arrays import fit_mean, load_image, oversample, resize_image, to_input
from minidrop.data.limits import how_to_raise, raised
from minidrop.errors import ConfigError, DataError, ShapeError

if TYPE_CHECKING:
    from minidrop.net import Net

CROPS = 10                      # of an image: corners and centre, each also mirrored
MOST_SIDE = 1 << 14             # pixels, to which an image is resized
LABEL_BYTES = 1 << 24           # of a file of labels


class Preprocessing:
    """What makes an image (height, width, channels) the input (channels, height, width) of a net: `to_input`.

    shape: of the input, (batch, channels, height, width). mean: as `fit_mean` takes it. channel_swap: where
    each channel comes from, (2, 1, 0) makes BGR of RGB. Raises ShapeError or ConfigError for what does not
    fit the shape.
    """

    def __init__(self, shape: Sequence[int], mean: np.ndarray | None = None,
                 input_scale: float | None = None, raw_scale: float | None = None,
                 channel_swap: Sequence[int] | None = None):
        if len(shape) != 4 or min(shape[1:]) < 1:
            raise ShapeError(f"classification takes images (batch, channels, height, width), the net's input "
                             f"has shape {tuple(shape)}")
        self.channels, self.size = shape[1], (shape[2], shape[3])
        if channel_swap is not None and sorted(channel_swap) != list(range(self.channels)):
            raise ConfigError(f"channel_swap: expected the numbers 0 to {self.channels - 1}, each once, got "
                              f"{', '.join(map(str, channel_swap))}")
        self.channel_swap = channel_swap
        self.mean = None if mean is None else fit_mean(mean, shape)
        self.input_scale, self.raw_scale = input_scale, raw_scale

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the input for one image, float32; raises ShapeError for another number of channels."""
        if image.ndim != 3 or image.shape[2] != self.channels:
            raise ShapeError(f"expected an image (height, width, {self.channels}), as the net's input has "
                             f"{self.channels} channels, got shape {image.shape}")
        return to_input(image, self.size, (2, 0, 1), self.channel_swap, self.raw_scale, self.mean,
                        self.input_scale)


def image_input(net: Net) -> str:
    """Return the name of the only input of a net. Raises ConfigError unless there is one."""
    if len(net.inputs) != 1:
        has = f"it has {len(net.inputs)}: {', '.join(net.inputs)}" if net.inputs else "it has none"
        raise ConfigError(f"{net.config.where()}: classification needs a net with one input, as a deploy "
                          f"file has; {has}")
    return net.inputs[0]


def classify(net: Net, images: Iterable[np.ndarray], prepare: Preprocessing,
             image_dims: Sequence[int] | None = None, with_crops: bool = True) -> np.ndarray:
    """Return the net's first output for each image, (images, classes), float32.

    images: arrays (height, width, channels). Each is resized to image_dims (None: the input's size), then its
    ten crops are run and their outputs averaged, or without with_crops its centre alone. Raises ShapeError
    for images or sizes that do not fit.
    """
    name, size = image_input(net), prepare.size
    dims = tuple(size if image_dims is None else image_dims)
    if len(dims) != 2 or not all(want <= have <= MOST_SIDE for want, have in zip(size, dims, strict=True)):
        raise ShapeError(f"images_dim: expected height,width of at least {size[0]},{size[1]}, the size of "
                         f"the net's input, and at most {MOST_SIDE}, got {','.join(map(str, dims))}")
    output = net.outputs[0]
    batch = max(CROPS, net.graph.shapes[next(ref for ref in net.graph.writer if ref.name == name)][0])
    found: list[np.ndarray] = []
    waiting: list[np.ndarray] = []

    def run():
        with no_grad():
            values = net.forward(**{name: np.stack(waiting)})[output].numpy()
        if values.shape[:1] != (len(waiting),):
            raise ShapeError(f"output {output!r}: expected a row for each image, got shape {values.shape}")
        found.extend(values.reshape(len(waiting), -1).astype(np.float32))
        waiting.clear()

    count = 0
    for crop in _crops(images, prepare, dims, with_crops):
        waiting.append(prepare(crop))
        count += 1
        if len(waiting) == batch:
            run()
    if waiting:
        run()
    if not count:
        raise DataError("expected at least one image, got none")
    rows = np.stack(found)
    return rows.reshape(count // CROPS, CROPS, -1).mean(axis=1) if with_crops else rows


def _crops(images, prepare, dims, with_crops):
    for image in images:
        if image.ndim != 3 or image.shape[2] != prepare.channels:
            prepare(image)      # raises the ShapeError
        image = resize_image(image, dims)
        if with_crops:
            yield from oversample([image], prepare.size)
            continue
        top, left = ((have - want) // 2 for have, want in zip(dims, prepare.size, strict=True))
        yield image[top:top + prepare.size[0], left:left + prepare.size[1]]


def find_images(path: str | os.PathLike, extension: str = "jpg") -> list[Path]:
    """Return the image files that a path names: itself, or those of a folder that end with the extension.

    They are sorted by name. Raises DataError if there is none.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    ending = f".{extension.lstrip('.')}"
    found = sorted(file for file in path.iterdir() if file.name.endswith(ending) and file.is_file())
    if not found:
        raise DataError(f"{path}: expected images that end with {ending}, got none; name their ending with "
                        f"--ext")
    return found


def images_of(path: str | os.PathLike, channels: int,
              extension: str = "jpg") -> tuple[list[str], Iterator[Any]]:
    """Return (names, images) of an image file, of a folder of them, or of a .npy file of images.

    Images are arrays (height, width, channels), those of files float32 in [0, 1] and RGB, or gray where
    channels is 1; they are read one by one. A .npy file holds (images, height, width, channels) or one image.
    Raises DataError.
    """
    if Path(path).suffix == ".npy":
        array = read_array(path)
        array = array[None] if array.ndim == 3 else array
        if array.ndim != 4 or not array.size:
            raise DataError(f"{path}: expected images (images, height, width, channels), got shape "
                            f"{array.shape}")
        return [f"{path}[{i}]" for i in range(len(array))], iter(array)
    files = find_images(path, extension)
    return list(map(str, files)), (load_image(file, color=channels != 1) for file in files)


def read_labels(path: str | os.PathLike, count: int | None = None) -> list[str]:
    """Return the labels in a text file, one a line; raises DataError unless there are `count`, if given."""
    limit = raised(LABEL_BYTES)
    try:
        with open(path, "rb") as file:
            raw = file.read(limit + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > limit:
        raise DataError(f"{path}: expected a file of labels, of at most {limit} bytes, got more; "
                        f"{how_to_raise()}")
    labels = raw.decode("utf-8-sig", "replace").splitlines()
    if count not in (None, len(labels)):
        raise DataError(f"{path}: expected {count} labels, one for each of the net's outputs, got "
                        f"{len(labels)}")
    return labels


def best(row: np.ndarray, count: int = 5) -> list[tuple[int, float]]:
    """Return the greatest values of a row with their places, the first of equals first."""
    order = np.argsort(-row, kind="stable")[:count]
    return [(int(place), float(row[place])) for place in order]
