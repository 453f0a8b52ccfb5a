"""Data sets, fetched and put where the layers that read them look for them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidrop.data import cifar10
from minidrop.data.data_sets import (
    CIFAR10_MD5,
    CIFAR10_MIRRORS,
    IDX_SETS,
    MEAN,
    TEST_IMAGES,
    TEST_LABELS,
    TEXT_SETS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    IdxSet,
)
from minidrop.data.download import download, md5_of
from minidrop.data.hdf5 import HDF5Records
from minidrop.data.hdf5_disk import write_hdf5
from minidrop.data.idx import read_idx
from minidrop.data.mean_file import mean_of, read_mean, write_mean
from minidrop.data.records import ArrayRecords
from minidrop.data.sources import DATA_SETS, cache_dir
from minidrop.data.text import unpacked
from minidrop.errors import DataError, nearest
from minidrop.files import replacing, write_all

log = logging.getLogger(__name__)


Parts = dict[str, tuple[np.ndarray, np.ndarray]]        # {"train" or "test": (images, labels)}


def prepare(name: str, source: str | os.PathLike | None = None, mirrors: Sequence[str] = (),
            force: bool = False, folder: str | os.PathLike | None = None) -> Path:
    """Make the files of the data set `name`, unless they are there, and return the folder they are in.

    Images become HDF5 files for an HDF5Data layer: train.h5 and test.h5 with `data` (uint8, records x
    channels x height x width; channels are red, green, blue or one) and `label` (int64), and the list files
    train.txt and test.txt; cifar10 has its mean in mean.binaryproto as well. Texts become plain text files.

    Raw files are looked for in `source`, and then nothing is downloaded; without one in $MINIDROP_DATA/NAME,
    which is only read, then they are downloaded from `mirrors`, by default the known ones. folder: where the
    folder NAME is made, by default `cache_dir()`. force: also where the files are there. What is made is
    logged. Raises DataError.
    """
    if name not in DATA_SETS:
        raise DataError(f"unknown data set {name!r}{nearest(name, DATA_SETS)} (data sets: "
                        f"{', '.join(DATA_SETS)})")
    place = Path(folder) if folder else cache_dir()
    source, target = Path(source) if source else None, place / name
    read_only = os.environ.get("MINIDROP_DATA")
    if read_only and target.resolve().is_relative_to(Path(read_only).resolve()):
        raise DataError(f"{target}: expected a cache outside $MINIDROP_DATA, which is never written, got one "
                        "inside it; set MINIDROP_CACHE to another folder")
    if not force and is_there(name, place):
        log.info("%s: already in %s (--force makes it again)", name, target)
        return target
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: the folder cannot be made ({error.strerror}); set MINIDROP_CACHE to a "
                        "folder that can be written") from error
    raw = place / "raw" / name
    if name in TEXT_SETS:
        _write_texts(name, target, source, mirrors, raw)
        return target
    parts = _images_of(name, source, mirrors, raw)
    for part, (images, labels) in parts.items():
        write_part(target, part, images, labels)
        log.info('%s: %d records -> %s.h5, source "%s/%s.txt"', name, len(labels), target / part, name, part)
    if name == "cifar10":
        write_mean(target / MEAN, mean_of(ArrayRecords({"data": parts["train"][0]})))
        log.info('%s: mean of train -> %s, mean_file "%s/%s"', name, target / MEAN, name, MEAN)
    return target


def is_there(name: str, folder: str | os.PathLike | None = None) -> bool:
    """Whether the files of a data set are in `folder`, by default `cache_dir()`, and sound."""
    target = (Path(folder) if folder else cache_dir()) / name
    return _has_texts(target, TEXT_SETS[name]) if name in TEXT_SETS else is_made(target)


def _images_of(name, source, mirrors, raw):
    """Return {part: (images (records, channels, height, width), labels)} of a set of images."""
    if name == "cifar10":
        return _load_cifar10(source, mirrors, raw)
    parts = load_digits() if name == "digits" else _load_idx(name, IDX_SETS[name], source, mirrors, raw)
    return {part: (images[:, None], labels) for part, (images, labels) in parts.items()}


def is_made(target: Path) -> bool:
    """Whether the converted files of both parts of a set of images are in `target`, and sound."""
    try:
        for part in ("train", "test"):
            HDF5Records(target / f"{part}.txt", ("data", "label"))
        if target.name == "cifar10":
            read_mean(target / MEAN)
        return True
    except DataError:
        return False


def write_part(target: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write target/part.h5, then target/part.txt, each as a whole or not at all; raises DataError."""
    def fill(h5, disk):
        rows = max(1, min(len(images), (1 << 20) // images[0].nbytes))
        h5.create_dataset("data", data=images, chunks=(rows, *images.shape[1:]))
        h5.create_dataset("label", data=labels.astype(np.int64))

    _write_file(target / f"{part}.h5", lambda file: write_hdf5(file, fill))
    _write_file(target / f"{part}.txt", lambda file: write_all(file, f"{part}.h5\n".encode()))


def _write_file(path, write):
    """Let `write` make a file that becomes `path` at the end; DataError where that fails."""
    try:
        with replacing(path) as file:
            write(file)
            os.fsync(file.fileno())
    except (OSError, RuntimeError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be written ({said}); check the free space and "
                        "the permissions there, or set MINIDROP_CACHE to another folder") from error


def _has_texts(target, text_set):
    """Return whether all files of a text set are there and sound."""
    try:
        return all(_text_of(target / file_name, file.sha256) for file_name, file in text_set.files.items())
    except DataError:
        return False


def _write_texts(name, target, source, mirrors, raw):
    """Write the files of a text set, unpacked, to the folder `target`; DataError where one cannot be had."""
    text_set, texts = TEXT_SETS[name], {}
    for file_name, file in text_set.files.items():
        text = _at_hand(name, text_set, file.raw, lambda path, file=file: _text_of(path, file.sha256), source,
                        raw)
        if text is None:
            text = _text_of(download(file.raw, file.md5, mirrors or text_set.mirrors, raw), file.sha256)
        texts[file_name] = text
    for file_name, text in texts.items():       # once all are there: a part of the set is none
        _write_file(target / file_name, lambda file, text=text: write_all(file, text))
        log.info('%s: %d bytes -> %s, source "%s/%s"', name, len(text), target / file_name, name, file_name)


def _places(name, source, raw):
    """Return the folders in which raw files may be: `source` alone, or $MINIDROP_DATA/NAME and `raw`."""
    read_only = os.environ.get("MINIDROP_DATA")
    return [source] if source else [*([Path(read_only) / name] if read_only else []), raw]


def _at_hand(name, data_set, file_name, read, source, raw):
    """Return read(path) of a raw file in one of `_places`; None where there is none.

    DataError where it is not in `source`, or another file than expected.
    """
    places = _places(name, source, raw)
    for path in (place / f"{file_name}{end}" for place in places for end in data_set.ends):
        if path.is_file():
            try:
                return read(path)
            except DataError as error:
                if source:
                    raise
                log.warning("%s; it is left alone and another copy is looked for", error)
    if source:
        packed = ", or these with .xz or .gz" if len(data_set.ends) > 1 else ""
        known = ", ".join(getattr(file, "raw", own) for own, file in data_set.files.items())
        raise DataError(f"--from {source}: expected the files {known}{packed}, got no {file_name}; put it "
                        f"there or leave out --from")
    return None


def _text_of(path, sha256):
    """Return the bytes of a text, unpacked; DataError where they are others than expected."""
    text = b"".join(unpacked(path))
    if (got := hashlib.sha256(text).hexdigest()) != sha256:
        raise DataError(f"{path}: expected a text of the sha256 {sha256}, got {got}; the file is damaged or "
                        f"another one: fetch it again")
    return text


def _checked(path, md5):
    """Return a path; DataError where its file has another md5."""
    if (got := md5_of(path)) != md5:
        raise DataError(f"{path}: expected the md5 {md5}, got {got}; the file is damaged or another one: "
                        f"fetch it again")
    return path


def load_digits() -> Parts:
    """Return scikit-learn's 1797 digits, 8 x 8 values 0..16; every fifth record of each class is for test."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise DataError("digits: expected scikit-learn, which brings this data set, got no such package; "
                        "run: python -m pip install scikit-learn") from error
    digits = load()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    if images.shape != (1797, 8, 8) or not np.array_equal(images, digits.images):
        raise DataError("digits: expected 1797 images of 8 x 8 whole numbers from scikit-learn, got "
                        f"{images.shape}; install another version of scikit-learn")
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}


def _load_idx(name, idx_set: IdxSet, source, mirrors, raw):
    """Return {"train": (images, labels), "test": ...} of an idx set, downloading what is not at hand."""
    arrays, parts = {}, {}
    for file_name, md5 in idx_set.files.items():
        path = (_at_hand(name, idx_set, file_name, lambda path, md5=md5: _checked(path, md5), source, raw)
                or download(file_name, md5, mirrors or idx_set.mirrors, raw))
        arrays[file_name] = path, read_idx(path)
    for part, count, *names in (("train", idx_set.counts[0], TRAIN_IMAGES, TRAIN_LABELS),
                                ("test", idx_set.counts[1], TEST_IMAGES, TEST_LABELS)):
        for (path, array), shape in zip((arrays[one] for one in names), ((count, *idx_set.size), (count,)),
                                        strict=True):
            if array.shape != shape or array.dtype != np.uint8:
                raise DataError(f"{path}: expected uint8 of shape {shape}, got {array.dtype} of shape "
                                f"{array.shape}; this is another file: fetch it again")
        (_, images), (path, labels) = (arrays[one] for one in names)
        if labels.max() > 9:
            raise DataError(f"{path}: expected labels 0..9, got {labels.max()}; fetch the file again")
        parts[part] = images, labels.astype(np.int64)
    return parts


def _load_cifar10(source, mirrors, raw):
    """Return the Parts of CIFAR-10 in one of `_places`, or else downloaded.

    DataError where it is not in `source`, or damaged there.
    """
    for place in _places("cifar10", source, raw):
        try:
            if parts := _cifar10_in(place):
                return parts
        except DataError as error:
            if source:
                raise
            log.warning("%s; it is left alone and another copy is looked for", error)
    if source:
        raise DataError(f"--from {source}: expected {cifar10.TAR}, or {', '.join(cifar10.BINARY['train'])} "
                        f"and {cifar10.BINARY['test'][0]}, or {', '.join(cifar10.JPEG['train'])} and "
                        f"{cifar10.JPEG['test'][0]}, got none of them (cifar-10-python.tar.gz is a pickle, "
                        "which is never read); put one there or leave out --from")
    return cifar10.read_cifar10_tar(download(cifar10.TAR, CIFAR10_MD5, mirrors or CIFAR10_MIRRORS, raw))


def _cifar10_in(folder):
    """Return the parts of CIFAR-10 in a folder, in the first form that it has; None where it has none."""
    if (path := folder / cifar10.TAR).is_file():
        return cifar10.read_cifar10_tar(_checked(path, CIFAR10_MD5))
    for place in (folder, folder / cifar10.FOLDER):
        if (place / cifar10.BINARY["test"][0]).is_file():
            return cifar10.read_cifar10_binary(place)
    if (folder / cifar10.JPEG["test"][0]).is_file():
        parts = cifar10.read_cifar10_jpeg(folder)
        log.info("cifar10: made of the JPEG copies in %s: these are not the original pixels; name results "
                 "CIFAR-10-JPEG", folder)
        return parts
    return None

