"""What Numba keeps on disk of a compiled loop, and when it is right."""

import hashlib
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.runtime import rtsys


def fingerprint(folder: Path) -> bytes:
    """Return a hash of the Python files of a folder."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.digest()


class KernelFiles(IndexDataCacheFile):
    """Numba's files of a loop, one for each of the types that it is compiled for, and an index of them.

    Numba counts the files. Two processes that compile a loop for different types at one moment would give
    both the same number, and a later one would run one's code for the other's types. Here a name is that of
    the types, and stands in the index when the file is there.
    """

    def save(self, key: Any, data: Any) -> None:
        name = hashlib.sha256(repr((key, self._source_stamp)).encode()).hexdigest()
        name = self._data_name(int(name[:15], 16))
        self._save_data(name, data)
        overloads = self._load_index()
        overloads[key] = name
        self._save_index(overloads)


class KernelCache(FunctionCache):
    """Where a loop's compiled code is looked for. stamp: of the sources that the code must have been made of.

    Raises RuntimeError where no cache can be written.
    """

    def __init__(self, function: Any, stamp: bytes):
        super().__init__(function)
        self._cache_file = KernelFiles(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the code for these types, None if there is none.

        Numba first reads all that it could compile, which takes half a second of each process. Compiled code
        needs no more of it than the runtime that keeps count of arrays.
        """
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)
