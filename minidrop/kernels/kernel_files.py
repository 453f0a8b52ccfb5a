"""What Numba keeps on disk of a compiled loop, and when it is right."""

import hashlib
from pathlib import Path
from typing import Any

from numba.core.caching import IndexDataCacheFile


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
