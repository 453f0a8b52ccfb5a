"""Reuse of large temporaries: a fresh one costs a page fault per 4 KiB, in every iteration."""

import bisect
import math
import os
import sys
import threading
import weakref
from typing import Any

import numpy as np

_SMALLEST = 1 << 15          # below this malloc reuses its own memory well
_LARGE = 1 << 23             # from here on an eighth more than needed is much memory
# A page: if a kernel writes y[i] while it reads x[i + 16], and both have the same offset in their pages, the
# processor assumes that the read depends on the write, and waits (4K aliasing; at some addresses ordinary
# dropout took three times as long).
_ALIGNMENT = 4096


def _references(buffers):
    """Return sys.getrefcount of the first entry of a list, obtained in the same way as in `_free_one`."""
    for buffer in buffers:
        return sys.getrefcount(buffer)


# What sys.getrefcount reports for a buffer that only the pool holds: the list entry, the loop variable and
# the argument, not all of which newer Pythons count.
_ONLY_THE_POOL = _references([np.empty(1, np.uint8)])


class BufferPool:
    """Provides NumPy arrays over buffers that are reused once no view of them is left.

    Every array's `base` is the buffer itself, so CPython's reference count says whether it is free; there is
    no `release` to forget. Sizes are rounded up to one of eight steps per power of two (large ones: of 64):
    shapes that change a little from iteration to iteration share buffers.
    """

    def __init__(self):
        self._buffers = {}       # size -> buffers
        self._sizes = []         # in ascending order
        self._lock = threading.Lock()       # two threads must not find the same buffer free
        if hasattr(os, "register_at_fork"):
            pool = weakref.ref(self)        # another thread of the parent may hold it at that moment
            os.register_at_fork(after_in_child=lambda: pool() is not None and pool()._renew_lock())

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an uninitialised C-contiguous array."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < _SMALLEST:
            return np.empty(shape, dtype)
        step = 1 << (size.bit_length() - (4 if size < _LARGE else 7))
        room = -(-size // step) * step
        with self._lock:
            buffer = self._free_one(room)
            if buffer is None:
                buffer = self._new_one(room)
            return np.ndarray(shape, dtype, buffer)

    def _renew_lock(self):
        self._lock = threading.Lock()

    def _free_one(self, room):
        """Return the smallest free buffer of at least `room` bytes and less than twice that, or None."""
        for size in self._sizes[bisect.bisect_left(self._sizes, room):]:
            if size >= 2 * room:
                break
            for buffer in self._buffers[size]:
                if sys.getrefcount(buffer) == _ONLY_THE_POOL:
                    return buffer
        return None

    def _new_one(self, room):
        raw = np.empty(room + _ALIGNMENT, np.uint8)
        offset = -raw.ctypes.data % _ALIGNMENT
        buffer = np.frombuffer(memoryview(raw)[offset:offset + room], np.uint8)
        if room not in self._buffers:
            bisect.insort(self._sizes, room)
        self._buffers.setdefault(room, []).append(buffer)
        return buffer

    def trim(self) -> None:
        """Drop the unused buffers, so that their memory is freed."""
        with self._lock:
            for size, buffers in self._buffers.items():
                self._buffers[size] = [buffer for buffer in buffers
                                       if sys.getrefcount(buffer) > _ONLY_THE_POOL]

    @property
    def bytes_held(self) -> Any:
        """Total size of all buffers, in use or free."""
        with self._lock:
            return sum(room * len(buffers) for room, buffers in self._buffers.items())
