"""Output files: replaced as a whole or not at all; no pipe is waited for, no device filled, no link taken."""

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

LEFTOVER_AGE = 600          # seconds without a write, after which nobody writes a temporary file any more
# Of a length of its own: a name that the folder can hold must not fail for that of its temporary file.
_TEMPORARY = re.compile(r"\.minidrop-[0-9a-f]{16}\.part|\..+\.h5\.\d+\.part")       # and those of old
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_unfinished: set[Path] = set()


def check_output(path: str | os.PathLike) -> None:
    """Raise OSError where `path` is there and neither a regular file nor a link."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except ValueError as error:         # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise _not_regular(path)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[FileIO]:
    """Give a new file that takes the place of `path`, be it a link, where the block ends without an error.

    Meanwhile it is a hidden file in the same folder, which an error removes. Raises OSError with the name
    `path`, also where that is no regular file.
    """
    path = Path(path)
    temporary = path.with_name(f".minidrop-{secrets.token_hex(8)}.part")
    _unfinished.add(temporary)
    try:
        check_output(path)
        with open(temporary, "x+b", buffering=0, opener=_without_links) as file:    # x: nothing that is there
            yield file
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()
        _unfinished.discard(temporary)


def replace(path: str | os.PathLike, content: bytes | str) -> None:
    """Make `content` (text: as UTF-8) that of the file `path`, as `replacing` does. Raises OSError."""
    with replacing(path) as file:
        write_all(file, content.encode() if isinstance(content, str) else content)


def open_to_append(path: str | os.PathLike) -> FileIO:
    """Return the file `path`, perhaps new, opened to write at its end, without a buffer.

    Raises OSError, also where it is a link or no regular file.
    """
    try:
        file = open(path, "ab", buffering=0, opener=_without_links)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):       # a link; a pipe that nobody reads
            raise _not_regular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _not_regular(path)
    return file


def write_all(file: FileIO, content: bytes) -> None:
    """Write all of `content`: a nearly full disk takes a part and says so by the count alone."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) or 0:]


def sweep(folder: str | os.PathLike, age: float = LEFTOVER_AGE) -> list[Path]:
    """Delete what killed writers left in `folder`: temporary files that nobody wrote to for `age` seconds.

    Returns those that it could delete; those of other people stay.
    """
    deleted = []
    with suppress(OSError):         # no such folder
        for path in Path(folder).iterdir():
            if _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    found = path.lstat()
                    if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime >= age:
                        path.unlink()
                        deleted.append(path)
    return deleted


def abandon() -> None:
    """Delete the temporary files of this process, which is about to end without an exception."""
    for path in tuple(_unfinished):
        with suppress(OSError):
            path.unlink()


def _without_links(path, flags):
    # Without O_NONBLOCK to open a pipe waits until somebody reads it.
    return os.open(path, flags | _NO_LINKS | getattr(os, "O_NONBLOCK", 0), 0o666)


def _not_regular(path):
    return OSError(errno.EINVAL, "expected a regular file or none, got a link, a pipe or a device", str(path))
