"""Let our own kernels use the second core without fighting BLAS's thread pool.

OpenBLAS's workers spin for tens of milliseconds after every product before they sleep; a kernel thread of
ours that starts meanwhile shares its core with a spinning one and the step takes *longer*.
OPENBLAS_THREAD_TIMEOUT (a power of two, in clock ticks) shortens the spin, but OpenBLAS reads it once, when
NumPy is loaded. So: if minidrop is imported before NumPy it sets a short spin and its kernels run on every
core; if NumPy came first they stay on one thread.
"""

import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

_SPIN_TICKS_LOG2 = "19"   # 2**19 ticks, some 0.2 ms: longer than most gaps between products, shorter than a
                          # large kernel

if "numpy" not in sys.modules:
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _SPIN_TICKS_LOG2)


def _cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _thread_count():
    chosen = os.environ.get("MINIDROP_THREADS", "")
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    return _cores() if os.environ.get("OPENBLAS_THREAD_TIMEOUT") else 1


COUNT = _thread_count()
# Below this a second thread costs more than it saves (scripts/benchmarks/bench_mlp.py, 1024 and 2048).
_LEAST_ELEMENTS = 3 << 19
_tasks = queue.SimpleQueue()   # (kernel, arguments, where to put None or the exception)
_workers = []


def by_rows(kernel: Callable, rows: int, elements: int, *args: Any) -> None:
    """Call kernel(*args, first_row, last_row) over 0..rows, split between the kernel threads where `elements`
    are many.

    The split never changes a result: every row is computed by one call, in the same order of operations.
    """
    parts = min(COUNT, rows) if elements >= _LEAST_ELEMENTS else 1
    if parts < 2:
        kernel(*args, 0, rows)
        return
    while len(_workers) < COUNT - 1:
        _workers.append(threading.Thread(target=_work, name="minidrop-kernel", daemon=True))
        _workers[-1].start()
    bounds = [rows * part // parts for part in range(parts + 1)]
    done = queue.SimpleQueue()
    for part in range(1, parts):
        _tasks.put((kernel, (*args, *bounds[part:part + 2]), done))
    try:
        kernel(*args, *bounds[:2])
    finally:
        errors = [done.get() for _ in range(1, parts)]      # nobody may still write to `args` after this call
    for error in errors:
        if error is not None:
            raise error


def _work():
    while True:
        kernel, args, done = _tasks.get()
        try:
            kernel(*args)
        except BaseException as error:      # handed to the caller
            done.put(error)
        else:
            done.put(None)
        del kernel, args, done              # or the last arrays would live until the next task
