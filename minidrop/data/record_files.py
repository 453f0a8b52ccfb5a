"""Files of records to predict, read a batch at a time: HDF5, CSV, .npy, .npz, and images."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from minidrop.data.hdf5 import SUFFIXES, HDF5Records
from minidrop.data.images import ENCODINGS, decode, read_image_file, resize
from minidrop.data.limits import how_to_raise, raised
from minidrop.data.npy import read_header
from minidrop.data.pictures import PictureRecords
from minidrop.data.records import Records
from minidrop.errors import DataError
from minidrop.files import open_regular

LINE_BYTES = 1 << 24            # of a CSV
BATCH_BYTES = 1 << 30
CHANNELS = ("bgr", "rgb", "gray")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = tuple(_DELIMITERS)

Batch = tuple[list[str], dict[str, Any]]        # names of records; {input: array, or list of images}


@dataclass(frozen=True)
class Reading:
    """How records are read. shape: of a record, in place of the file's. columns: (first, behind the last) of
    a CSV, None: all. channels: of images, one of CHANNELS. size: (height, width) to which images are scaled.
    crop: a crop_size, from which on images may have any size."""

    shape: tuple[int, ...] | None = None
    columns: tuple[int, int | None] = (0, None)
    channels: str = "bgr"
    size: tuple[int, int] | None = None
    crop: int = 0


class RecordFile:
    """The records of one file, or of some images. count: how many there are, None: unknown before the end."""

    def __init__(self, name: str, count: int | None, read: Callable[[int], Iterator[Batch]]):
        self.name, self.count, self._read = name, count, read

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield batches of `size` records, the last one of what is left. Raises DataError."""
        return self._read(size)


def open_records(paths: Sequence[str | os.PathLike], inputs: Sequence[str],
                 reading: Reading) -> list[RecordFile]:
    """Return the RecordFiles of paths, in order: all images are one. No file stays open.

    .h5 and .npz files hold an array for each of `inputs`, by name; all others the only input, and so does an
    .npz of one array. A .txt file lists HDF5 files. A folder is that of images. Raises DataError.
    """
    found: list[RecordFile] = []
    images: list[Path] = []
    for path in map(Path, paths):
        ending = path.suffix.lower()
        if path.is_dir() or ending.lstrip(".") in ENCODINGS:
            _only(inputs, path)
            images += _images_in(path)
        elif ending in (*SUFFIXES, ".txt"):
            records = HDF5Records(path if ending == ".txt" else [_there(path)], tuple(inputs))
            found.append(_of_records(records, inputs, reading.shape))
        elif ending == ".npz":
            found.append(_of_npz(_there(path), inputs, reading.shape))
        elif ending == ".npy":
            found.append(_of_npy(_there(path), _only(inputs, path), reading.shape))
        elif ending in _DELIMITERS:
            found.append(_of_csv(_there(path), _only(inputs, path), reading))
        else:
            raise DataError(f"{path}: expected records in .h5, .hdf5, .txt (a list of HDF5 files), .csv, "
                            f".tsv, .npy, .npz, or an image or a folder of images, got another ending; "
                            f"convert it")
    if images:
        files = ImageFiles(images, reading)
        found.append(_of_records(files, inputs, None, {inputs[0]: "data"}, list(map(str, images))))
    return found


class ImageFiles(PictureRecords):
    """Image files as records, uint8 (channels, height, width); the label is 0."""

    name = "the images"

    def __init__(self, paths: Sequence[Path], reading: Reading):
        super().__init__(reading.crop)
        self.paths, self.reading = list(paths), reading

    def __len__(self):
        return len(self.paths)

    def where(self, index: int) -> str:
        return str(self.paths[index])

    def how_to_mend(self) -> str:
        return "scale all images to one size with --size HEIGHT,WIDTH"

    def one(self, index: int) -> tuple[np.ndarray, int]:
        try:
            image = decode(read_image_file(self.paths[index]), self.reading.channels != "gray")
        except ValueError as error:
            raise DataError(f"{self.paths[index]}: expected an image, got {error}; leave it out") from error
        if self.reading.channels == "rgb":
            image = image[::-1]
        return resize(image, *self.reading.size) if self.reading.size else image, 0


