"""Arrays of NumPy's .npy format from bytes of strangers: no pickle, no more memory than the bytes hold."""

import io
import math
from typing import IO, Any

import numpy as np

from minidrop.errors import DataError

MAGIC = b"\x93NUMPY"
MOST_AXES = 32                  # that every NumPy and CuPy takes
MOST_BYTES = (1 << 63) - 1      # in an array, also one without entries if its other axes had them
_READERS: dict[bytes, Any] = {b"\1\0": np.lib.format.read_array_header_1_0,
                              b"\2\0": np.lib.format.read_array_header_2_0}


def parse_npy(content: bytes, name: str) -> np.ndarray:
    """Return the array of numbers in the bytes of a .npy file, in native byte order.

    `name` is what messages call it. Raises DataError unless it is a whole .npy file of integers, floats or
    booleans. Source: numpy.lib.format, versions 1.0 and 2.0.
    """
    file = io.BytesIO(content)
    shape, is_fortran, dtype = read_header(file, name)
    size = math.prod(shape) * dtype.itemsize
    rest = len(content) - file.tell()
    if min(shape, default=1) < 0 or size != rest:
        raise DataError(f"{name}: expected {size} bytes for the shape {shape} of {dtype}, got {rest}; the "
                        "file is damaged: make it again")
    array = np.frombuffer(content, dtype, offset=file.tell())
    array = array.reshape(shape, order="F" if is_fortran else "C")
    return array.astype(dtype.newbyteorder("="), order="C")


def read_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, whether in Fortran order, dtype) of the .npy file that begins here; its data come next.

    Raises DataError unless it is one of integers, floats or booleans.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise DataError(f"{name}: expected a .npy file of numbers, got another kind of file; make it again")
    version = file.read(2)
    try:
        if version not in _READERS:
            raise ValueError(f"it is of version {'.'.join(map(str, version))}")
        shape, is_fortran, dtype = _READERS[version](file)
    except Exception as error:      # NumPy parses the header as Python source, which fails in many ways
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{name}: expected a .npy file of numbers, got a damaged one ({reason}); make it "
                        "again") from error
    if len(shape) > MOST_AXES or any(type(n) is not int for n in shape) or (
            math.prod(abs(n) or 1 for n in shape) * dtype.itemsize > MOST_BYTES):
        raise DataError(f"{name}: expected the lengths of at most {MOST_AXES} axes, got {str(shape)[:80]}; "
                        "the file is damaged: make it again")
    if dtype.kind not in "biuf":
        raise DataError(f"{name}: expected a .npy file of numbers, got entries of {dtype}; make it again")
    return shape, is_fortran, dtype
