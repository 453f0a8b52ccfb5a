"""LMDB and LevelDB databases, opened to be read only: nothing in their folders is made or changed.

A damaged or hostile database can crash its library; each is tried in a process of its own first (see probe).
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minidrop.data.probe import probe
from minidrop.errors import DataError

KINDS = ("LMDB", "LEVELDB")
MAIN_FILES = {"LMDB": "data.mdb", "LEVELDB": "CURRENT"}
# Of a LevelDB's files those that it makes anew for each time it is opened.
_MADE_ANEW = ("LOCK", "LOG", "LOG.old")


def open_database(path: str | os.PathLike, kind: str) -> Database:
    """Return the database in the folder `path`; kind: "LMDB" or "LEVELDB".

    Raises DataError if the package that reads it is missing, or if the folder holds none of this kind, a
    damaged one, or one without records.
    """
    path = Path(path)
    if not _check_file(path / MAIN_FILES[kind]):
        other = next((name for name in KINDS if _is_file(path / MAIN_FILES[name])), None)
        mend = (f"write backend: {other} (--backend {other.lower()})" if other else
                "name the folder of a database, or make it again")
        got = f"that of a database of the kind {other}" if other else "another one"
        raise DataError(f"{path}: expected the folder of a database of the kind {kind}, with the file "
                        f"{MAIN_FILES[kind]}, got {got}; {mend}")
    database = LMDB(path) if kind == "LMDB" else LevelDB(path)
    if not len(database):
        raise DataError(f"{path}: expected records, got a database without any; make it again")
    return database


class Database:
    """Records of bytes in the order of their keys: `len`, and `walk`. May be read by several threads, each
    with a walk of its own, and goes on working in a forked process."""

    path: Path

    def __len__(self) -> int:
        raise NotImplementedError

    def walk(self, start: bytes = b"", values: bool = True) -> Iterator[Any]:
        """Yield (key, value) of all records from the key `start` on, or keys alone. Raises DataError."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what the database holds. May be called twice."""

    @contextmanager
    def _explained(self, errors):
        try:
            yield
        except (*errors, MemoryError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{self.path}: expected a readable database, got: {reason}; it is damaged, cut "
                            "short or of another kind: make it again") from error


class LMDB(Database):
    """An LMDB. All that a process opens of one file share one environment, as the library demands."""

    def __init__(self, path: Path):
        try:
            import lmdb
        except ImportError as error:
            raise missing_package("lmdb", "LMDB", "caffe") from error
        self.path, self._error = path, lmdb.Error
        file = path / "data.mdb"
        probe([file], kind="lmdb")
        status = file.stat()
        key = status.st_dev, status.st_ino
        shared = _environments.get(key)
        if shared is None:
            with self._explained((lmdb.Error, OSError)):
                shared = _environments[key] = _Environment(
                    lmdb.open(str(path), readonly=True, lock=False, create=False, max_dbs=0))
        self._shared = shared
        with self._explained((lmdb.Error,)):
            self._count = shared.environment.stat()["entries"]

    def __len__(self):
        return self._count

    def walk(self, start: bytes = b"", values: bool = True) -> Iterator[Any]:
        with self._explained((self._error,)), self._shared.environment.begin() as transaction:
            cursor = transaction.cursor()
            if cursor.set_range(start) if start else cursor.first():
                yield from cursor.iternext(keys=True, values=values)


class _Environment:
    """Holds an environment of the library, which is closed with the last reader."""

    def __init__(self, environment):
        self.environment = environment
        weakref.finalize(self, environment.close)


_environments: weakref.WeakValueDictionary[tuple[int, int], _Environment] = weakref.WeakValueDictionary()


class LevelDB(Database):
    """A LevelDB, counted once from end to end.

    The library can only open a database in order to write to it, and one at a time. So each reader opens a
    temporary folder of links to the database's files, in which the library then does its housekeeping.
    """

    def __init__(self, path: Path):
        try:
            import plyvel
        except ImportError as error:
            raise missing_package("plyvel", "LevelDB", "leveldb") from error
        self.path, self._plyvel = path, plyvel
        self._process = self._view = self._opened = None
        self._open()
        self._count = sum(1 for _ in self.walk(values=False))

    def __len__(self):
        return self._count

    def walk(self, start: bytes = b"", values: bool = True) -> Iterator[Any]:
        with self._explained((self._plyvel.Error, OSError)), self._open().iterator(
                start=start or None, include_value=values, verify_checksums=True) as records:
            for found in records:
                yield found
                if self._process != os.getpid():        # forked meanwhile: on from the next key, opened anew
                    key = found[0] if values else found
                    yield from self.walk(key + b"\0", values)
                    return

    def close(self) -> None:
        if self._opened is not None and self._process == os.getpid():
            self._opened.close()
            self._view.remove()
        self._opened = None

    def _open(self):
        """Return the database, opened; in a forked process again, which has none of the library's threads."""
        if self._opened is not None and self._process == os.getpid():
            return self._opened
        if self._opened is not None:
            _inherited.append(self._opened)     # to close it would wait for a thread that is not there
        self._view, self._process = _View(self.path), os.getpid()
        probe([self.path], kind="leveldb", at=self._view.folder)
        with self._explained((self._plyvel.Error, OSError)):
            self._opened = self._plyvel.DB(str(self._view.folder), create_if_missing=False,
                                           paranoid_checks=True)
        return self._opened


_inherited: list[Any] = []


class _View:
    """A temporary folder of links to the files of a LevelDB, removed by the process that made it."""

    def __init__(self, path):
        self.folder = Path(tempfile.mkdtemp(prefix="minidrop-leveldb-"))
        self.remove = weakref.finalize(self, _remove, self.folder, os.getpid())
        try:
            for file in path.iterdir():
                if file.name not in _MADE_ANEW and _is_file(file):      # a pipe would be waited for
                    file.open("rb").close()     # the library's own words for a refusal are those of damage
                    (self.folder / file.name).symlink_to(file.absolute())
        except OSError as error:
            raise DataError(f"{path}: expected a database that can be read through links in {self.folder}, "
                            f"got: {error.strerror or error}; check the permissions, or set TMPDIR to a "
                            "folder that can be written") from error


def _remove(folder, process):
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _is_file(path):
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _check_file(path):
    """Return whether a file is there. Raises DataError where it is no file to be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):     # a pipe would be waited for
            raise DataError(f"{path}: expected a file of a database, got a folder, a pipe or a device; name "
                            "the folder of a database, or make it again")
        with open(path, "rb") as file:
            is_empty = not file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = "permission denied" if isinstance(error, PermissionError) else error
        raise DataError(f"{path}: expected a file of a database that may be read, got: {reason}; check the "
                        "name and the permissions") from error
    if is_empty:
        raise DataError(f"{path}: expected a file of a database, got an empty one; it is cut short, or was "
                        "never written: make the database again")
    return True


def missing_package(package: str, kind: str, extra: str) -> DataError:
    """Return the error for a database whose package is not installed."""
    return DataError(f"{kind} databases: expected the package {package}, which reads them, got none; run: "
                     f'python -m pip install "minidrop[{extra}]", or python -m pip install {package}')
