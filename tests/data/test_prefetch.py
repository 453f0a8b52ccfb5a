import gc
import os
import subprocess
import sys
import threading
import time
import traceback

import pytest

from minidrop.data import Prefetcher


def wait_until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "did not happen within 5 seconds"
        time.sleep(0.002)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "minidrop-prefetch"]


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_results_come_in_order_and_seek_moves_on(depth):
    with Prefetcher(lambda n: n * n, depth, start=2) as prefetcher:
        assert [prefetcher.get() for _ in range(5)] == [4, 9, 16, 25, 36]
        assert prefetcher.position == 7
        prefetcher.seek(100)
        assert [prefetcher.get() for _ in range(3)] == [10000, 10201, 10404]
        prefetcher.seek(0)
        assert prefetcher.get() == 0


def test_reads_ahead_by_depth_and_no_further():
    fetched = []
    with Prefetcher(lambda n: fetched.append(n) or n, 3) as prefetcher:
        assert fetched == []
        prefetcher.get()
        wait_until(lambda: len(fetched) == 4)
        time.sleep(0.05)
        assert fetched == [0, 1, 2, 3]


def test_fetch_runs_in_another_thread_or_here_for_depth_0():
    with Prefetcher(lambda n: threading.current_thread().name, 1) as prefetcher:
        assert prefetcher.get() == "minidrop-prefetch"
    with Prefetcher(lambda n: threading.current_thread().name, 0) as prefetcher:
        assert prefetcher.get() == threading.current_thread().name


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_comes_after_the_good_results_with_its_traceback_and_may_be_tried_again(depth):
    broken = True

    def fetch_or_fail(n):
        if n == 2 and broken:
            raise OSError("no record 2")
        return n

    with Prefetcher(fetch_or_fail, depth) as prefetcher:
        assert [prefetcher.get(), prefetcher.get()] == [0, 1]
        for _ in range(2):
            with pytest.raises(OSError, match="no record 2") as caught:
                prefetcher.get()
        assert "fetch_or_fail" in "".join(traceback.format_tb(caught.value.__traceback__))
        assert prefetcher.position == 2
        broken = False
        assert prefetcher.get() == 2


def test_seek_during_a_fetch_throws_its_result_away():
    entered, leave = threading.Event(), threading.Event()

    def fetch(n):
        if n == 1:
            entered.set()
            leave.wait(5)
        return n

    with Prefetcher(fetch, 2) as prefetcher:
        assert prefetcher.get() == 0
        assert entered.wait(5)
        prefetcher.seek(50)
        leave.set()
        assert [prefetcher.get(), prefetcher.get()] == [50, 51]


def test_close_and_collection_end_the_thread():
    before = len(threads())
    closed, dropped = Prefetcher(lambda n: n, 2), Prefetcher(lambda n: n, 2)
    closed.get(), dropped.get()
    assert len(threads()) == before + 2
    closed.close()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        closed.get()
    del dropped
    gc.collect()
    wait_until(lambda: len(threads()) == before)


def test_close_wakes_a_waiting_get():
    leave = threading.Event()
    prefetcher, caught = Prefetcher(lambda n: leave.wait(5), 1), []

    def wait():
        try:
            prefetcher.get()
        except ValueError as error:
            caught.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    wait_until(threads)
    closer = threading.Thread(target=prefetcher.close)
    closer.start()
    waiter.join(5)
    leave.set()
    closer.join(5)
    assert "closed" in str(caught[0])


def test_a_program_that_never_closes_still_ends():
    code = ("import time; from minidrop.data import Prefetcher\n"
            "p = Prefetcher(lambda n: time.sleep(.01) or n, 2); print(p.get())")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (0, "0\n", "")


def test_a_negative_depth_is_refused():
    with pytest.raises(ValueError, match="depth >= 0"):
        Prefetcher(lambda n: n, -1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_reads_on_by_itself():
    """The fork waits for the thread, which may be inside the HDF5 library; the child has no such thread."""
    code = """
import os, signal, threading, time
from minidrop.data.prefetch import Prefetcher
inside = threading.Event()
def fetch(n):
    if n == 3:
        inside.set()
        time.sleep(0.1)
        inside.clear()
    return n
reader = Prefetcher(fetch, 2)
print([reader.get() for _ in range(2)], flush=True)
inside.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    print(inside.is_set(), [reader.get() for _ in range(4)], flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], [reader.get() for _ in range(4)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          check=True)
    assert done.stdout.splitlines() == ["[0, 1]", "False [2, 3, 4, 5]", "0 [2, 3, 4, 5]"]
