"""HDF5Output: an HDF5 file that grows batch by batch, and has its name once it is complete."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from minidrop.data.hdf5_disk import Disk
from minidrop.errors import DataError, ShapeError
from minidrop.files import check_output, replacing

CHUNK_BYTES = 1 << 20
log = logging.getLogger(__name__)
_discards: ContextVar[bool] = ContextVar("discards", default=False)


@contextmanager
def discarding() -> Iterator[None]:
    """Let no writer write within the block: what only measures a net replaces nobody's files."""
    token = _discards.set(True)
    try:
        yield
    finally:
        _discards.reset(token)


def place_of(path: str | os.PathLike) -> Path:
    """Return the place of a file to write: two names of one place give one path."""
    return Path(os.path.realpath(Path(path).parent), Path(path).name)


class HDF5Writer:
    """Appends batches to the datasets of a file, which takes the place of `path` in `close`.

    Until then an older file is as it was. It stays where writing fails, and where nobody calls `close`. One
    process has one writer of a path at a time. Raises OSError where `path` is no regular file.
    """

    def __init__(self, path: str | os.PathLike):
        check_output(path)
        self.path = path
        self._output: _Output | None = None
        self._leave: Any = None
        self._handled: BaseException | None = None      # what was handled when the file was begun

    def append(self, **arrays: np.ndarray) -> None:
        """Add the rows of these arrays to the datasets of their names.

        Raises ShapeError if rows have another shape than before, DataError where the file cannot be written,
        after `close`, and while another writer has this path.
        """
        if _discards.get():
            return
        if self._output is None:
            self._output, self._handled = _Output(self.path), sys.exc_info()[1]
            self._leave = weakref.finalize(self, _leave, self._output)
        if not self._output.is_open:
            raise DataError(f"{self.path}: {self._output.ended}; build the net again to write another one")
        with self._output.guarded():
            for name, array in arrays.items():
                self._output.append(name, array)

    def close(self) -> None:
        """Complete the file, if there was anything to write. May be called twice.

        While an error is handled that came after the first batch, as in the `finally` of a run that failed,
        the file is not completed but deleted, and an older one stays. Raises DataError where the last bytes
        cannot be written.
        """
        if self._output is None:
            return
        self._leave.detach()
        if self._output.is_open:
            failed = sys.exc_info()[1] not in (None, self._handled)
            self._output.end(_Incomplete() if failed else None)


class _Incomplete(Exception):
    """The reason of a file that is not to be completed."""


class _Output:
    """The temporary file of a writer. It has no reference to it, so that it can outlive it by a moment."""

    open_paths: set[Path] = set()

    def __init__(self, path):
        import h5py

        self.path, self.ended, self.is_open, self.process = path, "", False, os.getpid()
        self.place = place_of(path)
        if self.place in self.open_paths:
            raise DataError(f"{path}: expected one layer that writes it, got a second while the first one's "
                            "net is open (of the train net and a test net, perhaps); give each a file_name "
                            "of its own, or close the first net")
        self.stack = ExitStack()
        try:
            self.disk = Disk(self.stack.enter_context(replacing(path)))
            with self.disk:
                self.file = h5py.File(self.disk, "w")
        except OSError as error:
            raise self._unwritten(error) from error
        self.is_open = True
        self.open_paths.add(self.place)

    def append(self, name, array):
        """Add rows to the dataset `name`."""
        dataset = self.file.get(name)
        if dataset is None:
            rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
            dataset = self.file.create_dataset(
                name, (0, *array.shape[1:]), array.dtype, maxshape=(None, *array.shape[1:]),
                chunks=(rows, *(max(1, length) for length in array.shape[1:])))
        if dataset.shape[1:] != array.shape[1:]:
            raise ShapeError(f"{self.path}: dataset {name!r}: expected rows of shape {dataset.shape[1:]} "
                             f"as before, got {array.shape[1:]}")
        begin = len(dataset)
        dataset.resize(begin + len(array), axis=0)
        dataset[begin:] = array

    def guarded(self):
        """Return a context in which the library may write; an error in it, or of the disk, ends the file."""
        return _Guard(self)

    def end(self, error=None):
        """Close the file, and give it its name unless there is an `error`, or now one of the disk."""
        self.is_open, self.ended = False, "was given up after an error"
        self.open_paths.discard(self.place)
        self.disk.error = self.disk.error or error      # then nothing more is written
        try:
            with self.stack:            # which deletes the file after an error, and else gives it its name
                with self.disk:
                    self.file.close()
                if self.disk.error is not None:
                    raise self.disk.error
            self.ended = "is complete"
        except _Incomplete:
            pass
        except OSError as found:
            raise self._unwritten(found) from found

    def _unwritten(self, error):
        return DataError(f"{self.path}: expected a place for the file of hdf5_output_param, got: "
                         f"{error.strerror or error}; an older file is as it was: free some space, or choose "
                         "another file_name")


class _Guard:
    def __init__(self, output):
        self.output = output

    def __enter__(self):
        self.output.disk.__enter__()

    def __exit__(self, kind, error, traceback):
        self.output.disk.__exit__(kind, error, traceback)
        error = self.output.disk.error or error
        if error is not None:
            self.output.end(error)


def _leave(output):
    """Give up the file of a writer that nobody refers to any more."""
    if output.is_open and output.process == os.getpid():        # not in a process that was forked meanwhile
        output.end(_Incomplete())
        log.warning("%s: is not written, since its net was not closed; call close() at the end of a run",
                    output.path)
