"""HDF5 files written, and read, through a file object of ours: no error of the disk crashes the library."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from io import FileIO
from typing import Any


def write_hdf5(file: FileIO, fill: Callable[[Any, Disk], None], userblock: int = 0) -> None:
    """Write an HDF5 file through fill(h5py.File, disk), which may end early once there is a `disk.error`.

    A full disk is an OSError, and no crash of the library.
    """
    import h5py

    disk = Disk(file)
    # v108: readable by every HDF5 since 2008, and without the 64 KiB limit on an attribute.
    with disk, h5py.File(disk, "w", libver=("v108", "v108"), userblock_size=userblock) as root:
        fill(root, disk)
    if disk.error is not None:
        raise disk.error


class Disk:
    """The file object given to HDF5: it keeps the first error in `error`, and then only pretends to work.

    If HDF5 cannot write its last bytes, it cannot close the file either, and fails again when the process
    ends. So it is allowed to finish, and the user of this class raises the error afterwards. Within
    `with disk:` the same holds for exceptions of signal handlers, above all KeyboardInterrupt, which must not
    pass through HDF5 either.
    """

    def __init__(self, file: FileIO):
        self.file = file
        self.error: BaseException | None = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        try:
            self._handlers[number](number, frame)
        except BaseException as error:
            self.error = self.error or error

    def write(self, data: Any) -> int:
        """Write all of `data`, unless there was an error."""
        rest = memoryview(data).cast("B")
        while rest and self.error is None:  # a nearly full disk writes a part and only shows it by the count
            rest = rest[self._attempt(self.file.write, rest) or 0:]
        return len(data)

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, with zeros for what cannot be read."""
        rest = memoryview(buffer).cast("B")
        while rest and (count := self._attempt(self.file.readinto, rest)):
            rest = rest[count:]
        rest[:] = bytes(len(rest))
        return len(buffer)

    def truncate(self, size: int | None = None) -> int | None:
        """Set the length of the file, and return it."""
        self._attempt(self.file.truncate, size)
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position in the file, and return it."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in the file."""
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read bytes; h5py only tests for this method, and uses readinto."""
        return self.file.read(size)

    def flush(self) -> None:
        """Do nothing: the writer flushes once, at the end."""

    def _attempt(self, action, *arguments):
        if self.error is None:
            try:
                return action(*arguments)
            except BaseException as error:  # not even a KeyboardInterrupt may pass through HDF5
                self.error = error
        return None
