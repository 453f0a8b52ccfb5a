"""The images of CIFAR-10, from the set's binary files or from JPEG copies."""

import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from minidrop.data.limits import check_unpacked
from minidrop.data.npy import parse_npy
from minidrop.errors import DataError

SHAPE = (3, 32, 32)
CLASSES = 10
COUNTS = {"train": 50000, "test": 10000}
TAR, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
BINARY = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
JPEG = {"train": ("jpeg-train-0.npz", "jpeg-train-1.npz"), "test": ("jpeg-test.npz",)}
_RECORD = 1 + 3072          # a label, then the red, the green and the blue plane, row by row
_FILE_BYTES = 10000 * _RECORD

Parts = dict[str, tuple[np.ndarray, np.ndarray]]
"""{"train" or "test": (images uint8 (records, 3, 32, 32) in the order red, green, blue; labels int64)}"""


def read_cifar10_tar(path: Path) -> Parts:
    """Return the images and labels in cifar-10-binary.tar.gz.

    Only the six files of records are read, by their names, into memory; nothing is unpacked to disk. Raises
    DataError if the archive cannot be read, is damaged or lacks one.
    """
    wanted = {f"{FOLDER}/{name}": name for names in BINARY.values() for name in names}
    found = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = wanted.get(member.name.removeprefix("./"))
                if name and member.isreg() and (file := archive.extractfile(member)):
                    _check_size(member.size, f"{path}: {name}")
                    found[name] = file.read(_FILE_BYTES)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: expected a whole .tar.gz archive, got a damaged one "
                        f"({getattr(error, 'strerror', None) or error}); fetch it again") from error
    missing = [name for name in wanted.values() if name not in found]
    if missing:
        raise DataError(f"{path}: expected {', '.join(wanted)}, got no {missing[0]}; fetch it again")
    return _parts({name: _split(content, f"{path}: {name}") for name, content in found.items()}, BINARY)


def read_cifar10_binary(folder: Path) -> Parts:
    """Return the images and labels of data_batch_1.bin ... data_batch_5.bin and test_batch.bin in a folder.

    Raises DataError if one cannot be read or is no file of 10000 records.
    """
    return _parts({name: _split(_content(folder / name), str(folder / name))
                   for names in BINARY.values() for name in names}, BINARY)


def read_cifar10_jpeg(folder: Path) -> Parts:
    """Return the images and labels of JPEG copies: jpeg-train-0.npz, jpeg-train-1.npz and jpeg-test.npz.

    Each holds `jpeg`, the bytes of all files end to end (uint8), `offset`, where each begins and the last
    ends (integers, one more than files), and `label`. The pixels are not those of the set: JPEG loses some.

    Raises DataError if Pillow, which decodes them, is missing, or for what cannot be read.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("JPEG copies: expected Pillow, which decodes them, got no such package; run: python "
                        '-m pip install "minidrop[images]", or python -m pip install pillow') from error
    found = {}
    for name in (name for names in JPEG.values() for name in names):
        path = folder / name
        jpeg, offset, label = _arrays(path, ("jpeg", "offset", "label"))
        if (jpeg.dtype != np.uint8 or {jpeg.ndim, offset.ndim, label.ndim} != {1}
                or {offset.dtype.kind, label.dtype.kind} - set("iu")
                or len(offset) != len(label) + 1 or not 0 <= offset[0] <= offset[-1] <= len(jpeg)
                or (np.diff(offset.astype(np.int64)) <= 0).any()):
            raise DataError(f"{path}: expected jpeg (bytes), offset (rising, one more than labels) and "
                            "label, got other arrays; fetch the file again")
        images = np.empty((len(label), *SHAPE), np.uint8)
        content, places = memoryview(jpeg), offset.tolist()
        for i, (begin, end) in enumerate(zip(places, places[1:], strict=False)):
            images[i] = _decoded(Image, content[begin:end], f"{path}: image {i}")
        found[name] = images, _labels(label, path)
    return _parts(found, JPEG)


def _decoded(image_module, content, where):
    try:
        with image_module.open(io.BytesIO(content), formats=["JPEG"]) as image:
            if image.size != SHAPE[:0:-1]:      # known before a pixel is decoded
                raise DataError(f"{where}: expected 32 x 32 pixels, got {image.size[0]} x {image.size[1]}; "
                                "fetch the file again")
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except DataError:
        raise
    except Exception as error:      # Pillow raises whatever its decoders do
        raise DataError(f"{where}: expected a JPEG file, got another or a damaged one "
                        f"({' '.join(str(error).split())[:200]}); fetch the file again") from error


def _arrays(path, names):
    """Return the arrays of an .npz file with these names."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [archive.getinfo(f"{name}.npy") for name in names]
            check_unpacked(sum(member.file_size for member in members), path)
            contents = []
            for member in members:
                with archive.open(member) as file:
                    contents.append(file.read(member.file_size))
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error, NotImplementedError, RuntimeError, OSError,
            ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"{path}: expected a whole .npz file with {', '.join(names)}, got another or a "
                        f"damaged one ({reason}); fetch it again") from error
    return [parse_npy(content, f"{path}: {name}") for name, content in zip(names, contents, strict=True)]


def _content(path):
    try:
        with open(path, "rb") as file:
            content = file.read(_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path and its "
                        "permissions") from error
    _check_size(len(content), path)
    return content


def _check_size(size, where):
    if size != _FILE_BYTES:
        raise DataError(f"{where}: expected {_FILE_BYTES} bytes, 10000 records of {_RECORD}, got "
                        f"{'more' if size > _FILE_BYTES else size}; fetch it again")


def _split(content, where):
    """Return (images, labels) of the records of one binary file."""
    _check_size(len(content), where)
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:].reshape(-1, *SHAPE), _labels(records[:, 0], where)


def _labels(labels, where):
    wrong = labels[(labels < 0) | (labels >= CLASSES)]
    if len(wrong):
        raise DataError(f"{where}: expected labels 0..{CLASSES - 1}, got {wrong[0]}; fetch the file again")
    return labels.astype(np.int64)


def _parts(found, files):
    """Join the files of each part: {part: (images, labels)}."""
    parts = {}
    for part, names in files.items():
        images, labels = (np.concatenate(arrays) for arrays in zip(*(found[name] for name in names),
                                                                   strict=True))
        if len(labels) != COUNTS[part]:
            raise DataError(f"{', '.join(names)}: expected {COUNTS[part]} records, got {len(labels)}; fetch "
                            "the files again")
        parts[part] = images, labels
    return parts
