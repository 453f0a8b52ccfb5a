"""Output files and folders: replaced as a whole or not at all; no pipe is waited for, no link is taken."""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path

LEFTOVER_AGE = 600          # seconds without a write, after which nobody writes a temporary file any more
# Of a length of its own: a name that the folder can hold must not fail for that of its temporary file.
_TEMPORARY = re.compile(r"\.minidrop-[0-9a-f]{16}\.part|\..+\.h5\.\d+\.part")       # and those of old
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_unfinished: dict[Path, Path] = {}       # {temporary file or folder: what it is to replace}


def in_order(name: str, places: list) -> list:
    """Return where a name in a config file is looked for, of [in the working folder, beside the file, ...].

    In this order, as in Caffe; a name without a folder is looked for beside the file first. There it stands
    with the file that it belongs to, and what has the same name elsewhere is likely another's.
    """
    return places if os.path.dirname(name) else [*places[1:2], *places[:1], *places[2:]]


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
    temporary = path.parent / f".minidrop-{secrets.token_hex(8)}.part"         # not with_name: "/" has none
    _unfinished[temporary] = path
    try:
        check_output(path)
        with open(temporary, "x+b", buffering=0, opener=_without_links) as file:    # x: nothing that is there
            yield file
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            _name(error, path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()
        _unfinished.pop(temporary, None)


def replace(path: str | os.PathLike, content: bytes | str) -> None:
    """Make `content` (text: as UTF-8) that of the file `path`, as `replacing` does. Raises OSError."""
    with replacing(path) as file:
        write_all(file, content.encode() if isinstance(content, str) else content)


@contextmanager
def making_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Give a new, empty folder that is called `path` from where the block ends without an error.

    Meanwhile it is a hidden folder beside it, which an error removes. Raises OSError with the name `path`,
    also where that exists.
    """
    path = Path(path)
    temporary = path.parent / f".minidrop-{secrets.token_hex(8)}.part"         # not with_name: "/" has none
    _unfinished[temporary] = path
    try:
        _check_new(path)
        os.mkdir(temporary)
        yield temporary
        _check_new(path)
        os.rename(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            _name(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _unfinished.pop(temporary, None)


def open_regular(path: str | os.PathLike) -> BufferedReader:
    """Return the file `path`, opened to be read. Raises OSError, also where it is no regular file."""
    file = open(path, "rb", opener=_without_waiting)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "expected a regular file, got a pipe or a device", str(path))
    return file


def read_regular(path: str | os.PathLike, most: int) -> bytes:
    """Return what is in a regular file, but no more than `most` + 1 bytes. Raises OSError."""
    with open_regular(path) as file:
        # To ask for `most` at once would take memory for as much.
        size = min(os.fstat(file.fileno()).st_size, most)
        content = file.read(size + 1)
        return content + file.read(most - size) if len(content) > size else content     # it has grown


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
    """Delete what killed writers left in `folder`: temporary files, and folders of files, that nobody wrote
    to for `age` seconds.

    Returns those that it could delete; those of other people stay.
    """
    deleted = []
    with suppress(OSError):         # no such folder
        for path in Path(folder).iterdir():
            if _TEMPORARY.fullmatch(path.name):
                with suppress(OSError):
                    if time.time() - _last_write(path) >= age:
                        _delete(path)
                        deleted.append(path)
    return deleted


def abandon() -> list[Path]:
    """Delete the temporary files and folders of this process, which is about to end without an exception.

    Returns the files and folders that they were to become. One that has just become it is not among them.
    """
    lost = {path: target for path, target in dict(_unfinished).items() if os.path.lexists(path)}
    for path in lost:
        with suppress(OSError):
            _delete(path)
    return list(lost.values())


def _check_new(path):
    """Raise FileExistsError where `path` is there; a renamed folder would replace an empty one."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))


def _name(error, path):
    """Let an error of a temporary file be one of `path`."""
    error.filename = str(path)
    del error.filename2         # None would be shown as the second name


def _last_write(path):
    """Return when a file, or one of the files in a folder, was last written to; never for anything else."""
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode):
        return max([found.st_mtime, *(inside.lstat().st_mtime for inside in path.iterdir())])
    return found.st_mtime if stat.S_ISREG(found.st_mode) else float("inf")


def _delete(path):
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()


def _without_links(path, flags):
    return _without_waiting(path, flags | _NO_LINKS)


def _without_waiting(path, flags):
    # Without O_NONBLOCK to open a pipe waits until somebody opens its other end.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def _not_regular(path):
    return OSError(errno.EINVAL, "expected a regular file or none, got a link, a pipe or a device", str(path))
