"""Datasets of files: HDF5, idx (MNIST), folders of images, texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.collate import Record
from minidrop.data.datasets import ArrayDataset, Dataset, RecordsDataset
from minidrop.data.hdf5 import HDF5Records
from minidrop.data.idx import read_idx
from minidrop.data.image_list import ImageRecords
from minidrop.data.images import ENCODINGS
from minidrop.data.orders import BlockOrder, Order
from minidrop.data.text import read_text
from minidrop.errors import DataError
from minidrop.files import read_regular

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


class HDF5Dataset(RecordsDataset):
    """The records of HDF5 files: of one, of several paths, or of those that a text file lists, one a line.

    names: the datasets of a file that make a record, in this order; axis 0 counts the records. A DataLoader
    shuffles the records of all files together, in blocks, which minidrop.data.orders.BlockOrder describes;
    without `across_files`, as HDF5Data does by default, the files and the records in each, but a batch comes
    from one file. It reads 32 MiB of batches at a time, and an error in one of them comes before the first.
    Raises DataError as HDF5Records does.
    """

    def __init__(self, source: str | os.PathLike | Sequence[str | os.PathLike],
                 names: Sequence[str] = ("data", "label"), across_files: bool = True):
        files: Any = source
        if not isinstance(source, str | os.PathLike):
            files = list(source)
        elif _is_hdf5(source):
            files = [source]
        super().__init__(HDF5Records(files, names), names)
        self.across_files = across_files

    def order(self, shuffle: bool, seed: int) -> Order:
        if shuffle and self.across_files:
            return BlockOrder(self.records.parts, self.records.record_bytes, seed, run=self.records.run)
        return super().order(shuffle, seed)


def _is_hdf5(path):
    try:
        return read_regular(path, len(HDF5_MAGIC)).startswith(HDF5_MAGIC)
    except (OSError, ValueError):
        return False        # HDF5Records says what is wrong with it


class IDXDataset(ArrayDataset):
    """The records of idx files, the format of MNIST, plain or gzip-compressed: one array of each, e.g.
    IDXDataset(images, labels).

    Raises DataError as read_idx does, and for files of unequal lengths.
    """

    def __init__(self, *paths: str | os.PathLike):
        if not paths:
            raise DataError("IDXDataset: expected at least one path, got none")
        self.paths = tuple(map(Path, paths))
        arrays = [read_idx(path) for path in self.paths]
        for path, array in zip(self.paths, arrays, strict=True):
            if len(array) != len(arrays[0]):
                raise DataError(f"{path}: expected {len(arrays[0])} records, as in {self.paths[0]}, got "
                                f"{len(array)}; name files of the same part")
        super().__init__(*arrays)

    def where(self, index: int) -> str:
        return f"record {index} of {self.paths[0]}"


class MNIST(IDXDataset):
    """MNIST, or a data set with files of the same names (Fashion-MNIST, KMNIST): images uint8 (28, 28) and
    labels uint8.

    folder: holds train-images-idx3-ubyte and train-labels-idx1-ubyte, and with `train=False` those of t10k,
    with or without .gz (or with .idx in place of -idx); nothing is downloaded. Raises DataError where one of
    them is missing.
    """

    def __init__(self, folder: str | os.PathLike, train: bool = True):
        part = "train" if train else "t10k"
        super().__init__(*(_idx_file(Path(folder), f"{part}-{what}")
                           for what in ("images-idx3-ubyte", "labels-idx1-ubyte")))


def _idx_file(folder, name):
    names = [f"{stem}{end}" for stem in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for one in names:
        if (folder / one).is_file():
            return folder / one
    raise DataError(f"{folder}: expected the file {' or '.join(names)}, got none of them; fetch it from a "
                    "mirror of the data set, or name its folder")


class ImageFolder(RecordsDataset):
    """Images in folders, one for each class: records of an image and the number of its class.

    root/cat/1.jpg, root/dog/holiday/2.png, ...: `classes` are the names of the folders in root, sorted, and
    the images of each come sorted by path. Files with other endings than those of images, and files in root
    itself, are not read; `left_out` lists them. Hidden files and folders do not count.

    size: (height, width) to which all images are scaled, or one number for both; without it images of
    different sizes need a `collate`, or an `augment` that makes them equal. color: three channels, or one of
    gray. Images are uint8 (channels, height, width), with the channels in the order blue, green, red, as all
    readers of minidrop have it; labels are int32. Raises DataError for a folder without classes, for a class
    without images, and when reading for what is no image.
    """

    def __init__(self, root: str | os.PathLike, size: int | tuple[int, int] | None = None,
                 color: bool = True):
        sides = (size, size) if isinstance(size, int | np.integer) else size
        if sides is not None and (len(sides) != 2 or min(sides) < 1):
            raise DataError(f"ImageFolder: expected a size of at least 1, or (height, width), got {size!r}")
        found = _ClassFolders(Path(root))
        self.classes, self.left_out = found.classes, found.left_out
        self.labels = found.labels
        super().__init__(_FolderRecords(found, color=color, size=sides), ("data", "label"))


class _FolderRecords(ImageRecords):
    """The records of an ImageFolder."""

    entry = "file"

    def how_to_mend(self) -> str:
        return "give ImageFolder a size, to which all are scaled, or give the DataLoader a collate"


class _ClassFolders:
    """The images in the sub-folders of a folder, as an ImageList has them."""

    def __init__(self, root):
        self.path = root
        self.classes, self._names, labels, self.left_out = [], [], [], []
        try:
            inside = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
        except OSError as error:
            raise DataError(f"{root}: expected a folder with one folder for each class, got none "
                            f"({error.strerror or error}); check the path and its permissions") from error
        for name in inside:
            if not (root / name).is_dir():
                self.left_out.append(str(root / name))
                continue
            images = self._images(root / name)
            if not images:
                raise DataError(f"{root / name}: expected images ({', '.join(ENCODINGS)}), got none; add "
                                "some, or remove the folder, which is a class")
            labels += [len(self.classes)] * len(images)
            self.classes.append(name)
            self._names += images
        if not self.classes:
            raise DataError(f"{root}: expected one folder for each class, got none; name the folder above")
        self.labels = np.array(labels, np.int32)

    def __len__(self):
        return len(self._names)

    def name(self, index):
        return self._names[index]

    def where(self, index):
        return str(self.path)

    def _images(self, folder):
        found = []
        for parent, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if not name.startswith("."):
                    fits = name.rpartition(".")[2].lower() in ENCODINGS and "." in name
                    (found if fits else self.left_out).append(os.path.join(parent, name))
        return sorted(found)


class TextDataset(Dataset):
    """Windows of a text for language models: record i has the tokens x[b] ... x[b + steps - 1] from
    b = i * stride on, and the ones that follow each, x[b + 1] ... x[b + steps]; both int32 (steps,).

    path, level ("WORD", "CHARACTER", "PIECE"), vocabulary, size: as in `read_text`; the attribute
    `vocabulary` says which tokens there are. stride: by default steps, so that windows do not overlap; what
    is left at the end is dropped. A batch is (batch_size, steps): transpose it for recurrent layers, which
    want the steps first. Raises DataError if the text is shorter than one window.
    """

    def __init__(self, path: str | os.PathLike, steps: int, level: str = "WORD",
                 vocabulary: str | os.PathLike | None = None, size: int = 0, stride: int | None = None):
        stride = steps if stride is None else stride
        if steps < 1 or stride < 1:
            raise DataError(f"TextDataset: expected steps and a stride of at least 1, got {steps} and "
                            f"{stride}")
        self.text = read_text(path, level, vocabulary, size)
        self.vocabulary, self.indices = self.text.vocabulary, self.text.indices
        self.steps, self.stride = steps, stride
        self._count = (len(self.indices) - steps - 1) // stride + 1
        if self._count < 1:
            raise DataError(f"{path}: expected at least {steps + 1} tokens, for one window of {steps} steps, "
                            f"got {len(self.indices)}; use fewer steps or a longer text")

    def __len__(self) -> int:
        return self._count

    def read(self, indices: np.ndarray) -> Record:
        places = np.asarray(indices)[:, None] * self.stride + np.arange(self.steps)
        return self.indices[places], self.indices[places + 1]

    def where(self, index: int) -> str:
        return f"window {index} of {self.text.name}, from token {index * self.stride} on"
