"""Making LMDB and LevelDB databases, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from minidrop.data.databases import missing_package
from minidrop.errors import DataError
from minidrop.files import making_folder, sweep

BATCH = 1000                    # records that are written together, as Caffe's tools do
BATCH_BYTES = 64 << 20
_MAP_BYTES = 64 << 20           # room of an LMDB at first; it grows
_KEY_BYTES = 511                # of an LMDB's keys

Put = Callable[[bytes, bytes], None]


@contextmanager
def new_database(path: str | os.PathLike, kind: str) -> Iterator[Put]:
    """Give put(key, value), which fills a database; kind: "LMDB" or "LEVELDB". Keys must rise.

    It is in the folder `path` from where the block ends without an error. Raises DataError if there is
    something called `path` already, or if the package that writes it is missing; OSError.
    """
    path = Path(path)
    check_new_database(path)
    sweep(path.parent)
    with making_folder(path) as folder:
        kind_of_writer = _LMDBWriter if kind == "LMDB" else _LevelDBWriter
        with kind_of_writer.explained(path, folder):
            writer = kind_of_writer(folder)
        waiting: list[tuple[bytes, bytes]] = []
        size = 0

        def put(key: bytes, value: bytes) -> None:
            nonlocal size
            if len(key) > _KEY_BYTES:
                raise DataError(f"{path}: expected keys of at most {_KEY_BYTES} bytes, got one of "
                                f"{len(key)}, {key[:60]!r}...; use shorter names of files")
            waiting.append((key, value))
            size += len(value)
            if len(waiting) >= BATCH or size >= BATCH_BYTES:
                writer.write(waiting)
                waiting.clear()
                size = 0

        try:
            with writer.explained(path, folder):
                yield put
                writer.write(waiting)
                writer.finish()
        finally:
            writer.close()


def check_new_database(path: str | os.PathLike) -> None:
    """Raise DataError unless a database can be made in the new folder `path`."""
    if os.path.lexists(path):
        raise DataError(f"{path}: expected the name of a new database, got one that exists; delete it, or "
                        "choose another name")
    parent = Path(path).parent
    if not parent.is_dir():
        raise DataError(f"{path}: expected a name in a folder that exists, got one in {parent}; make it")


def _unwritten(path, folder, error):
    """Return the DataError for an error of a library, which writes into `folder` what will be `path`."""
    said = error.args[0] if error.args else error
    said = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    said = said.replace(str(folder), str(path))
    return DataError(f"{path}: cannot be written ({said}); check the space on the disk")


class _LMDBWriter:
    def __init__(self, folder):
        import lmdb
        self._lmdb = lmdb
        # Nobody else knows the folder; and the file of its locks, which is mapped, is fatal on a full disk.
        self._environment = lmdb.open(str(folder), map_size=_MAP_BYTES, sync=False, lock=False)

    def write(self, records):
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in records:
                        if not transaction.put(key, value, append=True):
                            raise DataError(f"expected keys that rise, got {key!r}")
                return
            except self._lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    @staticmethod
    @contextmanager
    def explained(path, folder):
        try:
            import lmdb
        except ImportError as error:
            raise missing_package("lmdb", "LMDB", "caffe") from error
        try:
            yield
        except lmdb.Error as error:
            raise _unwritten(path, folder, error) from error

    def finish(self):
        self._environment.sync(True)

    def close(self):
        self._environment.close()


class _LevelDBWriter:
    def __init__(self, folder):
        import plyvel
        self._database = plyvel.DB(str(folder), create_if_missing=True, error_if_exists=True,
                                   write_buffer_size=BATCH_BYTES)

    def write(self, records):
        with self._database.write_batch() as batch:
            for key, value in records:
                batch.put(key, value)

    @staticmethod
    @contextmanager
    def explained(path, folder):
        try:
            import plyvel
        except ImportError as error:
            raise missing_package("plyvel", "LevelDB", "leveldb") from error
        try:
            yield
        except plyvel.Error as error:
            raise _unwritten(path, folder, error) from error

    def finish(self):
        self._database.compact_range()      # leaves no log, which every reader would have to repeat

    def close(self):
        self._database.close()
