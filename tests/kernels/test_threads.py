"""Threads of kernels: either order of imports, and children of a fork."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from minidrop.kernels import threads

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2 if hasattr(os, "sched_getaffinity") else True,
                               reason="needs two cores, and a system that says how many")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def run(code):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("OPENBLAS", "OMP_NUM", "MINIDROP_THREADS"))}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True,
                          timeout=120, check=True)


@two_cores
@pytest.mark.parametrize("before", ["", "import numpy as np; np.ones((500, 500)) @ np.ones((500, 500))"])
def test_kernels_use_every_core_whatever_was_imported_first(before):
    done = run(f"{before}\nimport os, minidrop\nfrom minidrop.kernels import threads\n"
               "print(threads.COUNT == len(os.sched_getaffinity(0)),"
               " threads.CUTS or os.environ['OPENBLAS_THREAD_TIMEOUT'])")
    assert done.stdout.split() in (["True", "19"], ["True", "True"][:2 * bool(before)]) and not done.stderr


@two_cores
@pytest.mark.skipif(threads._blas() is None, reason="this NumPy's BLAS tells no number of threads")
def test_products_are_cut_where_blas_hides_what_would_shorten_its_spin():
    """As NumPy 2.5's wheels do; BLAS then has one thread for our products, and for others all that it had."""
    done = run("""
import ctypes, os, numpy as np
class Hidden:               # an OpenBLAS whose number of threads is all that can be set
    def __init__(self, path): self._all = real(path)
    def __getattr__(self, name):
        if not name.endswith(("num_threads64_", "num_threads")): raise AttributeError(name)
        return getattr(self._all, name)
real, ctypes.CDLL = ctypes.CDLL, Hidden
from minidrop.kernels import products, threads
from minidrop.backend.numpy.backend import NumpyBackend
ctypes.CDLL, seen, dot = real, [], np.matmul
get, _ = threads._blas()
before = get()
def matmul(a, b, out): seen.append((threads.is_worker(), get())); return dot(a, b, out=out)
np.matmul = matmul
a, b = np.random.rand(128, 900), np.random.rand(900, 1000)
y = NumpyBackend().gemm(a, b)
print(threads.CUTS, threads.COUNT == len(os.sched_getaffinity(0)), len(seen) == threads.COUNT, set(seen),
      before == get() > 1, bool(abs(y - a @ b).max() < 1e-9), "OPENBLAS_THREAD_TIMEOUT" in os.environ)
""")
    assert done.stdout == "True True True {(True, 1)} True True False\n" and not done.stderr


@two_cores
def test_a_blas_that_cannot_be_told_is_said_once():
    done = run("""
import logging; logging.basicConfig(format="%(levelname)s %(message)s")
import ctypes, numpy as np
class Other:                # a BLAS without OpenBLAS's functions
    def __init__(self, *args): pass
ctypes.CDLL, was = Other, ctypes.CDLL
from minidrop.kernels import threads
ctypes.CDLL = was
from minidrop.backend.numpy.backend import NumpyBackend
NumpyBackend(), NumpyBackend()
print(threads.COUNT)""")
    assert done.stdout == "1\n" and done.stderr.startswith("WARNING NumPy was imported before minidrop")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("chosen, count", [("abc", 0), ("0", 0), ("-1", 0), ("1.5", 0), ("1000000", 0),
                                           ("\u00b2", 0), ("", 0), ("3", 3), ("1024", 1024)])
def test_what_is_no_number_of_threads_is_said_once(chosen, count, monkeypatch, caplog):
    monkeypatch.setattr(threads, "_chosen", chosen)
    monkeypatch.setattr(threads, "_is_short", True)
    monkeypatch.setattr(threads, "_noticed", False)
    assert threads._thread_count() == (count or threads._cores())
    for _ in range(2):
        threads.notice()
    assert [record.getMessage() for record in caplog.records] == (
        [] if count or not chosen else [f"MINIDROP_THREADS: expected a number of threads, 1 to 1024, got "
                                        f"{chosen!r}; minidrop's kernels use {threads.COUNT}"])


