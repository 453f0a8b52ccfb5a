"""Uploading batches to a device from page-locked memory, on a separate stream while the device computes."""

import logging
from collections import deque
from functools import cached_property
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

RING = 8                # an upload's result is valid until this many later uploads of the same owner
_WORTH_PINNING = 4096   # bytes; copying less is as fast as allocating page-locked memory in another thread

_log = logging.getLogger(__name__)


class Uploads:
    """Copies host arrays to one device on a second stream.

    cupy: the module; device: its cupy.cuda.Device. Two streams take part, the one that is current in `upload`
    (the compute stream) and the copy stream, and neither the host nor the copies wait longer than necessary:

    - The compute stream waits for the copy, on the device.
    - A copy overwrites the batch that was returned RING + 1 uploads before. It waits for everything queued
      before the *last* upload began, so reads of a batch that were queued before RING more uploads began are
      done; and it may run while the device computes on the last batch.
    - The host waits only if it is RING + 1 uploads ahead of the copies.

    Work that reads a batch must be queued on the stream of its upload, or that stream must wait for it.
    """

    def __init__(self, cupy: Any, device: Any):
        self._cupy, self._device = cupy, device
        self._rings: WeakKeyDictionary[object, dict[int, _Ring]] = WeakKeyDictionary()   # by owner and stream
        self._flying: deque[tuple] = deque()    # (event, host arrays) of copies that may be pending, in order
        self._lock = Lock()
        self._warned = False

    @cached_property
    def _copies(self):
        # Non-blocking: otherwise it and the default stream, which computes, would wait for each other.
        return self._cupy.cuda.Stream(non_blocking=True)

    # -- host ------------------------------------------------------------------------------------------------
    def pinned(self, x: Any, least: Any = _WORTH_PINNING) -> np.ndarray:
        """Return a copy of a host array in page-locked memory, in C order and native byte order.

        An array that is already such a copy, has fewer than `least` bytes, or finds no page-locked memory is
        returned unchanged. Thread-safe. The copy must not be changed after it has been passed to `upload`.
        """
        if x.nbytes < least or self._is_pinned(x):
            return x
        cuda, dtype = self._cupy.cuda, x.dtype.newbyteorder("=")
        try:
            with self._device:
                memory = cuda.alloc_pinned_memory(x.nbytes)
        except (cuda.runtime.CUDARuntimeError, MemoryError) as error:
            if not self._warned:
                _log.warning("no page-locked memory for %d bytes (%s): the host waits for its copies",
                             x.nbytes, error)
            self._warned = True
            return x
        out = np.ndarray(x.shape, dtype, memory)
        out[...] = x
        return out

    def _is_pinned(self, x):
        base = x
        while isinstance(base, np.ndarray):
            base = base.base
        return (isinstance(base, self._cupy.cuda.PinnedMemoryPointer)
                and x.flags.c_contiguous and x.dtype.isnative)

    # -- device ----------------------------------------------------------------------------------------------
    def upload(self, owner: Any, arrays: Any, empty: Any) -> Any:
        """Return host arrays as device arrays that are valid until RING more uploads of `owner` have begun.

        `owner` is any weakly referenceable, hashable object; its buffers live as long as it, or as the arrays
        returned. `empty(shape, dtype)` allocates on the device.
        """
        if not arrays:
            return []
        with self._lock, self._device:
            stream = self._cupy.cuda.get_current_stream()
            rings = self._rings.setdefault(owner, {})
            if stream.ptr not in rings:
                rings[stream.ptr] = _Ring(self._cupy, stream)
            return self._upload(rings[stream.ptr], [np.asarray(x) for x in arrays], empty)

    def _upload(self, ring, arrays, empty):
        slot = ring.next()
        self._forget()
        # Small ones too: from pageable memory, the driver would block until the copy may run.
        hosts = [self.pinned(x, least=1) for x in arrays]
        # Everything that may fail comes first: no event is recorded for an upload that does not happen.
        fresh = slot.reserve(hosts, empty)

        copies = self._copies
        if not fresh:
            copies.wait_event(ring.begun)       # as it was recorded when the last upload began
        ring.begun.record(ring.stream)
        if fresh:
            # The pool may have returned memory that queued work has yet to read.
            copies.wait_event(ring.begun)
        for array, host in zip(slot.arrays, hosts, strict=True):
            if host.nbytes:
                array.set(host, stream=copies)
        slot.copied.record(copies)
        ring.stream.wait_event(slot.copied)
        ring.count += 1

        self._flying.append((slot.copied, hosts))
        if not all(self._is_pinned(host) for host in hosts if host.nbytes):
            slot.copied.synchronize()           # the caller may change a pageable array after the call
        return list(slot.arrays)

    def trim(self) -> None:
        """Return unused page-locked memory to the system."""
        with self._lock:
            self._forget()
        self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    def _forget(self):
        """Release the host arrays whose copies are done."""
        # They are held here, not in the ring: its owner may be freed while a copy is pending.
        while self._flying and self._flying[0][0].done:
            self._flying.popleft()


class _Ring:
    """The buffers of one owner for one stream: RING + 1, so that copies need not wait for the last batch."""

    def __init__(self, cupy, stream):
        # held, so that no other stream can get its address
        self.stream = stream
        self.begun = cupy.cuda.Event(disable_timing=True)       # recorded on `stream` as each upload begins
        self.slots = [_Slot(cupy) for _ in range(RING + 1)]
        self.count = 0

    def next(self):
        """Return the slot of the next upload, waiting for its last copy if that is still pending."""
        slot = self.slots[self.count % len(self.slots)]
        if self.count >= len(self.slots):
            slot.copied.synchronize()
        return slot


class _Slot:
    """Device arrays of one upload; their memory grows as needed and is freed only with the slot."""

    def __init__(self, cupy):
        self._cupy = cupy
        # block: a waiting host does not spin
        self.copied = cupy.cuda.Event(block=True, disable_timing=True)
        self.memory = []        # one array for each array of the upload, at least as large
        self.arrays = []

    def reserve(self, hosts, empty):
        """Set `arrays` to device arrays shaped like `hosts`; return whether any memory was allocated."""
        memory, arrays, fresh = [], [], False
        for i, host in enumerate(hosts):
            dtype = host.dtype.newbyteorder("=")
            old = self.arrays[i] if i < len(self.arrays) else None
            if old is not None and old.shape == host.shape and old.dtype == dtype:
                room, array = self.memory[i], old
            elif old is not None and host.nbytes <= self.memory[i].nbytes:
                room = self.memory[i]
                array = self._cupy.ndarray(host.shape, dtype, room.data)
            else:
                room = array = empty(host.shape, dtype)
                fresh = True
            memory.append(room)
            arrays.append(array)
        self.memory, self.arrays = memory, arrays
        return fresh
