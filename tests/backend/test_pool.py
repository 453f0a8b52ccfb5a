"""BufferPool: memory comes back by itself, and never while somebody looks at it."""

import sys

import numpy as np
import pytest
from cases import in_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from minidrop.backend.numpy.pool import BufferPool

BIG = (64, 1024)       # 256 KiB of float32


def address(x):
    return x.__array_interface__["data"][0]


@pytest.mark.parametrize("shape, dtype", [((3,), "float32"), (BIG, "float32"), ((129, 1001), "float64"),
                                          ((1 << 20,), bool), ((0, 5), "float64"), ((), "float32"),
                                          ((5, 0, 70000), "float32")])
def test_what_is_handed_out(shape, dtype):
    x = BufferPool().empty(shape, dtype)
    assert x.shape == shape and x.dtype == dtype and x.flags.c_contiguous and x.flags.writeable
    if x.nbytes >= 1 << 15:
        assert address(x) % 64 == 0


def test_freed_memory_is_used_again():
    pool = BufferPool()
    x = pool.empty(BIG, "float32")
    before = address(x)
    del x
    y = pool.empty(BIG, "float32")
    assert address(y) == before
    assert pool.bytes_held == y.nbytes
    del y
    assert address(pool.empty((128, 512), "float32")) == before          # another shape of that size
    assert address(pool.empty((63, 1024), "float32")) == before          # and one that is a little smaller


@in_turn("view", [lambda x: x, lambda x: x[3:5], lambda x: x.T, lambda x: x.reshape(-1)[::7],
                                  lambda x: x.view(np.uint8), lambda x: memoryview(x), lambda x: iter(x),
                                  lambda x: np.broadcast_to(x, (2, *x.shape)), lambda x: [x[0]],
                                  lambda x: x.flat])
def test_memory_that_is_looked_at_is_not_handed_out(view):
    pool = BufferPool()
    x = pool.empty(BIG, "float32")
    before, held = address(x), view(x)
    del x
    assert address(pool.empty(BIG, "float32")) != before
    del held
    others = [pool.empty(BIG, "float32") for _ in range(2)]
    assert before in [address(other) for other in others]


@given(st.lists(st.tuples(st.integers(1 << 13, 1 << 16), st.booleans()), max_size=40))
@settings(max_examples=50, deadline=None)
def test_live_arrays_never_overlap(requests):
    """Each array keeps what was written into it, whatever is asked for and freed in between."""
    pool, alive = BufferPool(), {}
    for number, (size, free_one) in enumerate(requests):
        if free_one and alive:
            alive.pop(min(alive))
        alive[number] = pool.empty((size,), "float32")
        alive[number].fill(number)
    for number, x in alive.items():
        assert (x == number).all()
    spans = sorted((address(x), address(x) + x.nbytes) for x in alive.values())
    assert all(end <= begin for (_, end), (begin, _) in zip(spans, spans[1:], strict=False))


def test_nearby_sizes_share_a_buffer():
    """At most an eighth is lost to rounding up."""
    pool = BufferPool()
    for columns in range(1000, 1025):
        pool.empty((64, columns), "float32")
    assert pool.bytes_held <= 1.25 * 64 * 1024 * 4 * 2
    for size in (1 << 15, 50_000, 123_457, 1 << 20, (1 << 20) + 1):
        pool = BufferPool()
        x = pool.empty((size,), np.uint8)
        assert size <= pool.bytes_held <= size * 1.125 + 8 and x.size == size


def test_a_larger_free_buffer_serves_a_smaller_request():
    pool = BufferPool()
    first = pool.empty((100_000,), np.uint8)
    address, held = first.ctypes.data, pool.bytes_held
    del first
    smaller = pool.empty((60_000,), np.uint8)
    assert smaller.ctypes.data == address and pool.bytes_held == held
    pool.empty((40_000,), np.uint8)           # half as large is not worth a whole one, and the other is in
                                              # use anyway
    assert pool.bytes_held > held


def test_shapes_that_grow_let_go_of_the_buffers_that_they_had():
    """Batches of sentences, each longer than the one before, would leave a buffer of each length behind."""
    pool = BufferPool()
    kept = pool.empty((9 << 20,), np.uint8)
    for size in range(10, 30):
        pool.empty((size << 20,), np.uint8)
    assert pool.bytes_held == (9 + 29) << 20 and kept.size == 9 << 20
    pool.empty((1 << 20,), np.uint8)            # a small one replaces none
    assert pool.bytes_held == (9 + 29 + 1) << 20


def test_steps_of_one_kind_make_no_more_buffers():
    """What makes room for a larger buffer in the first steps is made again, and then stays."""
    pool, sizes = BufferPool(), [int(size * (1 << 20)) for size in (9, 40, 3, 25, 9, 70, 12, 33, 5)]

    def step():
        held = []
        for size in sizes:
            held = [*held[-1:], pool.empty((size,), np.uint8)]      # two live at a time

    for _ in range(len(sizes)):
        step()
    made, new = [], pool._new_one
    pool._new_one = lambda room: made.append(room) or new(room)
    step()
    assert made == []


def test_trim_gives_back_what_is_free_and_nothing_else():
    pool = BufferPool()
    kept, freed = pool.empty((100_000,), np.uint8), pool.empty((200_000,), np.uint8)
    kept[:] = 7
    del freed
    pool.trim()
    assert pool.bytes_held < 150_000 and (kept == 7).all()
    assert pool.empty((100_000,), np.uint8).ctypes.data != kept.ctypes.data


def test_no_python_runs_when_an_array_goes():
    """A Ctrl-C in a function that is called then would be printed as an exception that is ignored."""
    pool, called = BufferPool(), []
    array = pool.empty((1 << 16,), np.float32)
    sys.setprofile(lambda frame, event, argument: called.append(event) if event == "call" else None)
    try:
        del array
    finally:
        sys.setprofile(None)
    assert called == [] and pool.bytes_held == pool.empty((1 << 16,), np.float32).nbytes
