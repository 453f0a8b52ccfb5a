"""What compilers make of a kernel is kept between runs, and made by one process for all: most of a run would
go there.

In $MINIDROP_TEST_CACHE, else minidrop-tests in the user's cache folder. A file's name is a hash of everything
that its content depends on, so nothing ever has to be thrown away by hand; what no run has used for a month
goes by itself.
"""

import hashlib
import os
import time
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:         # not a POSIX system: two processes may then make the same file, each of them
                            # whole
    fcntl = None

KEPT_SECONDS = 30 * 24 * 3600


def folder():
    """Return the folder of what was made, which is there."""
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(os.environ.get("MINIDROP_TEST_CACHE") or f"{users}/minidrop-tests").expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def built(parts, suffix, make):
    """Return the path of a file that depends on the texts `parts` alone; make(path) is called where it is not
    there yet."""
    key = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:40]
    path = folder() / f"{key}{suffix}"
    if not path.is_file():
        with _lock(path.with_suffix(".lock")):
            if not path.is_file():
                _forget_old_ones(path.parent)
                unfinished = path.with_name(f"{key}-{os.getpid()}{suffix}")
                make(unfinished)
                os.replace(unfinished, path)        # what others find is whole
    os.utime(path)
    return path


@contextmanager
def _lock(path):
    with open(path, "w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)        # ends with the process, however that ends
        yield


def _forget_old_ones(place):
    oldest = time.time() - KEPT_SECONDS
    for path in place.iterdir():
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:       # another worker was faster
            pass
