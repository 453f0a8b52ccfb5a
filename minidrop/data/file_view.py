"""A piece of a file that is read only when it is used, for files too large to hold.

It is not mapped into memory: a process dies from a mapped file that another process cuts short.
"""

from __future__ import annotations

import os
from io import FileIO

from minidrop.errors import DataError

_PAGE = 4096


class FileView:
    """The bytes from `start` to `stop` of an open file, as a memoryview in its place: `len`, slices, bytes.

    A slice reads nothing. Raises DataError where the file cannot be read, or has become shorter.
    """

    def __init__(self, file: FileIO, path: str | os.PathLike, start: int, stop: int):
        self._file, self._path, self._start, self._stop = file, path, start, stop
        self._page, self._page_at = memoryview(b""), 0

    def __len__(self):
        return self._stop - self._start

    def __getitem__(self, key):
        if isinstance(key, slice):
            start, stop, _ = key.indices(len(self))
            return FileView(self._file, self._path, self._start + start, self._start + max(start, stop))
        place = key - self._page_at
        if not 0 <= place < len(self._page):    # single bytes are asked for one after the other
            self._page_at, place = key, 0
            self._page = self[key:key + _PAGE].read()
        return self._page[place]

    def __bytes__(self):
        return bytes(self.read())

    def read(self) -> memoryview:
        """Return the bytes, in new memory of just that size."""
        content = bytearray(len(self))
        rest = memoryview(content)
        try:
            self._file.seek(self._start)
            while rest and (count := self._file.readinto(rest)):
                rest = rest[count:]
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read ({error.strerror or error})") from error
        if rest:
            raise DataError(f"{self._path}: became shorter while it was read; does another program write to "
                            f"it? Try again when that has ended")
        return memoryview(content).toreadonly()


class _Kept(FileIO):
    """A file that is closed when nothing refers to it, without a ResourceWarning."""

    def __del__(self):
        self.close()


def kept_view(file: FileIO, path: str | os.PathLike) -> FileView:
    """Return the whole of an open file, which may be closed then, as a FileView."""
    return FileView(_Kept(os.dup(file.fileno()), "rb"), path, 0, os.fstat(file.fileno()).st_size)


Piece = memoryview | FileView


def in_memory(piece: Piece) -> memoryview:
    """Return the bytes of a piece, read if it is one of a file."""
    return piece.read() if isinstance(piece, FileView) else piece
