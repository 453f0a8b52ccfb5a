"""Caffe's .binaryproto files: one array as a serialized BlobProto; and .npy files in their place."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.config.minidrop_pb2 import BlobProto
from minidrop.data.file_view import FileView, Piece, in_memory
from minidrop.data.limits import how_to_raise, raised
from minidrop.data.npy import parse_npy
from minidrop.data.wire import BYTES, EIGHT, FOUR, VARINT, Wire, as_varint, varint
from minidrop.errors import DataError
from minidrop.files import replace

MOST_BYTES = 1 << 30            # of one file
MOST_AXES = 32                  # Caffe's limit

# Fields of a BlobProto, and of the BlobShape in it.
NUM, CHANNELS, HEIGHT, WIDTH, DATA, SHAPE, DOUBLE_DATA = 1, 2, 3, 4, 5, 7, 8
DIM = 1
RAW_DATA = 12                   # in NVCaffe's BlobProto alone


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Return the array of a .npy file or, whatever else its name ends in, a .binaryproto file.

    Raises DataError if it cannot be read, is above 1 GiB, or holds no real numbers.
    """
    if Path(path).suffix != ".npy":
        return read_blob(path)
    return parse_npy(_small(path).read_bytes(), str(path))


def read_blob(path: str | os.PathLike) -> np.ndarray:
    """Return the array of a .binaryproto file, a serialized BlobProto of Caffe: float32, or float64.

    Its shape is that of the file: of old ones always (num, channels, height, width). Gradients are skipped.
    Raises DataError if the file is missing, damaged, above 1 GiB, or has another number of values than its
    shape. Source: the wire format of protocol buffers, and BlobProto in Caffe's caffe.proto.
    """
    raw = memoryview(_small(path).read_bytes())
    try:
        array = parse_blob(raw, Wire()).array
    except ValueError as error:
        raise DataError(f"{path}: expected a .binaryproto file, a serialized BlobProto of Caffe, got one "
                        f"that {error}") from None
    return array.astype(array.dtype.newbyteorder("="))


def write_blob(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array as a .binaryproto file, a serialized BlobProto: float64 as such, all others as float32.

    One of four axes is written as (num, channels, height, width), which old Caffe reads too. Raises OSError.
    """
    array = np.asarray(array)
    blob = BlobProto()
    if array.ndim == 4:
        blob.num, blob.channels, blob.height, blob.width = array.shape
    else:
        blob.shape.dim.extend(array.shape)
    is_double = array.dtype == np.float64
    values = np.ascontiguousarray(array, "<f8" if is_double else "<f4")
    field = DOUBLE_DATA if is_double else DATA
    replace(path, b"".join([blob.SerializeToString(), bytes([field << 3 | BYTES]), as_varint(values.nbytes),
                            values.tobytes()]))


def _small(path):
    """Return the path of a file that can be read and is not too large."""
    try:
        if not os.path.isfile(path) and os.path.exists(path):       # a pipe would be waited for
            raise DataError(f"{path}: expected a file, got a folder or something else; correct the name")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path and its "
                        f"permissions") from error
    if size > raised(MOST_BYTES):
        raise DataError(f"{path}: expected at most {raised(MOST_BYTES)} bytes, got {size}; {how_to_raise()}")
    return Path(path)


@dataclass(frozen=True)
class Blob:
    """The array of a BlobProto, which may be a view of the file. `old`: its shape is that of four lengths.

    read: returns the array; one that is still in its file is read again each time.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    old: bool = False

    @classmethod
    def of(cls, array: np.ndarray, old: bool = False) -> Blob:
        """Return the Blob of an array in memory."""
        return cls(array.shape, lambda: array, old)

    @property
    def array(self) -> np.ndarray:
        """What `read` returns."""
        return self.read()

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it can be the values of a parameter: old shapes stand at the right of four lengths."""
        if self.old:
            return len(shape) <= 4 and (1,) * (4 - len(shape)) + tuple(shape) == self.shape
        return tuple(shape) == self.shape


def parse_blob(raw: Piece, wire: Wire) -> Blob:
    """Return the Blob of a serialized BlobProto, its array without a copy where all values stand together.

    That of a FileView stays in the file. Gradients are skipped. Raises ValueError. As in Caffe, the four
    lengths count before a shape.
    """
    shape, is_old, parts, dtype = _parse(raw, wire)
    if not isinstance(raw, FileView):
        return Blob.of(_joined(parts, dtype, shape), is_old)

    def read():
        now, _, parts, dtype = _parse(raw, Wire())      # anew: single numbers were put into memory
        if now != shape:
            raise ValueError("has changed while it was read; try again when nobody writes to the file")
        return _joined(parts, dtype, shape)

    return Blob(shape, read, is_old)


def _joined(parts, dtype, shape):
    """Return the array of some pieces of a message."""
    body = in_memory(parts[0]) if len(parts) == 1 else b"".join(map(in_memory, parts))
    return np.frombuffer(body, dtype).reshape(shape)


def _parse(raw, wire):
    """Return (shape, whether it is that of four lengths, pieces that hold the values, their dtype)."""
    old, is_old, dims = dict.fromkeys((NUM, CHANNELS, HEIGHT, WIDTH), 0), False, []
    values: dict[int, list[Piece]] = {DATA: [], DOUBLE_DATA: []}
    raw_data = False
    for field, kind, value in wire.fields(raw):
        if field in old and kind == VARINT:
            old[field], is_old = value, True
        elif (field, kind) in ((DATA, FOUR), (DATA, BYTES), (DOUBLE_DATA, EIGHT), (DOUBLE_DATA, BYTES)):
            values[field].append(value)
        elif field == RAW_DATA and kind == BYTES:
            raw_data = True
        elif field == SHAPE and kind == BYTES:
            dims = [*dims, *_dims(value, wire)]
            if len(dims) > MOST_AXES:
                raise ValueError(f"has an array of more than {MOST_AXES} axes")
    shape = tuple(old.values()) if is_old else tuple(dims)
    parts, dtype = [part for part in values[DOUBLE_DATA] if len(part)], "<f8"
    if not parts:
        parts, dtype = [part for part in values[DATA] if len(part)], "<f4"
    size = sum(map(len, parts))
    count, rest = divmod(size, int(dtype[-1]))
    if not count:
        raise ValueError("holds no values" + " but NVCaffe's raw_data, which Caffe does not read" * raw_data)
    if rest or max(shape, default=0) >= 2**31 or math.prod(shape) != count:
        raise ValueError(f"has {size} bytes of values for the shape {shape}")
    return shape, is_old, parts, dtype


def blob_of(message: Any) -> Blob:
    """Return the Blob of a BlobProto message, such as one in a network file. Raises ValueError."""
    return parse_blob(memoryview(message.SerializeToString()), Wire())


def _dims(raw: Piece, wire: Wire) -> Iterator[int]:
    """Yield the lengths of a serialized BlobShape, packed or one by one."""
    for field, kind, value in wire.fields(raw):
        if field == DIM and kind == VARINT:
            yield value
        elif field == DIM and kind == BYTES:
            if len(value) > 10 * MOST_AXES:
                raise ValueError(f"has an array of more than {MOST_AXES} axes")
            at = 0
            while at < len(value):
                length, at = varint(value, at)
                yield length
