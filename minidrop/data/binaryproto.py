"""Caffe's BlobProto files, such as a mean.binaryproto: a small reader of protobuf's wire format."""

import math
from pathlib import Path

import numpy as np

from minidrop.data.limits import how_to_raise, raised
from minidrop.errors import DataError

FILE_LIMIT = 256 << 20
_OLD_SHAPE = {1: "num", 2: "channels", 3: "height", 4: "width"}
_TYPES = {5: "<f4", 8: "<f8"}       # of the values in `data` and `double_data`
_MOST_AXES = 32


class _Damaged(ValueError):
    """The bytes are no BlobProto."""


def read_blob(path: Path | str) -> np.ndarray:
    """Return the array of a BlobProto file: float32 from `data`, float64 from `double_data`.

    Its shape is that of the message `shape`, or else (num, channels, height, width) of old files.

    Raises DataError if the file is missing, larger than 256 MiB, or no BlobProto whose values fill its shape.
    Source: caffe.proto, messages BlobProto and BlobShape (BVLC/caffe).
    """
    try:
        with open(path, "rb") as file:
            content = file.read(raised(FILE_LIMIT) + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); check the "
                        "path and its permissions") from error
    if len(content) > raised(FILE_LIMIT):
        raise DataError(f"{path}: expected a BlobProto of at most {FILE_LIMIT >> 20} MiB, got more; "
                        f"{how_to_raise()}")
    try:
        return _blob(memoryview(content))
    except _Damaged as error:
        raise DataError(f"{path}: expected a BlobProto, as Caffe writes for a mean, got another file or a "
                        f"damaged one ({error}); make it again") from None


def _blob(content):
    old, shape, values = {}, None, {5: bytearray(), 8: bytearray()}
    for field, kind, value in _fields(content):
        if field in _OLD_SHAPE and kind == 0:
            old[field] = value
        elif field == 7 and kind == 2:
            shape = _shape(value)
        elif field in _TYPES and kind in (1, 2, 5):
            values[field] += value
    if values[5] and values[8]:
        raise _Damaged("values of two types")
    field = 8 if values[8] else 5
    dtype = np.dtype(_TYPES[field])
    count, rest = divmod(len(values[field]), dtype.itemsize)
    if shape is None:
        shape = tuple(old.get(number, 0) for number in _OLD_SHAPE)
    if rest or not count or math.prod(shape) != count:
        raise _Damaged(f"{len(values[field])} bytes of values for the shape {shape}")
    return np.frombuffer(values[field], dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def _shape(content):
    lengths = []
    for field, kind, value in _fields(content):
        if field == 1 and kind == 0:
            lengths.append(value)
        elif field == 1 and kind == 2:
            at = 0
            while at < len(value):
                length, at = _varint(value, at)
                lengths.append(length)
        if len(lengths) > _MOST_AXES:
            raise _Damaged(f"more than {_MOST_AXES} axes")
    return tuple(lengths)


def _fields(content):
    """Yield (number, wire type, value) of every field: an int for wire type 0, else a view of the bytes."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield field, kind, value
            continue
        if kind == 2:
            size, at = _varint(content, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _Damaged(f"wire type {kind}")
        if not field or size > len(content) - at:
            raise _Damaged(f"field {field} of {size} bytes, {len(content) - at} are left")
        yield field, kind, content[at:at + size]
        at += size


def _varint(content, at):
    """Return (number, where it ends) of the varint at a place."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise _Damaged("cut short")
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _Damaged("a number of more than ten bytes")
