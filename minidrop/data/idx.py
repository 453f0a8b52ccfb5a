"""The idx format of the MNIST files: a small header, then one array in big-endian order."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.limits import check_unpacked
from minidrop.errors import DataError
from minidrop.files import open_regular

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
PIECE = 1 << 20


def read_idx(path: Path) -> Any:
    """Return the array of an idx file, plain or gzip-compressed, in native byte order.

    Layout: two zero bytes, a type code, the number of axes (1 byte each); the length of each axis (4 bytes,
    big-endian); the entries, last axis fastest. Nothing may follow them.

    Raises DataError if the file is missing, truncated, too long, or not in this layout.
    Source: the description of the format on the MNIST page (Y. LeCun, C. Cortes, C. Burges).
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            compressed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            if not compressed:
                return _read(file, path)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read(unpacked, path, is_packed=True)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: expected a whole gzip file, got a damaged one ({error}); "
                        "fetch it again") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path and its "
                        "permissions") from error


def _read(file, path, is_packed=False):
    zeros, code, axes = struct.unpack(">HBB", _take(file, 4, path, "a header of 4 bytes"))
    if zeros or code not in TYPES or not axes:
        raise DataError(f"{path}: expected an idx header (0, a type code out of "
                        f"{', '.join(f'0x{known:02X}' for known in TYPES)}, at least 1 axis), got {zeros}, "
                        f"0x{code:02X}, {axes} axes; is this an idx file?")
    shape = struct.unpack(f">{axes}I", _take(file, 4 * axes, path, f"the lengths of {axes} axes"))
    if 0 in shape:
        raise DataError(f"{path}: expected axes of at least 1 entry, got the shape {shape}; fetch the file "
                        "again")
    dtype = np.dtype(TYPES[code])
    size = math.prod(shape) * dtype.itemsize
    if is_packed:
        check_unpacked(size, path)
    body = _take(file, size, path, f"{size} bytes for the shape {shape} of {dtype.newbyteorder('=')}")
    if file.read(1):
        raise DataError(f"{path}: expected the file to end after {size} bytes for the shape {shape}, got "
                        "more; fetch the file again")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _take(file, size, path, expected):
    # In pieces, so that a header that announces terabytes cannot make us allocate them.
    body = bytearray()
    while len(body) < size:
        piece = file.read(min(PIECE, size - len(body)))
        if not piece:
            raise DataError(f"{path}: expected {expected}, got {len(body)} bytes; the file is cut short, "
                            "fetch it again")
        body += piece
    return body
