"""Reuse of big temporaries: a fresh one costs a page fault for every 4 KiB, in every iteration."""

import math
import sys

import numpy as np

_SMALLEST = 1 << 15          # below this malloc reuses its own memory well
_ALIGNMENT = 64
# What sys.getrefcount reports for a buffer that only the pool holds: its place in the list, the loop's name, the argument.
_ONLY_THE_POOL = 3


class BufferPool:
    """Hands out NumPy arrays over buffers that it takes back when nobody holds a view of them any more.

    Every array's `base` is the buffer itself, so CPython's reference count says whether it is free; there is no `release`
    to forget. Sizes are rounded up to one of eight steps per power of two: shapes that change a little from iteration to
    iteration share buffers.
    """

    def __init__(self):
        self._buffers = {}

    def empty(self, shape, dtype):
        """Return an uninitialised C-contiguous array."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < _SMALLEST:
            return np.empty(shape, dtype)
        step = 1 << (size.bit_length() - 4)
        room = -(-size // step) * step
        buffers = self._buffers.setdefault(room, [])
        for buffer in buffers:
            if sys.getrefcount(buffer) == _ONLY_THE_POOL:
                break
        else:
            raw = np.empty(room + _ALIGNMENT, np.uint8)
            offset = -raw.ctypes.data % _ALIGNMENT
            buffer = np.frombuffer(memoryview(raw)[offset:offset + room], np.uint8)
            buffers.append(buffer)
        return np.ndarray(shape, dtype, buffer)

    @property
    def bytes_held(self):
        """Total size of all buffers, in use or free."""
        return sum(room * len(buffers) for room, buffers in self._buffers.items())