@forks
def test_a_forked_child_has_kernels_of_its_own():
    done = run("""
import os, signal
os.environ["MINIDROP_THREADS"] = "3"
import numpy as np
from minidrop.kernels import threads
def fill(out, first, last):
    out[first:last] = np.arange(first, last)
def total():
    out = np.zeros(1000)
    threads.by_rows(fill, 1000, 1 << 30, out)
    return int(out.sum())
print(total(), len(threads._workers), flush=True)
child = os.fork()
if not child:
    signal.alarm(20)
    print(total(), len(threads._workers), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], total())""")
    assert done.stdout.split() == ["499500", "2", "499500", "2", "0", "499500"]


def test_work_goes_on_after_the_system_had_no_thread_left():
    """Tasks are not left to a thread that never began."""
    done = run("""
import os, signal, threading
os.environ["MINIDROP_THREADS"] = "2"
import numpy as np
from minidrop.kernels import threads
def fill(out, first, last):
    out[first:last] = 1
def refuse(self):
    raise RuntimeError("can't start new thread")
out, start, threading.Thread.start = np.zeros(1000), threading.Thread.start, refuse
try:
    threads.by_rows(fill, 1000, 1 << 30, out)
except RuntimeError as error:
    print(error)
threading.Thread.start = start
getattr(signal, "alarm", int)(20)
threads.by_rows(fill, 1000, 1 << 30, out)
print(int(out.sum()))""")
    assert done.stdout.splitlines() == ["can't start new thread", "1000"]


class TestPartsThatMultiply:
    def test_blas_has_one_thread_meanwhile_and_its_own_afterwards(self, monkeypatch):
        blas = threads._blas()
        if blas is None:
            pytest.skip("this NumPy's BLAS tells no number of threads")
        get, put = blas
        before = get()
        put(2)
        monkeypatch.setattr(threads, "COUNT", 2)
        seen, bounds = [], []

        def work(first, last):
            seen.append(get())
            bounds.append((first, last))
            if len(seen) == 1:
                threads.by_parts(lambda *_: seen.append(get()), 2, 1 << 30)     # within another

        threads.by_parts(work, 4, 1 << 30)
        assert sorted(bounds) == [(0, 2), (2, 4)] and set(seen) == {1} and get() == 2
        with pytest.raises(ZeroDivisionError):
            threads.by_parts(lambda first, last: 1 / first, 4, 1 << 30)
        assert get() == 2
        threads.by_parts(lambda *own: seen.append(get()), 4, 10)        # too little work: nothing is changed
        assert seen[-1] == 2
        alone = []      # the fifth part has nothing beside it: BLAS has its threads
        threads.by_parts(lambda *own: alone.append((*own, get())), 5, 1 << 30)
        assert sorted(alone) == [(0, 2, 1), (2, 4, 1), (4, 5, 2)]
        put(before)


@pytest.mark.parametrize("put", [1, 2])
def test_blas_has_its_threads_again_behind_the_product_after_an_interrupted_one(put, monkeypatch):
    """Ctrl-C may come while the context is entered, or before it is left."""
    numbers = [3]

    def interrupted(number):
        numbers.append(number)
        if len(numbers) == put + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(threads, "_blas", lambda: (lambda: numbers[-1], interrupted))
    context = threads._BlasOnOneThread()
    with pytest.raises(KeyboardInterrupt), context:
        pass
    for _ in range(2):
        context.__enter__()         # and is thrown out before __exit__
        with context:
            assert numbers[-1] == 1
        assert numbers[-1] == 3
    context.__enter__()
    context.forget()
    assert numbers[-1] == 3


def test_numbers_that_no_loop_is_compiled_for():
    import numpy as np

    from minidrop import Kept, Tensor, TensorError, functions
    from minidrop.backend import get_backend
    kept, x = Kept(0, 2, 1, 10), np.ones((4, 10), np.float16)
    backend = get_backend("cpu")
    for compute in (lambda: functions.take(Tensor(x), kept), lambda: backend.take(x, kept, 1)):
        with pytest.raises(TensorError, match=r"^the CPU computes with float32 and float64, got an array of "
                                              r"float16; convert it first, as in x.astype\('float32'\)$"):
            compute()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals to a thread")
def test_ctrl_c_while_others_compute_their_parts_waits_for_them(monkeypatch):
    """Whoever catches it finds arrays that nobody writes to any more."""
    monkeypatch.setattr(threads, "COUNT", 2)
    written = []

    def part(first, last):
        if first:
            time.sleep(0.05)        # the other part is done, and waits
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.05)
            written.append(last)

    with pytest.raises(KeyboardInterrupt):
        threads.by_rows(part, 2, 1 << 30)
    assert written == [2]
