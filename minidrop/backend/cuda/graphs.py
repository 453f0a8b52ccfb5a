"""Capturing the work of a CUDA device into a graph, which a single call replays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any
from weakref import WeakSet

import numpy as np

from minidrop.errors import CaptureError, ParallelError

_NO_MEMORY = 2          # cudaErrorMemoryAllocation


class Graphs:
    """The graphs of one device. held: while one is captured, the cached arrays that it reads; else None.

    All graphs share a memory pool of their own, so no other code gets the memory that a graph writes to.
    Graphs run one after another, so they may share temporaries. Free memory of the pool is therefore still in
    use as long as there is a graph.
    """

    def __init__(self, name: str, cupy: Any, device: Any):
        self.name, self._cupy, self._device = name, cupy, device
        self.held: list | None = None
        self._all: WeakSet = WeakSet()

    @cached_property
    def _pool(self):
        pool = self._cupy.cuda.MemoryPool(self._memory)
        pool.set_limit(size=0)          # none, unlike CuPy's pool: at a limit pools free memory, too
        return pool

    @cached_property
    def _stream(self):
        return self._cupy.cuda.Stream(non_blocking=True)        # the default stream cannot be captured

    def capture(self, work: Callable, start: Callable) -> CudaGraph:
        """Return the CudaGraph of the device work of work(); start() is called just before the capture.

        Raises CaptureError, also for other errors during the capture; the device is then as before.
        """
        if self.held is not None:
            raise CaptureError(f"{self.name}: a capture within a capture")
        cuda = self._cupy.cuda
        with self._device:
            pool, stream = self._pool, self._stream
            start()
            self.held = []
            try:
                with cuda.using_allocator(pool.malloc), stream:
                    graph = CudaGraph(self._captured(work), self.held)
            except (CaptureError, ParallelError, KeyboardInterrupt):
                raise
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise CaptureError(f"{self.name}: {type(error).__name__}: {reason}") from error
            finally:
                self.held = None
        self._all.add(graph)
        return graph

    def _captured(self, work):
        self._stream.begin_capture()
        try:
            work()
        except BaseException:
            with suppress(Exception):       # the capture has already failed: this ends it
                self._stream.end_capture()
            raise
        return self._stream.end_capture()

    def _memory(self, size):
        """Return new device memory for the pool. Raises CaptureError if there is none.

        When memory runs out, CuPy's pools release their free memory and retry. Here graphs write to that
        memory, so the pool must not see the error; free memory of the default pool is released instead.
        """
        cuda = self._cupy.cuda
        for again in (True, False):
            try:
                return cuda.MemoryPointer(cuda.Memory(size), 0)
            except cuda.runtime.CUDARuntimeError as error:
                if error.status != _NO_MEMORY:
                    raise
            if again:
                self._cupy.get_default_memory_pool().free_all_blocks()
        raise CaptureError(f"{self.name}: no memory is left for {size:,} bytes that a graph needs beside "
                           f"what runs uncaptured")

    def trim(self) -> None:
        """Release the graphs' memory if no graph is left."""
        if "_pool" in vars(self) and not self._all and self.held is None:
            with self._device:
                self._pool.free_all_blocks()


class CudaGraph:
    """A captured graph. `held`: arrays outside the graphs' pool that it reads."""

    def __init__(self, graph: Any, held: Any):
        self.graph, self.held = graph, held

    def launch(self) -> None:
        """Queue the captured work on the current stream."""
        self.graph.launch()


def fetch(cupy: Any, x: Any) -> Fetched:
    """Start copying an array to the host, asynchronously on the current stream."""
    memory = cupy.cuda.alloc_pinned_memory(x.nbytes)
    there = np.frombuffer(memory, x.dtype, x.size).reshape(x.shape)
    x.get(out=there, blocking=False)
    done = cupy.cuda.Event(disable_timing=True)
    done.record()
    return Fetched(there, done)


class Fetched:
    """An array on its way to the host."""

    def __init__(self, array: np.ndarray, done: Any):
        self.array, self.done = array, done

    def get(self) -> Any:
        """Wait for the copy and return it."""
        self.done.synchronize()
        return self.array

