"""What a tensor holds: real numbers, integers or truth values, in the byte order of the machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidrop.errors import TensorError

HELD = frozenset("?bBhHiIlLqQefd")       # the dtypes of tensors, as NumPy's characters


def is_held(data: Any) -> bool:
    """Whether `data` is an array of NumPy's that a tensor holds as it is."""
    return type(data) is np.ndarray and data.dtype.char in HELD and data.dtype.isnative


def array_of(lists: Any) -> np.ndarray:
    """Return numbers or nested lists as an array; raises TensorError for lists of unequal lengths."""
    try:
        return np.asarray(lists)
    except ValueError as error:
        raise TensorError(f"nested lists of unequal lengths are no array ({error})") from None


def as_held(data: Any) -> Any:
    """Return numbers, nested lists or an array of NumPy's as an array that a tensor holds.

    Python's real numbers become float32, wider ones than float64 float64. A device's array is returned as it
    is. Raises TensorError for what is no array of real numbers, and for a masked one.
    """
    if not hasattr(data, "dtype") or isinstance(data, type):
        data = array_of(data)
        data = data.astype(np.float32) if data.dtype == np.float64 else data
    elif not isinstance(data, np.generic | np.ndarray):
        return data
    if isinstance(data, np.ma.MaskedArray):
        raise TensorError("expected an array of real numbers, got a masked one; fill in what is masked, as "
                          "in x.filled(0)")
    data = np.asarray(data)             # of a subclass, whose operators may mean something else
    if data.dtype.kind not in "biuf":
        raise TensorError(f"expected an array of real numbers, got one of dtype {data.dtype}")
    if data.dtype.itemsize > 8:
        return data.astype(np.float64)
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))
