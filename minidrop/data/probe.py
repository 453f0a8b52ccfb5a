"""Trying HDF5 files and databases in a separate process: damaged ones can crash a library, and its caller.

`probe` runs this file as a program, with limits on memory and time. It opens each file as a run would and
reads what the library has to unpack, for up to READ_SECONDS per file; a crash there is a DataError here. It
is started by its path, not by multiprocessing, so that it works from any script, and imports nothing from
minidrop, so that it starts fast.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

SECONDS = 5             # of CPU time that one file may take
READ_SECONDS = 2        # of CPU time per file, after which only the first slice of each dataset is read
ALL_SECONDS = 20        # the same for all files together
MEMORY = 2 << 30        # for the HDF5 library: chunks of 256 MiB, unpacked in several steps
READ_BYTES = 16 << 20   # of one read
PROGRAM = __file__
CHILD_IMPORTS = {"hdf5": "h5py", "lmdb": "lmdb", "leveldb": "plyvel"}
WORDS = {"hdf5": ("HDF5 file", "HDF5"), "lmdb": ("LMDB", "LMDB"), "leveldb": ("LevelDB", "LevelDB")}
PAUSE_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE")      # ended by somebody, not by the file
_PROF = getattr(signal, "SIGPROF", 0)
_passed: set[tuple] = set()


def probe(paths: Iterable[Path], names: Iterable[str] | None = None, kind: str = "hdf5",
          at: Path | None = None) -> None:
    """Raise DataError if reading a file crashes or hangs.

    kind: "hdf5", of whose files the datasets `names` are read (None: all of them); "lmdb", the file data.mdb;
    "leveldb", a folder. at: where the one path is opened instead. Each is tried once per process, and again
    when it changes. None is tried with MINIDROP_TRUST_DATA=1, or if no process can be started.
    """
    from minidrop.data.limits import how_to_raise, raised
    from minidrop.errors import DataError

    names = None if names is None else tuple(names)
    files = {_key(path, names): str(path) for path in paths}
    untried = {key: path for key, path in files.items() if key not in _passed}
    trusting = os.environ.get("MINIDROP_TRUST_DATA", "0") not in ("", "0")
    if not untried or trusting or not sys.executable or getattr(sys, "frozen", False):
        return
    memory = raised(MEMORY)
    request = json.dumps({"search": sys.path, "files": [str(at)] if at else list(untried.values()),
                          "names": names, "memory": memory, "seconds": SECONDS, "kind": kind})
    try:
        # In its own session: Ctrl-C is meant for the run, which may handle it and go on.
        child = subprocess.Popen([sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, start_new_session=True,
                                 env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    except OSError:
        return
    with child:
        try:
            importlib.import_module(CHILD_IMPORTS[kind])    # needed next anyway; while the child does it, too
            output, _ = child.communicate(request.encode())
        except BaseException:
            child.kill()
            raise
    *_, last = output.decode(errors="replace").split("\n")[:-1] or [""]
    number, _, reason = last.partition(" ")
    # Only the HDF5 library unpacks, for which the memory may have been too little.
    tried = f"a process that tries it, with {memory >> 20} MiB of memory"
    advice = f"make it again, or, {how_to_raise()}"
    if kind != "hdf5":
        tried, advice = "a process that tries it", "make it again"
    if number.isdigit() and _crashed(child.returncode):
        slow = child.returncode == -_PROF
        reason = f"more than {SECONDS} s of work" if slow else f"a crash of the {WORDS[kind][1]} library"
        advice = "make it again"
    if reason:
        path = list(untried.values())[int(number)]
        raise DataError(f"{path}: expected a readable {WORDS[kind][0]}, got {reason} (in {tried}); the "
                        f"file is damaged: {advice}")
    if child.returncode == 0:
        _passed.update(untried)


def _key(path, names):
    try:
        status = os.stat(path)
    except OSError:             # opening the file will report this
        return str(path), names
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns, names


def _crashed(code):
    paused = {-getattr(signal, name) for name in PAUSE_SIGNALS if hasattr(signal, name)}
    return code < 0 and code not in paused or code >= 2**31       # Windows has large numbers, no signals


# -- the other process ---------------------------------------------------------------------------------------
class _Unreadable(Exception):
    """Data is damaged, or cannot be read within the memory limit: a small chunk that unpacks to gigabytes."""


def _main():
    request = json.load(sys.stdin)
    sys.path[:] = request["search"]
    try_it = TRIES[request["kind"]]
    importlib.import_module(CHILD_IMPORTS[request["kind"]])
    # LMDB maps a file into memory as a whole, which costs none.
    mapped = sum(map(os.path.getsize, request["files"])) if request["kind"] == "lmdb" else 0
    _limit_memory(request["memory"] + mapped)
    for number, path in enumerate(request["files"]):
        print(number, flush=True)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        try:
            end = min(time.process_time() + READ_SECONDS, ALL_SECONDS)
            try_it(path, request["names"], end)
        except _Unreadable as error:
            print(number, error, flush=True)
            return
        except Exception:       # it cannot even be opened: the run will report why
            continue
    print("done", flush=True)


def _try_hdf5(path, names, end):
    import h5py

    with h5py.File(path, "r") as h5:
        if names is None:
            _read_all(h5, set(), end)
        else:
            for name in names:
                _read(_find(h5, name), end)


def _try_lmdb(path, _names, end):
    """Read all keys, and the last byte of each value."""
    import lmdb

    with lmdb.open(os.path.dirname(path), readonly=True, lock=False, create=False) as environment:
        # The library takes both numbers from the file and believes them.
        pages, size = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
        if pages * size > os.path.getsize(path):
            raise _Unreadable(f"{os.path.getsize(path)} bytes instead of the {pages * size} of its pages")
        with environment.begin(buffers=True) as transaction:
            _walk(transaction.cursor(), environment.stat()["entries"], end)


def _try_leveldb(path, _names, end):
    import plyvel

    with plyvel.DB(path, create_if_missing=False, paranoid_checks=True) as database:
        _walk(database.iterator(verify_checksums=True), None, end)


def _walk(records, count, end):
    """Go through (key, value) pairs: keys rise, which also shows that pages lead in no circle."""
    before, found = b"", 0
    for key, value in records:
        key = bytes(key)
        if found and key <= before:
            raise _Unreadable("keys out of order")
        before, found = key, found + 1
        len(value) and value[-1]
        if not found % 256 and time.process_time() > end:
            return
    if count is not None and found != count:
        raise _Unreadable(f"{found} records instead of the {count} it says it has")


TRIES = {"hdf5": _try_hdf5, "lmdb": _try_lmdb, "leveldb": _try_leveldb}


def _find(h5, name):
    """Return the object called `name` if it is in the file itself, else None."""
    import h5py

    found = h5
    for part in filter(None, name.split("/")):
        if not isinstance(found, h5py.Group) or not isinstance(found.get(part, getlink=True), h5py.HardLink):
            return None
        found = found[part]
    return found


def _read_all(group, seen, end):
    """Read the attributes of a group and everything below it, but follow only hard links, and no cycles."""
    import h5py

    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        return
    seen.add(address)
    list(group.attrs.values())
    if isinstance(group, h5py.Group):
        for name in group:
            item = _find(group, name)
            if item is not None:
                _read_all(item, seen, end)
    else:
        _read(group, end)


def _read(dataset, end):
    """Read a dataset as a run would: the index of its chunks, and packed data in slices of whole chunks."""
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external or not dataset.shape:
        return
    if dataset.chunks:
        dataset.id.get_num_chunks()
        getattr(dataset.id, "chunk_iter", lambda look: None)(lambda chunk: None)     # HDF5 from 1.12.3 on
    rows = dataset.chunks[0] if dataset.chunks else 1
    row_bytes = max(1, dataset.nbytes // dataset.shape[0])
    packed = dataset.id.get_create_plist().get_nfilters()
    step = max(1, READ_BYTES // row_bytes // rows) * rows if packed else 1
    for start in range(0, dataset.shape[0], step) if packed else (0, dataset.shape[0] - 1):
        try:
            dataset[start:start + step]
        except Exception as error:
            raise _Unreadable(" ".join(str(error).split()) or "too little memory") from error
        if time.process_time() > end:
            break


def _limit_memory(size):
    try:
        import resource
    except ImportError:         # not a POSIX system: the run is protected from crashes only
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + size, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (OSError, ValueError):
        pass


if __name__ == "__main__":
    _main()
