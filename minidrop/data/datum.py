"""Datums: the records of Caffe's databases, an array (channels, height, width) and a label."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError

from minidrop.config.minidrop_pb2 import Datum
from minidrop.data.images import decode


def read_datum(value: bytes, color: bool | None = None) -> tuple[np.ndarray, int]:
    """Return (array, label) of a serialized Datum; the array is uint8 or, of float_data, float32.

    color: what `decode` makes of an encoded image. Raises ValueError with what was found instead, DataError
    without Pillow where an image has to be decoded.
    """
    datum = parse_datum(value)
    if datum.encoded:
        return decode(datum.data, color), datum.label
    shape = datum.channels, datum.height, datum.width
    if min(shape) < 1:
        raise ValueError(f"one of channels x height x width {' x '.join(map(str, shape))}")
    data, floats = datum.data, datum.float_data
    if bool(data) == bool(floats):
        raise ValueError("one with both data and float_data" if data else "one without data")
    array = np.frombuffer(data, np.uint8) if data else np.fromiter(floats, np.float32, len(floats))
    count = shape[0] * shape[1] * shape[2]
    if array.size != count:
        raise ValueError(f"{array.size} values for {' x '.join(map(str, shape))}, which is {count}")
    return array.reshape(shape), datum.label


def parse_datum(value: bytes) -> Datum:
    """Return the message in the bytes of a record. Raises ValueError if there is none."""
    try:
        return Datum.FromString(value)
    except DecodeError as error:
        raise ValueError(f"{len(value)} bytes that are none") from error


def write_datum(array: np.ndarray, label: int) -> bytes:
    """Return a serialized Datum of an array (channels, height, width): uint8 as data, else as float_data."""
    datum = Datum(label=label)
    datum.channels, datum.height, datum.width = array.shape
    if array.dtype == np.uint8:
        datum.data = array.tobytes()
    else:
        datum.float_data.extend(array.astype(np.float32).reshape(-1).tolist())
    return datum.SerializeToString()


def write_encoded(content: bytes, label: int) -> bytes:
    """Return a serialized Datum of the bytes of an image file."""
    return Datum(data=content, label=label, encoded=True).SerializeToString()
