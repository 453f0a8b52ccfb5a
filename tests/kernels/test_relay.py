"""Threads that wait for parts of a call in compiled code: who computes what, errors, and what is left."""

import gc
import os
import queue
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from minidrop.kernels import cpu, cpu_update, relay
from minidrop.kernels import threads as kernel_threads

pytestmark = pytest.mark.skipif(not relay.IS_KNOWN, reason="needs AVX2 with FMA, or AVX-512, and POSIX")


@pytest.fixture
def crew():
    """A Relay of three threads, two of which attend."""
    own, tasks, goes_on = relay.Relay(3), queue.SimpleQueue(), True

    def work(me):
        while goes_on:
            own.attend(me, tasks)

    workers = [threading.Thread(target=work, args=[me], name=f"part {me}") for me in (1, 2)]
    for worker in workers:
        worker.start()
    yield own
    goes_on = False
    for worker in workers:
        worker.join()


def shared(crew, kernel, bounds, *args):
    """Share a call as soon as all threads wait: each leaves for a moment after a while."""
    end = time.monotonic() + 60
    while not crew.share(kernel, bounds, args):
        assert time.monotonic() < end, "the threads never waited"
        time.sleep(1e-4)


def test_each_thread_computes_a_part(crew):
    seen = {}

    def note(out, first, last):
        seen[first, last] = threading.current_thread().name
        out[first:last] += np.arange(first, last)

    out = np.zeros(10)
    for _ in range(50):
        shared(crew, note, [0, 3, 7, 10], out)
    np.testing.assert_array_equal(out, 50 * np.arange(10))
    assert seen == {(0, 3): threading.current_thread().name, (3, 7): "part 1", (7, 10): "part 2"}
    shared(crew, note, [0, 4, 10], out)         # fewer parts than threads
    assert seen[4, 10] == "part 1" and out[9] == 51 * 9


def test_compiled_kernels(crew):
    """Those with tuples and numbers among their arguments, too."""
    x = np.random.default_rng(0).standard_normal(999).astype("f")
    for _ in range(20):
        y = np.full_like(x, np.nan)
        shared(crew, cpu.relu, [0, 333, 666, 999], x, y)
        np.testing.assert_array_equal(y, np.maximum(x, 0))
    W, out = x.reshape(27, 37), np.full((27, 5), np.nan, "f")
    shared(crew, cpu.take_runs, [0, 9, 9, 27], W, None, np.array([1, 30]), np.array([3, 33]), out)
    np.testing.assert_array_equal(out, W[:, [1, 2, 30, 31, 32]])


def test_errors_are_those_of_the_call_and_threads_go_on(crew):
    for wrong in (0, 1, 2):
        def fail(first, last, wrong=wrong):
            if first == wrong:
                raise ZeroDivisionError(f"part {first}")
        with pytest.raises(ZeroDivisionError, match=f"part {wrong}"):
            shared(crew, fail, [0, 1, 2, 3])
    done = []
    shared(crew, lambda first, last: done.append(first), [0, 1, 2, 3])
    assert sorted(done) == [0, 1, 2]


def test_a_part_whose_thread_went_to_sleep_is_left_to_the_caller(crew, monkeypatch):
    monkeypatch.setattr(relay, "call", lambda words, parts: None)
    names = []
    shared(crew, lambda first, last: names.append(threading.current_thread().name), [0, 1, 2, 3])
    assert names == [threading.current_thread().name] * 3


def test_nothing_is_done_unless_all_wait():
    alone, done = relay.Relay(2), []
    assert not alone.share(lambda first, last: done.append(first), [0, 1, 2], ())
    assert not alone.share(lambda first, last: done.append(first), [0, 1, 2, 3], ()) and not done


def test_a_call_within_a_call_is_refused(crew):
    inner = []
    shared(crew, lambda first, last: inner.append(crew.share(print, [0, 1, 2], ())), [0, 1, 2, 3])
    assert inner == [False] * 3


def test_a_caller_that_was_interrupted_before_it_began_calls_again(crew):
    crew._lock.acquire()        # as Ctrl-C leaves it that arrives just then
    done = []
    shared(crew, lambda first, last: done.append(first), [0, 1, 2, 3])
    assert sorted(done) == [0, 1, 2]


