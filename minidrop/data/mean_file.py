"""Files that hold a mean of images: Caffe's .binaryproto, or .npy; and means within a description."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from google.protobuf.message import Message

from minidrop.data.binaryproto import read_array, write_blob
from minidrop.data.npy import parse_npy
from minidrop.data.records import Records
from minidrop.data.sources import find_source
from minidrop.errors import ConfigError, DataError
from minidrop.files import replace

PIECE_BYTES = 8 << 20       # of records, read at a time


def read_mean(path: Path | str) -> np.ndarray:
    """Return the array of a mean file: of a .npy file, or else of a BlobProto.

    A first axis of length 1 (Caffe's `num`) is left out of four. Raises DataError if the file is missing,
    damaged or too large.
    """
    mean = read_array(path)
    return mean[0] if mean.ndim == 4 and len(mean) == 1 else mean


def mean_of_settings(settings: Message, config_path: str | None) -> tuple[np.ndarray, str] | None:
    """Return (mean, what messages call it) of a transform_param's mean_file or mean_data; None without one.

    Raises ConfigError where several kinds of a mean are given, DataError as `read_mean`.
    """
    given = [name for name in ("mean_file", "mean_data", "mean_value") if getattr(settings, name)]
    if len(given) > 1:
        raise ConfigError(f"transform_param: {' and '.join(given)} are both given; keep one")
    if settings.mean_file:
        path = find_source(settings.mean_file, config_path, "mean", "mean_file")
        return read_mean(path), f"transform_param: mean_file {path}"
    if settings.mean_data:
        return unpacked(settings.mean_data), "transform_param: mean_data"
    return None


def finite(mean: np.ndarray, dtype: np.dtype | str, what: str) -> np.ndarray:
    """Return a mean in the dtype that it is taken off in. Raises ConfigError for a NaN or infinity in it."""
    with np.errstate(over="ignore"):
        mean = np.asarray(mean, dtype)
    if not np.isfinite(mean).all():
        raise ConfigError(f"{what}: expected finite numbers of {dtype}, got others; make it again")
    return mean


def packed(mean: np.ndarray) -> str:
    """Return a mean as text for mean_data: float64 as such, all others as float32."""
    file = io.BytesIO()
    np.save(file, np.asarray(mean, "<f8" if mean.dtype == np.float64 else "<f4"), allow_pickle=False)
    return base64.b64encode(file.getvalue()).decode()


def unpacked(text: str) -> np.ndarray:
    """Return the mean of a mean_data, which may be anybody's. Raises DataError."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise DataError(f"transform_param: mean_data: expected a .npy file in base64 ({error}); get the file "
                        f"again") from None
    return parse_npy(content, "transform_param: mean_data")


def write_mean(path: Path | str, mean: np.ndarray) -> None:
    """Write a mean (channels, height, width) as float32, to .npy or else as a BlobProto. Raises OSError.

    Old Caffe reads the four lengths num, channels, height, width; so does new Caffe.
    """
    mean = np.asarray(mean, np.float32)
    if Path(path).suffix == ".npy":
        file = io.BytesIO()
        np.save(file, mean, allow_pickle=False)
        replace(path, file.getvalue())
        return
    if mean.ndim > 4:
        raise ValueError(f"a BlobProto of a mean has at most 4 axes, got the shape {mean.shape}")
    write_blob(path, mean.reshape((1,) * (4 - mean.ndim) + mean.shape))


def mean_of(records: Records, name: str = "data", report: Callable[[int], None] | None = None) -> np.ndarray:
    """Return the mean over all records of the array `name`, float64, of the shape of one record.

    Each record is read once, in order, some 8 MiB at a time; sums are in float64. `report` is told how many
    have been read. Raises DataError if their shapes differ.
    """
    shape = records.shapes(name)
    step = max(1, PIECE_BYTES // max(1, records.record_bytes))
    total = np.zeros(shape)
    for begin in range(0, len(records), step):
        end = min(begin + step, len(records))
        part = records.read(np.arange(begin, end))[name]
        if not isinstance(part, np.ndarray) or part.shape[1:] != shape:
            raise DataError(f"{records.name}: expected records of one shape, {shape}, of which there is a "
                            f"mean, got others in {records.where(begin)} and {end - begin - 1} more; scale "
                            "them alike")
        total += part.sum(axis=0, dtype=np.float64)
        if report:
            report(end)
    return total / len(records)
