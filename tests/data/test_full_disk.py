"""Data sets and databases that cannot be written to their end: one error, and nothing left."""

import re
from contextlib import contextmanager

import numpy as np
import pytest

from minidrop.data.database_writer import new_database
from minidrop.data.prepare import write_part
from minidrop.errors import DataError

resource = pytest.importorskip("resource")      # needs POSIX


@contextmanager
def files_of_at_most(size):
    """No file of this process can be longer meanwhile, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [64, 5_000, 50_000])
def test_hdf5(tmp_path, size):
    images = np.random.default_rng(0).random((1000, 1, 8, 8)).astype("f")
    message = f"{tmp_path}/a.h5: cannot be written (File too large); check the free space and the permissions"
    with files_of_at_most(size), pytest.raises(DataError, match=re.escape(message)):
        write_part(tmp_path, "a", images, np.zeros(1000))
    assert list(tmp_path.iterdir()) == []
    write_part(tmp_path, "a", images, np.zeros(1000))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "a.txt"]


@pytest.mark.parametrize("size", [64, 50_000])
@pytest.mark.parametrize("kind, package", [("LMDB", "lmdb"), ("LEVELDB", "plyvel")])
def test_databases(tmp_path, kind, package, size):
    pytest.importorskip(package)
    if (kind, size) == ("LMDB", 64):
        size = 4096                 # of a page
    with files_of_at_most(size), pytest.raises(DataError) as caught:
        with new_database(tmp_path / "db", kind) as put:
            for i in range(100):
                put(b"%03d" % i, bytes(9000))
    assert str(caught.value).startswith(f"{tmp_path}/db: cannot be written (")
    assert str(caught.value).endswith("); check the space on the disk")
    assert ".part" not in str(caught.value) and "b'" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