def test_threads_leave_for_other_tasks():
    own, tasks, left = relay.Relay(2), queue.SimpleQueue(), []
    thread = threading.Thread(target=lambda: left.append(own.attend(1, tasks)))
    thread.start()
    own.news()
    thread.join(60)
    assert left == [False]
    tasks.put("one")
    assert own.attend(1, tasks) is False


def test_no_array_is_held_afterwards(crew):
    class Array(np.ndarray):
        pass

    out = np.zeros(8).view(Array)
    gone = weakref.ref(out)
    shared(crew, lambda out, first, last: None, [0, 3, 6, 8], out)
    del out
    end = time.monotonic() + 60
    while gone() is not None and time.monotonic() < end:
        gc.collect()
    assert gone() is None


def test_what_calls_a_kernel_is_compiled_once(tmp_path):
    """A second process finds it on disk, in the place of the kernel's file."""
    code = ("import numpy as np; from minidrop.kernels import cpu, relay; x = np.ones(4, 'f'); y = x * 0; "
            "c = relay.calling(cpu.relu); c(np.zeros(8, np.int64), 1, x, y, 0, 4); assert (y == x).all(); "
            "assert relay.calling(cpu.relu) is c; print(sum(c.stats.cache_hits.values()))")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for hits in ("0", "1"):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True,
                              timeout=120, check=True)
        assert done.stdout.strip() == hits and not done.stderr


def test_what_calls_a_kernel_that_is_not_cached_is_not_either():
    """Formulas of the same code may depend on other numbers, here or in the next process."""
    def called(number):
        kernel = cpu_update.update_kernel(lambda w, g, h: (w - number * g, h), 1)
        W, gs = np.zeros((2, 3), "f"), (np.ones((2, 3), "f"),)
        relay.calling(kernel)(np.zeros(relay.LINE, np.int64), 1, W, W.copy(), W, gs, (np.arange(2),),
                              (np.arange(3),), (), np.float32(0), False, np.float32(1), 0, 2)
        return W

    for number in (1, 2):
        np.testing.assert_array_equal(called(number), np.full((2, 3), -number))


def test_threads_that_begin_at_once_share_one_crew(monkeypatch):
    """Of two threads of one number, each would take the other's calls for its own."""
    begun, together = [], threading.Barrier(8)

    def begin():
        together.wait(60)
        kernel_threads._start_workers()

    for name, value in {"COUNT": 4, "_workers": [], "_relay": None,
                        "_work": lambda tasks, own: begun.append((own, own.join()))}.items():
        monkeypatch.setattr(kernel_threads, name, value)
    callers = [threading.Thread(target=begin) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for worker in kernel_threads._workers:
        worker.join()
    assert sorted(number for _, number in begun) == [1, 2, 3]
    assert {own for own, _ in begun} == {kernel_threads._relay}
    assert kernel_threads._relay.join() is None


def test_calls_of_every_length_give_what_one_thread_gives():
    """With pauses in between, so that threads fall asleep now and then; from two threads at once."""
    code = """
import threading, time
import numpy as np
from minidrop.kernels import cpu, threads
shared = 0
def train(seed):
    global shared
    rng = np.random.default_rng(seed)
    for i in range(1500):
        n = int(rng.integers(1, 60_000))
        x, y = rng.standard_normal(n, np.float32), np.empty(n, np.float32)
        threads.by_rows(cpu.relu, n, int(rng.choice([1 << 16, 1 << 18, 1 << 22])), x, y)
        assert (y == np.maximum(x, 0)).all()
        total = np.zeros(3)
        def add(first, last):
            total[first:last] += n
        threads.by_rows(add, 3, 1 << 22)
        assert (total == n).all()
        if i % 100 == 0:
            time.sleep(3e-3)
share = None
train(0)
relay = threads._relay
share = relay.share
def counted(*args):
    global shared
    done = share(*args)
    shared += done
    return done
relay.share = counted
both = [threading.Thread(target=train, args=[seed]) for seed in (1, 2)]
for one in both: one.start()
for one in both: one.join()
print(shared > 100)"""
    environment = {**os.environ, "MINIDROP_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True,
                          timeout=240, check=True)
    assert done.stdout.strip() == "True" and not done.stderr