def _of_records(records: Records, inputs, shape, arrays=None, names=None):
    """Return a RecordFile of Records; arrays: {input: array of a record}, by default of the same name."""
    def read(size):
        for begin in range(0, len(records), size):
            rows = np.arange(begin, min(begin + size, len(records)))
            batch = records.read(rows)
            found = {name: _reshaped(batch[(arrays or {}).get(name, name)], shape, records.name)
                     for name in inputs}
            yield names[begin:begin + size] if names else [str(row) for row in rows.tolist()], found
    return RecordFile(records.name, len(records), read)


def _of_npy(path, name, shape):
    with open_regular(path) as file:
        header = _header(file, path)

    def read(size):
        with open_regular(path) as file:
            _header(file, path)
            for begin, array in _pieces(file, header, size, path):
                yield _numbers(begin, array), {name: _reshaped(array, shape, path)}
    return RecordFile(str(path), header[0][0], read)


def _of_npz(path, inputs, shape):
    members = _members(path)
    if len(inputs) == 1 and inputs[0] not in members and len(members) == 1:
        members = {inputs[0]: next(iter(members.values()))}
    missing = [name for name in inputs if name not in members]
    if missing:
        raise DataError(f"{path}: expected the arrays {', '.join(map(repr, inputs))}, got no {missing[0]!r} "
                        f"(the file holds {', '.join(map(repr, members)) or 'none'})")
    headers = {}
    with _sound(path), zipfile.ZipFile(path) as archive:
        for name in inputs:
            with archive.open(members[name]) as file:
                headers[name] = _header(file, f"{path}: {name}")
    counts = {name: header[0][0] for name, header in headers.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"{path}: expected as many records of each input, got {counts}")

    def read(size):
        with _sound(path), zipfile.ZipFile(path) as archive, ExitStack() as stack:
            pieces = []
            for name in inputs:
                file = stack.enter_context(archive.open(members[name]))
                _header(file, f"{path}: {name}")
                pieces.append(_pieces(file, headers[name], size, f"{path}: {name}"))
            for parts in zip(*pieces, strict=True):
                begin, first = parts[0]
                yield _numbers(begin, first), {name: _reshaped(array, shape, path)
                                               for name, (_, array) in zip(inputs, parts, strict=True)}
    return RecordFile(str(path), next(iter(counts.values())), read)


def _members(path):
    """Return {array: member} of an .npz file."""
    with _sound(path), zipfile.ZipFile(path) as archive:
        return {one.filename.removesuffix(".npy"): one.filename for one in archive.infolist()
                if one.filename.endswith(".npy")}


