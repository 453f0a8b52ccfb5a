"""How CuPy is asked for a graph, with a CuPy that only pretends: stream, memory, errors. Real ones: test_on_the_gpu.py."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from minidrop.backend.cupy_graphs import CudaGraphs
from minidrop.errors import CaptureError


class RuntimeFailure(RuntimeError):
    pass


class Pretender:
    """What `CudaGraphs` uses of cupy.cuda; `room`: bytes of the device, `log`: what happened."""

    def __init__(self, room=1000):
        cuda = self
        self.room, self.log, self.pool = room, [], None
        self.runtime = SimpleNamespace(CUDARuntimeError=RuntimeFailure)

        class Stream:
            def __init__(self, non_blocking=False):
                assert non_blocking

            def __enter__(self):
                cuda.log.append("stream")

            def __exit__(self, *_):
                cuda.log.append("default stream")

            def begin_capture(self):
                cuda.log.append("begin")

            def end_capture(self):
                cuda.log.append("end")
                return SimpleNamespace(launch=lambda: cuda.log.append("launch"))

        class MemoryPool:
            """As CuPy's: where there is no memory it gives back what is free, and asks once more."""

            def __init__(self, allocator):
                self.allocator, cuda.pool = allocator, self

            def malloc(self, size):
                try:
                    return self.allocator(size)
                except RuntimeFailure:
                    self.free_all_blocks()
                    return self.allocator(size)

            def free_all_blocks(self):
                cuda.log.append("free")

        self.Stream, self.MemoryPool = Stream, MemoryPool

    def Memory(self, size):
        if size > self.room:
            raise RuntimeFailure("cudaErrorMemoryAllocation")
        return size

    def MemoryPointer(self, memory, offset):
        return memory, offset

    @contextmanager
    def using_allocator(self, allocator):
        self.malloc = allocator
        yield
        self.malloc = None


class Device(CudaGraphs):
    name, held, device = "cuda:0", None, nullcontext()

    def __init__(self):
        self.xp = SimpleNamespace(cuda=Pretender())


@pytest.fixture
def device():
    return Device()


def test_work_is_captured_on_a_stream_and_in_memory_of_its_own(device):
    cuda, found = device.xp.cuda, []
    graph = device.capture(lambda: (device.held.append("a table"), found.append(cuda.malloc(10))))
    graph.launch()
    assert cuda.log == ["stream", "begin", "end", "default stream", "launch"]
    assert found == [(10, 0)] and graph.held == ["a table"] and device.held is None
    pool = cuda.pool
    device.capture(lambda: None)
    assert cuda.pool is pool


@pytest.mark.parametrize("error, kind, message", [
    (CaptureError("one reason"), CaptureError, "^one reason$"),
    (ValueError("two\nlines"), CaptureError, "^cuda:0: ValueError: two$"),
    (KeyboardInterrupt(), KeyboardInterrupt, None)])
def test_a_capture_is_ended_whatever_happens(device, error, kind, message):
    def work():
        raise error
    with pytest.raises(kind, match=message):
        device.capture(work)
    assert device.xp.cuda.log == ["stream", "begin", "end", "default stream"] and device.held is None
    device.capture(lambda: None)


def test_there_is_one_capture_at_a_time(device):
    with pytest.raises(CaptureError, match="^cuda:0: a capture within a capture$"):
        device.capture(lambda: device.capture(lambda: None))


def test_where_memory_runs_out_that_of_older_graphs_is_left_alone(device):
    cuda = device.xp.cuda
    older = device.capture(lambda: cuda.malloc(10))
    with pytest.raises(CaptureError, match=r"^cuda:0: no memory is left for a graph, 2,000 bytes asked for \(cudaErrorMemory"):
        device.capture(lambda: cuda.malloc(2000))
    older.launch()
    assert "free" not in cuda.log


def test_memory_is_given_back_after_the_last_graph(device):
    device.trim_graphs()        # nothing was captured
    graphs = [device.capture(lambda: None) for _ in range(2)]
    while graphs:
        device.trim_graphs()
        assert "free" not in device.xp.cuda.log
        graphs.pop()
    device.trim_graphs()
    assert device.xp.cuda.log[-1] == "free"
