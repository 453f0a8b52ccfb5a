"""HDF5Output: an HDF5 file that grows batch by batch, and has its name once it is complete."""

from __future__ import annotations

import os
import weakref
from contextlib import ExitStack
from typing import Any

import numpy as np

from minidrop.errors import DataError, ShapeError
from minidrop.files import check_output, replacing

CHUNK_BYTES = 1 << 20


class HDF5Writer:
    """Appends batches to the datasets of a file, which takes the place of `path` in `close`, at the end of
    the program, or when nobody refers to the writer any more.

    Raises OSError if the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike):
        check_output(path)
        self.path = path
        self._open: Any = None
        self._finish = None

    def append(self, **arrays: np.ndarray) -> None:
        """Add the rows of these arrays to the datasets of their names. Raises ShapeError if rows have another
        shape than before, DataError after `close`."""
        import h5py

        if self._finish is None:
            stack = ExitStack()
            file = stack.enter_context(replacing(self.path))
            # Closed first: what is in the library's buffers has to be in the file before it gets its name.
            self._open = stack.enter_context(h5py.File(file, "w"))
            self._finish = weakref.finalize(self, stack.close)
        if not self._finish.alive:
            raise DataError(f"{self.path}: is complete; build the net again to write another one")
        for name, array in arrays.items():
            dataset = self._open.get(name)
            if dataset is None:
                rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
                dataset = self._open.create_dataset(
                    name, (0, *array.shape[1:]), array.dtype, maxshape=(None, *array.shape[1:]),
                    chunks=(rows, *(max(1, length) for length in array.shape[1:])))
            if dataset.shape[1:] != array.shape[1:]:
                raise ShapeError(f"{self.path}: dataset {name!r}: expected rows of shape {dataset.shape[1:]} "
                                 f"as before, got {array.shape[1:]}")
            begin = len(dataset)
            dataset.resize(begin + len(array), axis=0)
            dataset[begin:] = array

    def close(self) -> None:
        """Complete the file, if there was anything to write. May be called twice."""
        if self._finish is not None:
            self._finish()