@contextmanager
def _sound(path):
    """Within this context what a damaged archive raises is a DataError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError) as error:
        raise DataError(f"{path}: expected an .npz file, got another or a damaged one ({error}); make it "
                        f"again") from error


def _header(file: IO[bytes], path):
    """Return (shape, dtype) of the .npy file of records that begins here; raises DataError."""
    shape, is_fortran, dtype = read_header(file, path)
    if not shape or min(shape) < 1:
        raise DataError(f"{path}: expected an array (records, ...), got the shape {shape}")
    if is_fortran and len(shape) > 1:
        raise DataError(f"{path}: expected an array in C order, in which a record lies together, got one in "
                        f"Fortran order; write it anew with np.save(path, np.ascontiguousarray(array))")
    return shape, dtype


def _pieces(file, header, size, path):
    """Yield (number of the first record, array) of `size` records at a time."""
    (count, *rest), dtype = header
    row = int(np.prod(rest, dtype=object)) * dtype.itemsize
    if min(size, count) * row > raised(BATCH_BYTES):
        raise DataError(f"{path}: expected batches of at most {raised(BATCH_BYTES) >> 20} MiB, got records "
                        f"of {row} bytes; use a smaller --batch-size, or, {how_to_raise()}")
    for begin in range(0, count, size):
        rows = min(size, count - begin)
        content = file.read(rows * row)
        if len(content) != rows * row:
            raise DataError(f"{path}: expected {count} records of {row} bytes, got fewer; the file is cut "
                            f"short: make it again")
        yield begin, np.frombuffer(content, dtype).reshape(rows, *rest).astype(dtype.newbyteorder("="))


def _of_csv(path, name, reading):
    delimiter = _DELIMITERS[path.suffix.lower()]

    def read(size):
        first, rows, numbers = 0, [], 0
        for row in _rows(path, delimiter, reading.columns):
            rows.append(row)
            if len(rows) == size:
                yield _numbers(first, rows), {name: _reshaped(np.array(rows), reading.shape, path)}
                first, rows = first + size, []
            numbers += 1
        if rows:
            yield _numbers(first, rows), {name: _reshaped(np.array(rows), reading.shape, path)}
        if not numbers:
            raise DataError(f"{path}: expected lines of numbers, got none")
    return RecordFile(str(path), None, read)


def _rows(path, delimiter, columns):
    """Yield the chosen columns of each line as float64; the first line may be one of names, none a number."""
    width = None
    with open_regular(path) as file:
        number = 0
        while line := file.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise DataError(f"{path}:{number}: expected a line of at most {LINE_BYTES} bytes, got more")
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", "replace").strip("\r\n")
            if not text.strip():
                continue
            parts = text.split(delimiter)
            if width not in (None, len(parts)):
                raise DataError(f"{path}:{number}: expected {width} columns as before, got {len(parts)}")
            chosen = parts[columns[0]:columns[1]]
            if not chosen:
                raise DataError(f"{path}:{number}: expected the columns from {columns[0] + 1} on, got "
                                f"{len(parts)} in all; correct --columns")
            try:
                row = np.array(chosen, np.float64)
            except ValueError:
                wrong = [part for part in chosen if not _is_number(part)]
                if width is None and len(wrong) == len(chosen):         # the names of columns
                    width = len(parts)
                    continue
                names = ", or names of columns alone" if width is None else ""
                raise DataError(f"{path}:{number}: expected numbers{names}, got {wrong[0].strip()[:40]!r}; "
                                f"leave out other columns with --columns") from None
            width = len(parts)
            yield row


def _is_number(text):
    try:
        float(text)
        return True
    except ValueError:
        return False


def _reshaped(array, shape, path):
    """Return records in the shape that was asked for."""
    if shape is None or isinstance(array, list) or array.shape[1:] == shape:
        return array
    if int(np.prod(array.shape[1:])) != int(np.prod(shape)):
        raise DataError(f"{path}: expected records of {int(np.prod(shape))} numbers for the shape {shape}, "
                        f"got {array.shape[1:]}; correct --shape")
    return array.reshape(len(array), *shape)


def _numbers(begin, rows):
    return [str(begin + i) for i in range(len(rows))]


def _only(inputs, path):
    """Return the only input; DataError where there are several."""
    if len(inputs) != 1:
        raise DataError(f"{path}: expected an array for each of the inputs {', '.join(inputs)}; give them in "
                        f"one .h5 or .npz file")
    return inputs[0]


def _there(path):
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; correct the name")
    return path


def _images_in(path):
    """Return an image, or the images in a folder by their names."""
    if not path.is_dir():
        return [_there(path)]
    found = sorted(file for file in path.iterdir() if file.suffix.lower().lstrip(".") in ENCODINGS)
    if not found:
        raise DataError(f"{path}: expected images in the folder ({', '.join(ENCODINGS)}), got none")
    return found
