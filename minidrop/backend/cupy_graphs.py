"""Work of a CUDA device captured into a graph, which one call launches again as often as wanted."""

from weakref import WeakSet

from minidrop.errors import CaptureError


class CudaGraphs:
    """`Backend.capture` and `fetch` for CuPy; needs `self.device`.

    All graphs of a device share one pool of memory of their own: nobody else is given what a graph writes to, and graphs
    run one after the other, so the arrays that one needs only while it runs may be those of the next. The pool's memory is
    given back, by `trim_graphs`, once no graph is left.
    """

    captures = True
    _graph_pool = _graph_stream = None

    def capture(self, work):
        if self.held is not None:
            raise CaptureError(f"{self.name}: a capture within a capture")
        cuda = self.xp.cuda
        with self.device:
            if self._graph_pool is None:
                self._graph_pool = cuda.MemoryPool(self._graph_memory)
                self._graph_stream = cuda.Stream(non_blocking=True)     # the default stream cannot be captured
                self._graphs = WeakSet()
            stream, self.held = self._graph_stream, []
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
                held, self.held = self.held, None
        graph = CudaGraph(graph, held)
        self._graphs.add(graph)
        return graph

    def trim_graphs(self):
        """Give the memory of graphs back if there are none any more."""
        if self._graph_pool is not None and not self._graphs:
            self._graph_pool.free_all_blocks()

    def _graph_memory(self, size):
        """Return device memory for the graphs' pool. CaptureError where there is none: CuPy's own error would make the pool
        give back what is free in it, and older graphs write there whenever they are launched."""
        cuda = self.xp.cuda
        try:
            return cuda.MemoryPointer(cuda.Memory(size), 0)
        except cuda.runtime.CUDARuntimeError as error:
            raise CaptureError(f"{self.name}: no memory is left for a graph, {size:,} bytes asked for ({error})") from error

    def _abandon(self, stream):
        try:
            stream.end_capture()
        except Exception:       # the capture has failed already: this ends it
            pass

    def fetch(self, x):
        cuda = self.xp.cuda
        memory = cuda.alloc_pinned_memory(x.nbytes)
        there = _on_host(memory, x)
        x.get(out=there, blocking=False)
        done = cuda.Event(disable_timing=True)
        done.record()
        return Fetched(there, done)


class CudaGraph:
    """A captured graph. `held`: arrays that lie outside the graphs' pool and that it reads."""

    def __init__(self, graph, held):
        self.graph, self.held = graph, held

    def launch(self):
        """Give the device the captured work, on the current stream."""
        self.graph.launch()


class Fetched:
    """An array on its way to the host."""

    def __init__(self, array, done):
        self.array, self.done = array, done

    def get(self):
        """Wait for it and return it."""
        self.done.synchronize()
        return self.array


def _on_host(memory, like):
    import numpy as np
    return np.frombuffer(memory, like.dtype, like.size).reshape(like.shape)
