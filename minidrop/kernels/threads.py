"""Let our own kernels use several cores without competing with BLAS's thread pool.

OpenBLAS's workers spin for tens of milliseconds after every product before they sleep; a kernel thread of
ours that starts meanwhile shares its core with a spinning worker, and the step takes *longer*.
OPENBLAS_THREAD_TIMEOUT (a power of two, in clock ticks) shortens the spin. OpenBLAS reads it once, when
NumPy is loaded. So minidrop sets it when it is imported; if NumPy came first, it has OpenBLAS read it again
and restart its workers. Where it cannot (the wheels of NumPy 2.5 hide the functions), our products leave
BLAS one thread and are cut for ours (products.py); and where not even that can be set, our kernels stay on
one thread, and `notice` says so.
"""

import atexit
import ctypes
import itertools
import logging
import os
import queue
import sys
import threading
import time
from array import array
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from minidrop.errors import TensorError

log = logging.getLogger(__name__)

_VARIABLE = "OPENBLAS_THREAD_TIMEOUT"
MOST = 1024         # threads that anybody can want: each has a stack
_SPIN_TICKS_LOG2 = "19"   # about 0.2 ms: longer than most gaps between products, shorter than a large kernel


def _spin_is_short():
    """Shorten the spin; return whether OpenBLAS uses the new timeout."""
    if _VARIABLE in os.environ:         # chosen by the user, or by a program that starts us
        return True
    os.environ[_VARIABLE] = _SPIN_TICKS_LOG2
    if "numpy" not in sys.modules or _read_again(Path(sys.modules["numpy"].__file__ or "")):
        return True
    del os.environ[_VARIABLE]
    return False


def _openblas(numpy_file):
    """Return the paths of the OpenBLAS of NumPy's wheel."""
    folders = (numpy_file.parent.with_name("numpy.libs"), numpy_file.parent / ".dylibs")
    return [path for folder in folders for path in folder.glob("*openblas*")]


def _read_again(numpy_file):
    """Make the OpenBLAS of NumPy's wheel read its environment again; return whether it took the timeout."""
    for path in _openblas(numpy_file):
        try:
            blas = ctypes.CDLL(str(path))
            blas.openblas_read_env()
            if blas.openblas_thread_timeout() != int(_SPIN_TICKS_LOG2):
                return False
            blas.blas_thread_shutdown_()
            blas.blas_thread_init()
            return True
        except (OSError, AttributeError):       # another build, without these functions
            pass
    return False


def _cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_count(text):
    return text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) and 1 <= int(text) <= MOST


def _thread_count():
    if _is_count(_chosen):
        return int(_chosen)
    return _cores() if _is_short or _is_alone else 1


@cache
def _blas():
    """Return what tells and sets the number of threads of NumPy's OpenBLAS; None where it has neither."""
    for path in _openblas(Path(sys.modules["numpy"].__file__ or "")):
        for name in ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_",
                     "openblas_{}_num_threads"):
            try:
                library = ctypes.CDLL(str(path))
                get, put = (getattr(library, name.format(verb)) for verb in ("get", "set"))
            except (OSError, AttributeError):
                continue
            get.argtypes, get.restype, put.argtypes, put.restype = (), ctypes.c_int, (ctypes.c_int,), None
            return get, put
    return None


_chosen = os.environ.get("MINIDROP_THREADS", "").strip()
_is_short = _spin_is_short()
_is_alone = not _is_short and _blas() is not None
COUNT = _thread_count()
CUTS = _is_alone and COUNT > 1 and _blas()[0]() > 1     # BLAS may have one thread anyway
# Below this a second thread that has to be woken costs more than it saves (scripts/benchmarks/bench_mlp.py,
# 1024 and 2048), and below the other number one that waits for work.
_LEAST_ELEMENTS, _LEAST_SHARED = 3 << 19, 1 << 18
TERMS = 4           # products of two numbers, in BLAS, take about as long as one streamed element
_tasks: queue.SimpleQueue[tuple] = queue.SimpleQueue()  # (kernel, arguments, where to put None or the error)
_workers: list[threading.Thread] = []
_relay: Any = None      # the workers that wait for work in compiled code, see relay.py; None: they sleep
# Changes with every call of `by_rows`: a thread that waits for other work in compiled code leaves then.
interrupts = array("q", [0])
_calls = itertools.count(1)
_starting = threading.RLock()   # held by who starts workers
_here = threading.local()     # is_worker: whether this thread is one of them
_noticed = False


