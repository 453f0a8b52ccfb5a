"""Work of a CUDA device captured into a graph, which one call launches again as often as wanted."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import numpy as np

from minidrop.errors import CaptureError

_NO_MEMORY = 2          # cudaErrorMemoryAllocation


class CudaGraphs:
    """`Backend.capture` and `fetch` for CuPy; needs `self.device` and `self._cublas`.

    All graphs of a device share one pool of memory of their own: nobody else is given what a graph writes to,
    and graphs run one after the other, so the arrays that one needs only while it runs may be those of the
    next. What the pool has free is therefore in use for as long as there is a graph.
    """

    captures = True
    _graph_pool = _graph_stream = None

    def capture(self, work: Callable) -> Any:
        if self.held is not None:
            raise CaptureError(f"{self.name}: a capture within a capture")
        cuda = self.xp.cuda
        with self.device:
            if self._graph_pool is None:
                self._graph_pool, self._graphs = cuda.MemoryPool(self._graph_memory), WeakSet()
                self._graph_pool.set_limit(size=0)      # none, not that of CuPy's pool: at a limit pools
                                                        # free, too
                # the default stream cannot be captured
                self._graph_stream = cuda.Stream(non_blocking=True)
            self._cublas()      # a thread that has not multiplied yet could not start it within the capture
            stream, was = self._graph_stream, self.capturing
            self.held, self.capturing = [], True
            try:
                with cuda.using_allocator(self._graph_pool.malloc), stream:
                    stream.begin_capture()
                    try:
                        work()
                    except BaseException:
                        self._abandon(stream)
                        raise
                    graph = stream.end_capture()
            except (CaptureError, KeyboardInterrupt):
                raise
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise CaptureError(f"{self.name}: {type(error).__name__}: {reason}") from error
            finally:
                held, self.held, self.capturing = self.held, None, was
        graph = CudaGraph(graph, held)
        self._graphs.add(graph)
        return graph

    def _abandon(self, stream):
        try:
            stream.end_capture()
        except Exception:       # the capture has failed already: this ends it
            pass

    def _graph_memory(self, size):
        """Return new device memory for the graphs' pool; CaptureError where there is none.

        Where memory runs out CuPy's pools give back what they have free and ask again. Here that is what
        graphs write to, so the pool must not see that error; what is free elsewhere is given back instead.
        """
        cuda = self.xp.cuda
        for again in (True, False):
            try:
                return cuda.MemoryPointer(cuda.Memory(size), 0)
            except cuda.runtime.CUDARuntimeError as error:
                if error.status != _NO_MEMORY:
                    raise
            if again:
                self.xp.get_default_memory_pool().free_all_blocks()
        raise CaptureError(f"{self.name}: no memory is left for {size:,} bytes that a graph needs beside "
                           f"what runs uncaptured")

    def _trim_graphs(self):
        """Give the graphs' memory back, if there is no graph any more."""
        if self._graph_pool is not None and not self._graphs and self.held is None:
            with self.device:
                self._graph_pool.free_all_blocks()

    def fetch(self, x: Any) -> Any:
        cuda = self.xp.cuda
        memory = cuda.alloc_pinned_memory(x.nbytes)
        there = _on_host(memory, x)
        x.get(out=there, blocking=False)
        done = cuda.Event(disable_timing=True)
        done.record()
        return Fetched(there, done)


class CudaGraph:
    """A captured graph. `held`: arrays that lie outside the graphs' pool and that it reads."""

    def __init__(self, graph: Any, held: Any):
        self.graph, self.held = graph, held

    def launch(self) -> None:
        """Give the device the captured work, on the current stream."""
        self.graph.launch()


class Fetched:
    """An array on its way to the host."""

    def __init__(self, array: np.ndarray, done: Any):
        self.array, self.done = array, done

    def get(self) -> Any:
        """Wait for it and return it."""
        self.done.synchronize()
        return self.array


def _on_host(memory, like):
    return np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)
