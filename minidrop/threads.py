"""Let our own kernels use the second core without fighting BLAS's thread pool.

OpenBLAS's workers spin for tens of milliseconds after every product before they sleep; a kernel thread of ours that starts
meanwhile shares its core with a spinning one and the step takes *longer*. OPENBLAS_THREAD_TIMEOUT (a power of two, in
clock ticks) shortens the spin, but OpenBLAS reads it once, when NumPy is loaded. So: if minidrop is imported before NumPy
it sets a short spin and its kernels run on every core; if NumPy came first they stay on one thread.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

_SPIN_TICKS_LOG2 = "17"   # 2**17 ticks, some 40 us: longer than the gap between two products, shorter than a kernel

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
_executor = None
_MIN_ROWS_A_THREAD = 64


def by_rows(kernel, rows, *args):
    """Call kernel(*args, first_row, last_row) over 0..rows, split between the kernel threads.

    The split never changes a result: every row is computed by one call, in the same order of operations.
    """
    parts = min(COUNT, rows // _MIN_ROWS_A_THREAD)
    if parts < 2:
        kernel(*args, 0, rows)
        return
    global _executor
    if _executor is None:
        _executor = ThreadPoolExecutor(COUNT - 1, "minidrop-kernel")
    bounds = [rows * part // parts for part in range(parts + 1)]
    waiting = [_executor.submit(kernel, *args, *bounds[part:part + 2]) for part in range(1, parts)]
    kernel(*args, *bounds[:2])
    for done in waiting:
        done.result()
