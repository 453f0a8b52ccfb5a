"""A device on which work happens as late, or as oddly, as CUDA allows: what `Uploads` uses of CuPy, on host
memory.

Streams are queues. An entry runs only when the schedule says so or when the host waits for it, never before
what its stream was told to wait for. Freed device memory is handed out again at once, as CuPy's pool does;
host memory that was freed before its copy ran arrives as garbage. So a wait that is missing, or a buffer
reused too early, shows as wrong numbers.
"""

import ctypes
import random
import threading
import weakref
from collections import defaultdict, deque
from types import SimpleNamespace

import numpy as np

SCHEDULES = ("late", "early copies", "early work", "eager", "random 1", "random 2", "random 3")
GARBAGE = 0xC7


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class PinnedMemoryPointer(bytearray):
    """Page-locked memory; a class of its own, so that weak references can tell whether it has been freed."""


class Mark:
    """What an event recorded: a place in a stream's queue."""

    def __init__(self, stream):
        self.stream, self.done = stream, False


class LateDevice:
    """One device. `cupy` is what looks like the module; `work(fn)` queues host code on the current stream."""

    def __init__(self, schedule="late"):
        self.schedule, self.random = schedule, random.Random(schedule)
        self.free = defaultdict(list)               # (stream, size) -> memory
        self.memory_made = self.host_waits = 0
        self.pinned_by = []                         # the threads that asked for page-locked memory
        self.pinned_memory = []                     # weak references
        self.pinned_limit = None
        self.local, self.lock = threading.local(), threading.RLock()
        self.streams = []
        self.default = self._stream()
        self.cupy = self._module()

    # -- streams ---------------------------------------------------------------------------------------------
    def _stream(self, non_blocking=True):
        if not non_blocking:
            raise ValueError("a blocking stream and the default stream would wait for each other")
        stream = Stream(self, len(self.streams))
        self.streams.append(stream)
        return stream

    @property
    def current(self):
        return getattr(self.local, "stream", None) or self.default

    def use(self, stream):
        self.local.stream = stream

    def queue(self, stream, kind, what):
        stream.queue.append((kind, what))
        computing = [stream for stream in self.streams if stream.computes]
        copying = [stream for stream in self.streams if not stream.computes]
        if self.schedule.startswith("random"):
            for _ in range(self.random.choice((0, 0, 1, 2, 5))):
                self.step(self.random.choice(self.streams))
        else:
            self.run({"late": [], "early copies": copying, "early work": computing,
                      "eager": self.streams}[self.schedule])

    def step(self, stream):
        """Run the next entry of a stream; return whether it could."""
        if not stream.queue:
            return False
        kind, what = stream.queue[0]
        if kind == "wait" and not what.done:
            return False
        stream.queue.popleft()
        if kind == "mark":
            what.done = True
        elif kind == "work":
            what()
        return True

    def run(self, streams):
        """Run what can run in these streams."""
        while any([self.step(stream) for stream in streams]):
            pass

    def force(self, mark):
        """Run what must have run before the mark is done, and no more."""
        while not mark.done:
            if not self.step(mark.stream):
                self.force(mark.stream.queue[0][1])

    def finish(self):
        self.run(self.streams)
        assert not any(stream.queue for stream in self.streams), "streams wait for each other"

    def work(self, function):
        self.queue(self.current, "work", function)

    def read(self, array):
        """Queue a reader of an array on the current stream; return a list that gets what it saw."""
        seen, memory = [], array.bytes
        shape, dtype = array.shape, array.dtype
        self.work(lambda: seen.append(memory.copy().view(dtype).reshape(shape)))
        return seen

    # -- memory ----------------------------------------------------------------------------------------------
    def allocate(self, nbytes):
        size = -(-max(1, nbytes) // 512) * 512
        free = self.free[self.current, size]
        if free:
            return free.pop()
        self.memory_made += 1
        return np.full(size, GARBAGE, np.uint8)

    def alloc_pinned_memory(self, nbytes):
        assert getattr(self.local, "depth", 0), "this thread has no device"
        if self.pinned_limit is not None and nbytes > self.pinned_limit:
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        with self.lock:
            self.pinned_by.append(threading.current_thread().name)
            memory = PinnedMemoryPointer(bytes([GARBAGE]) * nbytes)
            self.pinned_memory.append(weakref.ref(memory))
        return memory

    @property
    def pinned_alive(self):
        return sum(memory() is not None for memory in self.pinned_memory)

    def _module(self):
        device = self

        class Device:
            id = 0

            def __enter__(self):
                device.local.depth = getattr(device.local, "depth", 0) + 1

            def __exit__(self, *exc_info):
                device.local.depth -= 1

        class Bound(ndarray):
            def __init__(self, shape, dtype=float, memptr=None):
                super().__init__(device, shape, dtype, memptr)

        def asarray(x, dtype=None):
            if isinstance(x, ndarray):
                return x if dtype is None else x.astype(dtype, copy=False)
            host = np.array(x, dtype)
            array = Bound(host.shape, host.dtype)
            array.write(host)
            return array

        def asnumpy(x):
            seen = device.read(x)
            mark = Mark(device.current)
            device.queue(device.current, "mark", mark)
            device.force(mark)
            return seen[0]

        pool = SimpleNamespace(free_all_blocks=lambda: None)
        return SimpleNamespace(
            ndarray=Bound, empty=Bound, asarray=asarray, asnumpy=asnumpy,
            get_default_memory_pool=lambda: pool, get_default_pinned_memory_pool=lambda: pool,
            cuda=SimpleNamespace(
                Device=Device, Stream=self._copying_stream, Event=lambda **settings: Event(device),
                get_current_stream=lambda: self.current, alloc_pinned_memory=self.alloc_pinned_memory,
                PinnedMemoryPointer=PinnedMemoryPointer,
                runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError),
                memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError)))

    def _copying_stream(self, non_blocking=False):
        stream = self._stream(non_blocking)
        stream.computes = False
        return stream

    def computing_stream(self):
        """Return another stream to compute on."""
        return self._stream()


