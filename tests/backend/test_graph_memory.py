"""Graphs keep the memory they write to: where it runs out there is no graph more, and none of the others loses what it has."""

from types import SimpleNamespace

import pytest

from minidrop.backend.cupy_graphs import CudaGraphs
from minidrop.errors import CaptureError


class CUDARuntimeError(RuntimeError):
    def __init__(self, status):
        super().__init__("cudaErrorSomething")
        self.status = status


def graphs(*answers):
    """Return (what captures, what it did): each request for memory gets the next answer, a status or 0."""
    done, answers = [], iter(answers)

    def memory(size):
        done.append(size)
        status = next(answers)
        if status:
            raise CUDARuntimeError(status)
        return size

    cuda = SimpleNamespace(Memory=memory, MemoryPointer=lambda memory, offset: (memory, offset),
                           runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError))
    pool = SimpleNamespace(free_all_blocks=lambda: done.append("free"))
    self = CudaGraphs()
    self.xp, self.name = SimpleNamespace(cuda=cuda, get_default_memory_pool=lambda: pool), "cuda:0"
    return self, done


def test_memory_as_it_is_asked_for():
    self, done = graphs(0)
    assert self._graph_memory(512) == (512, 0) and done == [512]


def test_what_lies_idle_elsewhere_is_freed_first():
    self, done = graphs(2, 0)
    assert self._graph_memory(512) == (512, 0) and done == [512, "free", 512]


def test_no_memory_is_no_graph():
    """Not the error at which CuPy's pool would free what captured graphs write to."""
    self, done = graphs(2, 2)
    with pytest.raises(CaptureError, match="^cuda:0: no 1,048,576 bytes of memory are left for another graph$"):
        self._graph_memory(2**20)
    assert done == [2**20, "free", 2**20]


def test_other_errors_pass():
    with pytest.raises(CUDARuntimeError):
        graphs(700)[0]._graph_memory(512)
