"""Reuse of large temporaries: a fresh one costs a page fault per 4 KiB, in every iteration."""

import bisect
import ctypes
import math
import os
import threading
import weakref
from collections import deque

import numpy as np

_SMALLEST = 1 << 15          # below this malloc reuses its own memory well
_LARGE = 1 << 23             # from here on an eighth more than needed is much memory
# A page: if a kernel writes y[i] while it reads x[i + 16], and both have the same offset in their pages, the
# processor assumes that the read depends on the write, and waits (4K aliasing; at some addresses ordinary
# dropout took three times as long).
_ALIGNMENT = 4096


class BufferPool:
    """Provides NumPy arrays over buffers that are reused once no view of them is left.

    A view keeps the array that it was made of alive, as the buffers are no arrays, and the weak reference to
    that array is noted when it goes: there is no `release` to forget, and nobody has to look which buffers
    are free. The one freed last is the next to be used: it may still be in the cache. Sizes are rounded up to
    one of eight steps per power of two (large ones: of 64): shapes that change a little from iteration to
    iteration share buffers. A large one that none is large enough for takes the place of a smaller free one:
    batches of many lengths would leave buffers of all of them.
    """

    def __init__(self):
        self._free: dict[int, list] = {}        # size -> buffers
        self._sizes: list[int] = []             # in ascending order
        self._lent: dict[int, tuple] = {}       # id of a weak reference -> (it, the buffer of its array)
        # The weak references of arrays that are gone. What is called when they go runs no line of Python: a
        # Ctrl-C there would be printed, and ignored.
        self._gone: deque = deque()
        self._lock = threading.Lock()           # two threads must not make room for a size at once
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
        self._take_back()
        buffer = self._free_one(room)
        if buffer is None:
            buffer = self._new_one(room)
        array: np.ndarray = np.ndarray(shape, dtype, buffer)
        reference = weakref.ref(array, self._gone.append)
        self._lent[id(reference)] = reference, buffer
        return array

    def _take_back(self):
        """Put the buffers of arrays that are gone among the free ones. Several threads may do so at once."""
        while self._gone:
            try:
                gone = self._gone.popleft()
            except IndexError:      # another thread has
                return
            _, buffer = self._lent.pop(id(gone), (None, None))
            if buffer is not None:      # no Ctrl-C has come before it was lent
                self._free[len(buffer)].append(buffer)

    def _renew_lock(self):
        self._lock = threading.Lock()

    def _free_one(self, room):
        """Return the smallest free buffer of at least `room` bytes and less than twice that, or None."""
        sizes = self._sizes
        for i in range(bisect.bisect_left(sizes, room), len(sizes)):
            if sizes[i] >= 2 * room:
                break
            try:
                return self._free[sizes[i]].pop()
            except IndexError:
                pass
        return None

    def _new_one(self, room):
        if room >= _LARGE:
            self._let_one_go(room)
        raw = np.empty(room + _ALIGNMENT, np.uint8)
        with self._lock:
            if room not in self._free:
                self._free[room] = []
                self._sizes = sorted(self._free)
        return (ctypes.c_uint8 * room).from_buffer(memoryview(raw), -raw.ctypes.data % _ALIGNMENT)

    def _let_one_go(self, room):
        """Drop the largest of the free buffers that are smaller."""
        sizes = self._sizes
        for i in range(bisect.bisect_left(sizes, room) - 1, -1, -1):
            try:
                self._free[sizes[i]].pop(0)
                return
            except IndexError:
                pass

    def trim(self) -> None:
        """Drop the unused buffers, so that their memory is freed."""
        self._take_back()
        for free in list(self._free.values()):
            free.clear()

    @property
    def bytes_held(self) -> int:
        """Total size of all buffers, in use or free."""
        self._take_back()
        return (sum(size * len(free) for size, free in list(self._free.items()))
                + sum(len(buffer) for _, buffer in list(self._lent.values())))