class Stream:
    def __init__(self, device, number):
        self.device, self.ptr, self.queue, self.computes = device, number, deque(), True

    def wait_event(self, event):
        if event.mark is not None:          # CUDA: what was recorded when the wait is queued, nothing if
                                            # nothing was
            self.device.queue(self, "wait", event.mark)


class Event:
    def __init__(self, device):
        self.device, self.mark = device, None

    def record(self, stream):
        self.mark = Mark(stream)
        self.device.queue(stream, "mark", self.mark)

    @property
    def done(self):
        return self.mark is None or self.mark.done

    def synchronize(self):
        if not self.done:
            self.device.host_waits += 1
            self.device.force(self.mark)


class Memory:
    """Device memory; goes back to the stream it was asked for on, whatever is still to be run there."""

    def __init__(self, device, nbytes):
        self.bytes, self.place = device.allocate(nbytes), device.free
        self.stream = device.current

    def __del__(self):
        self.place[self.stream, self.bytes.size].append(self.bytes)


class ndarray:
    __cuda_array_interface__ = {}           # that it is there is all that is asked

    def __init__(self, device, shape, dtype=float, memptr=None):
        self.device_of, self.dtype, self.shape = device, np.dtype(dtype), tuple(shape)
        if self.dtype.kind not in "biuf":
            raise ValueError(f"Unsupported dtype {self.dtype}")
        assert self.dtype.isnative
        self.size = int(np.prod(self.shape, dtype=int))
        self.ndim, self.nbytes = len(self.shape), self.size * self.dtype.itemsize
        self.data = memptr or Memory(device, self.nbytes)
        self.bytes = self.data.bytes[:self.nbytes]
        assert self.bytes.size == self.nbytes, "a view beyond its memory"

    def set(self, host, stream):
        """As CuPy's: contiguous sources are not copied first, and nothing holds them until the copy runs."""
        if (host.dtype, host.shape) != (self.dtype, self.shape):
            raise TypeError(f"{host.dtype} {host.shape} cannot be set to {self.dtype} {self.shape}")
        host = np.ascontiguousarray(host)
        owner = host
        while isinstance(owner, np.ndarray) and owner.base is not None:
            owner = owner.base
        alive, address, target = weakref.ref(owner), host.ctypes.data, self.bytes
        del host, owner

        def copy():
            target[...] = GARBAGE if alive() is None else np.frombuffer(ctypes.string_at(address,
                                                                                         target.size),
                                                                        np.uint8)
        self.device_of.queue(stream, "work", copy)

    def write(self, host):
        """Queue a kernel that writes these numbers, on the current stream."""
        target, value = self.bytes, np.frombuffer(np.ascontiguousarray(host).tobytes(), np.uint8)
        self.device_of.work(lambda: target.__setitem__(..., value))

    def astype(self, dtype, copy=True):
        if self.dtype == dtype and not copy:
            return self
        out, source, own = type(self)(self.shape, dtype), self.bytes, self.dtype
        target = out.bytes
        def convert():
            target[...] = source.copy().view(own).astype(dtype).view(np.uint8).reshape(-1)

        self.device_of.work(convert)
        return out