def cuts() -> bool:
    """Whether a product is to be cut for our threads, and BLAS to have one: not in a part of other work."""
    return CUTS and not is_worker()


def notice() -> None:
    """Warn, once, if kernels have to stay on one of several cores, or MINIDROP_THREADS is no number."""
    global _noticed
    if _chosen and not _is_count(_chosen) and not _noticed:
        log.warning("MINIDROP_THREADS: expected a number of threads, 1 to %d, got %r; minidrop's kernels use "
                    "%d", MOST, _chosen[:40], COUNT)
    if COUNT == 1 < _cores() and not (_is_short or _is_alone or _noticed):
        log.warning("NumPy was imported before minidrop, and its BLAS cannot be told to share the cores: "
                    "minidrop's own kernels use one; import minidrop first, or set %s=%s", _VARIABLE,
                    _SPIN_TICKS_LOG2)
    _noticed = True


def _forget_workers():
    """A forked child has none of its parent's threads."""
    global _tasks, _relay, _starting
    _tasks, _relay, _starting = queue.SimpleQueue(), None, threading.RLock()
    _workers.clear()
    blas_on_one_thread.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


def by_rows(kernel: Callable, rows: int, elements: int, *args: Any) -> None:
    """Call kernel(*args, first_row, last_row) over 0..rows, split between the kernel threads if it pays.

    elements: the amount of work, in streamed array elements. The split never changes a result: every row is
    computed by one call, in the same order of operations. Raises TensorError for arrays of numbers that no
    loop is compiled for, such as float16.
    """
    try:
        _by_rows(kernel, rows, elements, args)
    except Exception as error:
        if isinstance(error, NotImplementedError) or type(error).__module__.startswith("numba."):
            for dtype in {one.dtype for one in args if hasattr(one, "dtype")}:
                if dtype.kind not in "biuf" or dtype.name == "float16":
                    raise TensorError(f"the CPU computes with float32 and float64, got an array of {dtype}; "
                                      f"convert it first, as in x.astype('float32')") from None
        raise


def parts_of(elements: int) -> int:
    """Return into how many parts work of so many streamed elements is cut at most."""
    return COUNT if elements >= _LEAST_SHARED else 1


