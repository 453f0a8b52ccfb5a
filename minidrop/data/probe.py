"""Trying HDF5 files in a process of its own: damaged ones can crash the HDF5 library, and whoever called it.

`probe` starts this file as a program, with limits on memory and time. It opens each file as a run would and
reads what the library has to unpack, for up to READ_SECONDS a file; a crash there is a DataError here. It is
a program by its path, not by multiprocessing, so that it works from any script; it needs nothing of minidrop,
so that it starts fast.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

SECONDS = 10            # of processor time that one file may take
READ_SECONDS = 2        # after which no more of it is read
MEMORY = 2 << 30        # that the HDF5 library may ask for: chunks of 256 MiB, unpacked in several steps
READ_BYTES = 16 << 20   # at a time
PROGRAM = __file__
PAUSE_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE")      # somebody ended it, not the file
_PROF = getattr(signal, "SIGPROF", 0)
_passed: set[tuple] = set()


def probe(paths: Iterable[Path], names: Iterable[str]) -> None:
    """Raise DataError where reading the datasets `names` of one of the files crashes or never ends.

    Each file is tried once in a process, until it changes. MINIDROP_TRUST_DATA=1 tries none; nor is any tried
    where no other process can be started.
    """
    from minidrop.data.limits import how_to_raise, raised
    from minidrop.errors import DataError

    names = tuple(names)
    files = {_key(path, names): str(path) for path in paths}
    untried = {key: path for key, path in files.items() if key not in _passed}
    trusting = os.environ.get("MINIDROP_TRUST_DATA", "0") not in ("", "0")
    if not untried or trusting or not sys.executable or getattr(sys, "frozen", False):
        return
    memory = raised(MEMORY)
    request = json.dumps({"search": sys.path, "files": list(untried.values()), "names": names,
                          "memory": memory, "seconds": SECONDS})
    try:
        # A session of its own: Ctrl-C is for the run, which may have a handler and go on.
        child = subprocess.Popen([sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, start_new_session=True,
                                 env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    except OSError:
        return
    with child:
        try:
            import h5py  # noqa: F401  needed next, and loads while the other process does the same
            output, _ = child.communicate(request.encode())
        except BaseException:
            child.kill()
            raise
    *_, last = output.decode(errors="replace").split("\n")[:-1] or [""]
    number, _, reason = last.partition(" ")
    advice = f"make it again, or, {how_to_raise()}"
    if number.isdigit() and _crashed(child.returncode):
        slow = child.returncode == -_PROF
        reason = f"more than {SECONDS} s of work" if slow else "a crash of the HDF5 library"
        advice = "make it again"
    if reason:
        path = list(untried.values())[int(number)]
        raise DataError(f"{path}: expected a readable HDF5 file, got {reason} (in a process that tries it, "
                        f"with {memory >> 20} MiB of memory); the file is damaged: {advice}")
    if child.returncode == 0:
        _passed.update(untried)


def _key(path, names):
    try:
        status = os.stat(path)
    except OSError:             # opening it will say so
        return str(path), names
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns, names


def _crashed(code):
    paused = {-getattr(signal, name) for name in PAUSE_SIGNALS if hasattr(signal, name)}
    return code < 0 and code not in paused or code >= 2**31       # Windows has large numbers, no signals


# -- the other process ---------------------------------------------------------------------------------------
class _Unreadable(Exception):
    """Data cannot be read within the limit of memory: damaged, or a small chunk that unfolds to gigabytes."""


def _main():
    request = json.load(sys.stdin)
    sys.path[:] = request["search"]
    import h5py

    _limit_memory(request["memory"])
    for number, path in enumerate(request["files"]):
        print(number, flush=True)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        try:
            with h5py.File(path, "r") as h5:
                for name in request["names"]:
                    _read(h5, name)
        except _Unreadable as error:
            print(number, error, flush=True)
            return
        except Exception:       # it cannot even be opened: the run will say why
            continue
    print("done", flush=True)


def _read(h5, name):
    """Read a dataset as a run would, in slices of whole chunks; nothing that lies outside the file."""
    import h5py

    group = h5
    for part in filter(None, name.split("/")):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(part, getlink=True), h5py.HardLink):
            return
        group = group[part]
    if not isinstance(group, h5py.Dataset) or group.is_virtual or group.external or not group.shape:
        return
    rows = group.chunks[0] if group.chunks else 1
    row_bytes = max(1, group.nbytes // group.shape[0])
    step = max(1, READ_BYTES // row_bytes // rows) * rows
    filtered = group.id.get_create_plist().get_nfilters()
    begin = time.process_time()
    starts = range(0, group.shape[0], step) if filtered else (0, group.shape[0] - 1)
    for start in starts:
        try:
            group[start:start + step if filtered else start + 1]
        except Exception as error:
            raise _Unreadable(" ".join(str(error).split()) or "too little memory") from error
        if time.process_time() - begin > READ_SECONDS:
            break


def _limit_memory(size):
    try:
        import resource
    except ImportError:         # not a POSIX system: there the run is kept from crashes alone
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
