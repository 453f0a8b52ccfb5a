"""Writes snapshots atomically."""

import errno
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.hdf5_disk import write_hdf5
from minidrop.errors import SnapshotError
from minidrop.files import replacing
from minidrop.snapshot.content import MAX_DEPTH, Snapshot, is_plain, is_run_name
from minidrop.snapshot.seal import SEAL_SIZE, write_seal

SNAPSHOT = "the snapshot"       # what messages call it


def write_snapshot(path: str | os.PathLike, snapshot: Snapshot) -> None:
    """Write `snapshot` to `path`; an older file is only replaced once the new one is safely on disk.

    The folder must exist. The data goes to a hidden temporary file in the same folder, which is flushed and
    renamed. Raises SnapshotError (full disk, read-only or missing folder, unfit key or value); then nothing
    is left behind and an older file at `path` is unchanged.
    """
    path = Path(path)
    check_keys(path, snapshot.arrays)
    _check_arrays(path, snapshot.arrays)
    _check_attributes(path, snapshot.attrs)
    with replacing_safely(path, sum(array.nbytes for array in snapshot.arrays.values())) as file:
        write_hdf5(file, partial(_fill, snapshot), SEAL_SIZE)
        iteration = snapshot.attrs.get("iteration", 0)
        number = 0 if isinstance(iteration, str) else int(iteration)
        write_seal(file, number, *_of_run(snapshot.attrs))


@contextmanager
def replacing_safely(path: Path, size: int, what: str = SNAPSHOT) -> Iterator[FileIO]:
    """Give a new file of about `size` bytes that replaces `path`, on disk, unless the block raises an error.

    what: what messages call it. Raises SnapshotError where the system does not let it be written.
    """
    try:
        with replacing(path) as file:
            yield file
            os.fsync(file.fileno())
        _flush_folder(path.parent)
    except OSError as error:
        raise SnapshotError(f"{path}: {what} was not written: {_advice(error, path, size, what)}") from error


def check_keys(path: str | os.PathLike, keys: Iterable[str]) -> None:
    """Raise SnapshotError unless arrays of these keys fit into one snapshot, named `path` in messages."""
    keys = set(keys)
    folders = {key[:i] for key in keys for i, letter in enumerate(key) if letter == "/"}
    for key in keys:
        parts = key.split("/")
        if "" in parts or "." in parts or not _is_storable(key) or len(parts) > MAX_DEPTH:
            raise SnapshotError(f"{path}: {key[:80]!r} cannot be an array's key; build keys with "
                                "join_key, of names that are not very long")
        if key in folders:
            raise SnapshotError(f"{path}: key {key!r} is also the beginning of another key; "
                                "build keys with join_key")


def _check_arrays(path, arrays):
    for key, array in arrays.items():
        if not isinstance(array, np.ndarray) or not is_plain(array.dtype):
            raise SnapshotError(f"{path}: array {key!r}: expected a NumPy array of booleans, integers or "
                                f"floats up to 8 bytes, got {getattr(array, 'dtype', type(array).__name__)}")


def _check_attributes(path, attributes):
    for name, value in attributes.items():
        if not isinstance(value, str | int | float | np.integer | np.floating):
            raise SnapshotError(f"{path}: attribute {name!r}: expected str, int or float, "
                                f"got {type(value).__name__}")
        if not name or not _is_storable(name) or (isinstance(value, str) and "\0" in value):
            raise SnapshotError(f"{path}: attribute {name[:80]!r}: a name must not be empty or very long, "
                                "and no text may hold a NUL")
        if name == "iteration" and not isinstance(value, str) and not np.isfinite(value):
            raise SnapshotError(f"{path}: attribute 'iteration': expected an integer from 0 on, got {value}")
        if name == "run" and not is_run_name(value):
            raise SnapshotError(f"{path}: attribute 'run': expected 16 hexadecimal digits, got {value!r}")
        if isinstance(value, int | np.integer) and not -(2**63) <= value < 2**64:
            raise SnapshotError(f"{path}: attribute {name!r}: {value} does not fit into 64 bits")
        if isinstance(value, str) and not _is_utf8(value):
            raise SnapshotError(f"{path}: attribute {name!r} cannot be stored as UTF-8 text")


def _of_run(attributes):
    """Return (run, loss) for a seal."""
    loss = attributes.get("loss", math.nan)
    return attributes.get("run", ""), math.nan if isinstance(loss, str) else float(loss)


def _is_storable(name):
    return "\0" not in name and _is_utf8(name) and len(name.encode()) < 30_000  # the limit of HDF5 is 64 KiB


def _is_utf8(text):
    return not any("\ud800" <= letter <= "\udfff" for letter in text)  # half a surrogate pair


def write_attributes(root: Any, attributes: Mapping[str, str | int | float]) -> None:
    """Write attributes, numbers and texts, of an open HDF5 file; a text has a fixed length."""
    for name, value in attributes.items():
        root.attrs.create(name, *_attribute(value))


def _fill(snapshot, root, disk):
    write_attributes(root, snapshot.attrs)
    for key, array in snapshot.arrays.items():
        if disk.error is None:
            root.create_dataset(key, data=array)


def _attribute(value):
    """Return (data, shape, dtype) for h5py; text has a fixed length, as the reader requires."""
    import h5py

    if isinstance(value, str):
        data = value.encode()
        return np.bytes_(data), (), h5py.string_dtype("utf-8", max(1, len(data)))
    if isinstance(value, float | np.floating):
        return float(value), (), np.dtype("f8")
    return int(value), (), np.dtype("i8" if value < 2**63 else "u8")


def _flush_folder(folder):
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network folders cannot be flushed
            raise
    finally:
        os.close(descriptor)


def _advice(error, path, size, what):
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (f"the disk is full, and it takes {size / 1e6:.1f} MB; free some space"
                + (", or keep fewer snapshots (snapshot_keep)" if what == SNAPSHOT else
                   ", or name another folder"))
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"the folder {path.parent} cannot be written to; choose another one"
    if error.errno == errno.ENOENT:
        return f"the folder {path.parent} does not exist; create it or choose another one"
    return error.strerror or str(error)
