"""Caffe's .binaryproto files: one array as a serialized BlobProto; and .npy files in their place."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.config.minidrop_pb2 import BlobProto
from minidrop.data.limits import how_to_raise, raised
from minidrop.data.npy import parse_npy
from minidrop.errors import DataError
from minidrop.files import replace

MOST_BYTES = 1 << 30            # of one file
MOST_AXES = 32                  # Caffe's limit

# Fields of a BlobProto, and of the BlobShape in it.
NUM, CHANNELS, HEIGHT, WIDTH, DATA, SHAPE, DOUBLE_DATA = 1, 2, 3, 4, 5, 7, 8
DIM = 1

# How a value is stored: a number of up to 64 bits, 8 bytes, a length and as many bytes, 4 bytes.
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5


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
        return _blob(raw)
    except ValueError as error:
        raise DataError(f"{path}: expected a .binaryproto file, a serialized BlobProto of Caffe, got one "
                        f"that {error}") from None


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
    replace(path, b"".join([blob.SerializeToString(), bytes([field << 3 | BYTES]), _as_varint(values.nbytes),
                            values.tobytes()]))


def _as_varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _small(path):
    """Return the path of a file that can be read and is not too large."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path and its "
                        f"permissions") from error
    if size > raised(MOST_BYTES):
        raise DataError(f"{path}: expected at most {raised(MOST_BYTES)} bytes, got {size}; {how_to_raise()}")
    return Path(path)


def _blob(raw: memoryview) -> np.ndarray:
    old, dims = dict.fromkeys((NUM, CHANNELS, HEIGHT, WIDTH), 0), None
    values = {DATA: bytearray(), DOUBLE_DATA: bytearray()}
    for field, kind, value in _fields(raw):
        if field in old and kind == VARINT:
            old[field] = value
        elif (field, kind) in ((DATA, FOUR), (DATA, BYTES), (DOUBLE_DATA, EIGHT), (DOUBLE_DATA, BYTES)):
            values[field] += value
        elif field == SHAPE and kind == BYTES:
            dims = list(_dims(value))
    shape = tuple(old.values()) if dims is None else tuple(dims)
    body, dtype = (values[DOUBLE_DATA], "<f8") if values[DOUBLE_DATA] else (values[DATA], "<f4")
    count, rest = divmod(len(body), int(dtype[-1]))
    if not count:
        raise ValueError("holds no values")
    if rest or len(shape) > MOST_AXES or max(shape, default=0) >= 2**31 or math.prod(shape) != count:
        raise ValueError(f"has {len(body)} bytes of values for the shape {shape}")
    return np.frombuffer(body, dtype).reshape(shape).astype(np.dtype(dtype).newbyteorder("="))


def _dims(raw: memoryview) -> Iterator[int]:
    """Yield the lengths of a serialized BlobShape, packed or one by one."""
    for field, kind, value in _fields(raw):
        if field == DIM and kind == VARINT:
            yield value
        elif field == DIM and kind == BYTES:
            at = 0
            while at < len(value):
                length, at = _varint(value, at)
                yield length


def _fields(raw: memoryview) -> Iterator[tuple[int, int, Any]]:
    """Yield (field number, kind, value) of a serialized message; ValueError if it is none."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        field, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(raw, at)
            yield field, kind, value
            continue
        if kind == BYTES:
            size, at = _varint(raw, at)
        elif kind in (FOUR, EIGHT):
            size = {FOUR: 4, EIGHT: 8}[kind]
        else:
            raise ValueError(f"has a field of the unknown kind {kind} at byte {at}")
        if size > len(raw) - at:
            raise ValueError(f"ends within a field of {size} bytes; it is cut short, or no such file")
        yield field, kind, raw[at:at + size]
        at += size


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    """Return (number, place behind it): seven bits a byte, the lowest first, while the top bit is set."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError("ends within a number; it is cut short, or no such file")
        number |= (raw[at] & 127) << shift
        at += 1
        if raw[at - 1] < 128:
            return number, at
    raise ValueError(f"has a number of more than ten bytes at byte {at - 10}")