def _by_rows(kernel, rows, elements, args):
    parts = min(parts_of(elements), rows)
    # Within a part of other work nobody may be left to take a task: the one who waits for it is waited for.
    if parts < 2 or is_worker():
        kernel(*args, 0, rows)
        return
    bounds = [rows * part // parts for part in range(parts + 1)]
    try:
        _here.is_worker = True      # as those of the other parts
        if _relay is not None and _relay.share(kernel, bounds, args):
            return
        if elements < _LEAST_ELEMENTS:
            kernel(*args, 0, rows)
            return
        _wake(kernel, bounds, args)
    finally:
        _here.is_worker = False


def _wake(kernel, bounds, args):
    """Have threads that may sleep compute all but the first part of a call."""
    _start_workers()
    done, parts = _Answers(), len(bounds) - 1
    for part in range(1, parts):
        _put((kernel, (*args, *bounds[part:part + 2]), done))
    interrupts[0] = next(_calls)        # after the tasks: who is asked to wait from now on comes behind them
    try:
        kernel(*args, *bounds[:2])
    finally:
        done.wait(parts - 1)        # no thread may write to `args` after this call
    for error in done.errors:
        if error is not None:
            raise error


def _put(task):
    _tasks.put(task)
    if _relay is not None:
        _relay.news()


class _Answers:
    """The errors, or None, of the threads of one call. Who is interrupted while he waits waits on."""

    def __init__(self):
        self.errors, self._news = [], queue.SimpleQueue()

    def put(self, error):
        self.errors.append(error)
        self._news.put(None)

    def wait(self, count):
        interrupt = None
        while len(self.errors) < count:
            try:
                self._news.get()
            except BaseException as error:      # Ctrl-C
                interrupt = error
        if interrupt is not None:
            raise interrupt


def ask(kernel: Callable, *args: Any) -> None:
    """Have a thread call kernel(*args) when it is free; nobody waits for it, and it must not fail."""
    _start_workers()
    _put((kernel, args, _Answers()))


def is_worker() -> bool:
    """Whether the thread that asks is one of those that compute a part of other work."""
    return getattr(_here, "is_worker", False)


def _start_workers():
    global _relay
    with _starting:
        if _relay is None:
            from minidrop.kernels import relay
            _relay = relay.Relay(COUNT) if relay.IS_KNOWN else None
        while len(_workers) < COUNT - 1:
            worker = threading.Thread(target=_work, args=(_tasks, _relay), name="minidrop-kernel",
                                      daemon=True)
            worker.start()              # RuntimeError where the system has no more threads
            _workers.append(worker)     # not before: tasks would wait for a thread that there is not


def by_parts(work: Callable, parts: int, elements: int) -> None:
    """Call work(first, last) over 0..parts as `by_rows` does, where the work itself multiplies matrices.

    A product of a part's own has BLAS on one thread: as many parts at once keep the cores busier than one
    product on all of them. Where BLAS cannot be told, or there are too few parts, it keeps its threads, as
    it does for the last parts if they are not enough for all of ours.
    """
    if COUNT < 2 or parts < 2 or 2 * parts < COUNT or elements < _LEAST_ELEMENTS or (
            is_worker() or _blas() is None):
        work(0, parts)
        return
    even = parts if parts < COUNT else parts - parts % COUNT
    with blas_on_one_thread:
        by_rows(work, even, elements)
    if even < parts:
        work(even, parts)


class _BlasOnOneThread:
    """A context in which BLAS has one thread; of several threads in it the last to leave restores it.

    No thread enters it within itself. An interrupt may throw a thread out between any two lines: its next
    way through the context then restores BLAS.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.inside: set[int] = set()       # threads
        self.threads: int | None = None     # of BLAS outside; None while nobody is inside

    def __enter__(self):
        get, put = _blas()
        with self.lock:
            if self.threads is None:
                self.threads = get()
            self.inside.add(threading.get_ident())
            put(1)

    def __exit__(self, *error):
        with self.lock:
            self.inside.discard(threading.get_ident())
            if not self.inside:
                self._restore()

    def _restore(self):
        _blas()[1](self.threads)
        self.threads = None

    def forget(self):
        """In a forked child: the threads that were in it are the parent's."""
        self.lock, self.inside = threading.Lock(), set()
        if self.threads is not None:
            self._restore()


blas_on_one_thread = _BlasOnOneThread()


@atexit.register
def _rest():
    """Have the threads that wait in compiled code leave it: Python cannot end them there."""
    if _relay is not None:
        _relay.news()
        time.sleep(1e-3)


def _work(tasks, relay):
    _here.is_worker = True
    me = relay.join() if relay is not None else None
    while True:
        if me is not None and relay.attend(me, tasks):
            continue
        kernel, args, done = tasks.get()
        try:
            kernel(*args)
        except BaseException as error:      # passed to the caller
            done.put(error)
        else:
            done.put(None)
        del kernel, args, done              # otherwise the last arrays would live until the next task
