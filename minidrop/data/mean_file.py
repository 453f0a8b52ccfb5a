"""Files that hold a mean of images: Caffe's .binaryproto, or .npy."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minidrop.data.binaryproto import read_array, write_blob
from minidrop.data.records import Records
from minidrop.errors import DataError
from minidrop.files import replace

PIECE_BYTES = 8 << 20       # of records, read at a time


def read_mean(path: Path | str) -> np.ndarray:
    """Return the array of a mean file: of a .npy file, or else of a BlobProto.

    A first axis of length 1 (Caffe's `num`) is left out of four. Raises DataError if the file is missing,
    damaged or too large.
    """
    mean = read_array(path)
    return mean[0] if mean.ndim == 4 and len(mean) == 1 else mean


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
