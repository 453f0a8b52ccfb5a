"""Captures of the CUDA backend against a module that says, in order, what CuPy was asked for."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from minidrop.backend.cuda.backend import CupyBackend
from minidrop.backend.cuda.graphs import Graphs
from minidrop.errors import CaptureError


class CUDARuntimeError(RuntimeError):
    def __init__(self, status):
        super().__init__(f"error {status}\nmore lines")
        self.status = status


class FakeCupy:
    """`log` is what was done; `fails`: a call that fails, and how; `room`: bytes that the device has left."""

    def __init__(self):
        self.log, self.fails, self.room = [], {}, 1000
        self.cuda = SimpleNamespace(
            MemoryPool=self.pool, Stream=self.stream, using_allocator=self.using_allocator,
            Memory=self.memory, MemoryPointer=lambda memory, offset: memory,
            runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError))

    def do(self, what):
        self.log.append(what)
        if what in self.fails:
            raise self.fails[what]

    def pool(self, allocate):
        return SimpleNamespace(malloc=allocate, free_all_blocks=lambda: self.do("graphs' pool freed"),
                               set_limit=lambda size: self.do("no limit") if size == 0
                               else self.do("a limit"))

    def get_default_memory_pool(self):
        def free():
            self.do("default pool freed")
            self.room += 500
        return SimpleNamespace(free_all_blocks=free)

    def memory(self, size):
        if size > self.room:
            raise CUDARuntimeError(2)
        self.room -= size
        return size

    @contextmanager
    def using_allocator(self, allocate):
        self.allocate = allocate
        yield
        self.allocate = None

    def stream(self, non_blocking):
        assert non_blocking
        cupy = self

        class Stream:
            def __enter__(self):
                cupy.do("enter")

            def __exit__(self, *exc_info):
                cupy.do("exit")

            def begin_capture(self):
                cupy.do("begin")

            def end_capture(self):
                cupy.do("end")
                return SimpleNamespace(launch=lambda: cupy.do("launch"))
        return Stream()


class Device:
    """Graphs on a FakeCupy, and what starts cuBLAS."""

    def __init__(self):
        self.xp = FakeCupy()
        self.graphs = Graphs("cuda:0", self.xp, nullcontext())

    def start(self):
        assert self.graphs.held is None
        self.xp.do("cuBLAS")

    def capture(self, work):
        return self.graphs.capture(work, self.start)


@pytest.fixture
def backend():
    return Device()


def test_a_graph_is_captured_on_a_stream_of_its_own_and_launched_on_the_current_one(backend):
    table = object()

    def work():
        backend.graphs.held.append(table)
        backend.xp.do("work")

    graph = backend.capture(work)
    graph.launch()
    assert backend.xp.log == ["no limit", "cuBLAS", "enter", "begin", "work", "end", "exit", "launch"]
    assert graph.held == [table] and backend.graphs.held is None


@pytest.mark.parametrize("place", ["begin", "work", "end"])
@pytest.mark.parametrize("error, raised, text", [
    (CUDARuntimeError(900), CaptureError, "^cuda:0: CUDARuntimeError: error 900$"),
    (CaptureError("why"), CaptureError, "^why$"), (KeyboardInterrupt(), KeyboardInterrupt, "^$")])
def test_whatever_goes_wrong_ends_the_capture_and_the_next_one_works(backend, place, error, raised, text):
    backend.xp.fails = {place: error}
    with pytest.raises(raised, match=text):
        backend.capture(lambda: backend.xp.do("work"))
    assert backend.xp.log[-1] == "exit" and ("end" in backend.xp.log) == (place != "begin")
    assert backend.graphs.held is None
    backend.xp.fails = {}
    backend.capture(lambda: None).launch()


def test_there_is_one_capture_at_a_time(backend):
    with pytest.raises(CaptureError, match="a capture within a capture"):
        backend.capture(lambda: backend.capture(lambda: None))


def test_memory_that_is_free_between_captures_belongs_to_the_graphs(backend):
    """CuPy's pools give it back where memory runs out; a graph that is launched later would write to what is
    not its own."""
    xp, sizes = backend.xp, []
    graph = backend.capture(lambda: sizes.append(xp.allocate(900)))
    other = backend.capture(lambda: sizes.append(xp.allocate(500)))
    assert sizes == [900, 500] and xp.log.count("default pool "
                                                "freed") == 1 and "graphs' pool freed" not in xp.log
    with pytest.raises(CaptureError, match="^cuda:0: no memory is left for 5,000 bytes that a graph needs "
                       "beside"):
        backend.capture(lambda: xp.allocate(5000))
    backend.graphs.trim()
    del graph
    backend.graphs.trim()
    assert "graphs' pool freed" not in xp.log
    other.launch()
    del other
    backend.graphs.trim()
    assert xp.log[-1] == "graphs' pool freed"


def test_other_errors_of_an_allocation_stay_what_they_are(backend, monkeypatch):
    def broken(size):
        raise CUDARuntimeError(700)

    monkeypatch.setattr(backend.xp.cuda, "Memory", broken)
    with pytest.raises(CaptureError, match="error 700"):
        backend.capture(lambda: backend.xp.allocate(1))
    assert "default pool freed" not in backend.xp.log


def test_nothing_is_trimmed_before_the_first_capture(backend):
    backend.graphs.trim()
    assert backend.xp.log == []


@pytest.mark.parametrize("error", [None, CaptureError("why")])
def test_a_backend_knows_that_it_captures(backend, error):
    cuda, seen = object.__new__(CupyBackend), []
    cuda.graphs, cuda.blas = backend.graphs, SimpleNamespace(handle=backend.start)

    def work():
        seen.append(cuda.capturing)
        if error:
            raise error
    with pytest.raises(CaptureError) if error else nullcontext():
        cuda.capture(work).launch()
    assert seen == [True] and not cuda.capturing
