"""NCCL without a GPU: what NcclLink uses of CuPy and of its NCCL, for ranks that are threads.

Messages move host memory through the ranks' own Communicator, when their group ends. `log` has what was
called, in order, so that a missing event shows.
"""

import ctypes

import numpy as np

UINT8 = 1       # NCCL_UINT8


class Fake:
    """The modules of one rank: `cupy` and `nccl`. failing: the code that check_async_error raises."""

    def __init__(self, communicator):
        self.world, self.log, self.failing = communicator, [], 0
        self.run = lambda pointers, exchange: exchange()        # what a recorder does later
        self.joined = lambda: None
        self.computing = self.now = Stream(self, "compute")
        self.nccl, self.cupy = Nccl(self), Cupy(self)


class Cupy:
    def __init__(self, fake):
        self.cuda = self
        self.get_current_stream = lambda: fake.now
        self.Stream = lambda non_blocking: Stream(fake, "link", non_blocking)
        self.Event = lambda disable_timing: Event(fake)


class Device:
    """cupy.cuda.Device: that it is current is counted."""

    depth = 0

    def __enter__(self):
        self.depth += 1

    def __exit__(self, *_):
        self.depth -= 1


class Stream:
    def __init__(self, fake, name, non_blocking=True):
        assert non_blocking, "a blocking stream and the default stream would wait for each other"
        self.fake, self.name, self.ptr, self.before = fake, name, 10 if name == "link" else 20, []

    def wait_event(self, event):
        assert event.place is not None, "waits for what was never recorded"
        self.fake.log.append(f"{self.name} waits for {event.place}")
        if self.name == "compute":
            self.fake.joined()

    def __enter__(self):
        self.before.append(self.fake.now)
        self.fake.now = self

    def __exit__(self, *_):
        self.fake.now = self.before.pop()


class Event:
    done = True

    def __init__(self, fake):
        self.fake, self.place = fake, None

    def record(self, stream):
        self.place = stream.name
        self.fake.log.append(f"event on {stream.name}")


class NcclError(RuntimeError):
    pass


class Nccl:
    """The module cupy.cuda.nccl."""

    available, NCCL_UINT8 = True, UINT8

    def __init__(self, fake):
        self.fake, self.group = fake, None
        self.NcclCommunicator = lambda *given: Communicator(self, *given)

    def get_unique_id(self):
        return bytes(range(100, 228))

    def groupStart(self):
        assert self.group is None, "a group within a group"
        self.group = []

    def groupEnd(self):
        """Move the messages of the group: from each rank one, and to each."""
        world, calls = self.fake.world, self.group
        self.group = None
        sent, found = ({peer: array for kind, array, peer in calls if kind == wanted}
                       for wanted in ("send", "recv"))
        nothing = np.empty(0, np.uint8)

        def exchange():
            world.start([sent.get(rank, nothing) for rank in range(world.size)],
                        [found.get(rank, nothing) for rank in range(world.size)], 1 << 20).wait()
        self.fake.run([array.ctypes.data for _, array, _ in calls], exchange)


class Communicator:
    """cupy.cuda.nccl.NcclCommunicator(ndev, commId, rank)."""

    def __init__(self, nccl, ndev, commId, rank):
        if not isinstance(commId, bytes):
            raise TypeError("Argument 'commId' has incorrect type")
        assert (len(commId), ndev, rank) == (128, nccl.fake.world.size, nccl.fake.world.rank)
        assert commId == bytes(range(100, 228))
        self.nccl, self.ended = nccl, False

    def send(self, sendbuf, count, datatype, peer, stream):
        self._call("send", sendbuf, count, datatype, peer, stream)

    def recv(self, recvbuf, count, datatype, peer, stream):
        self._call("recv", recvbuf, count, datatype, peer, stream)

    def _call(self, kind, pointer, count, datatype, peer, stream):
        assert self.nccl.group is not None, "messages outside of a group wait for each other"
        assert (stream, datatype, self.ended) == (10, UINT8, False) and count > 0
        assert self.nccl.fake.now.name == "link", "queued outside of `apart`"
        self.nccl.fake.log.append(f"{kind} {count} {peer}")
        memory = (ctypes.c_uint8 * count).from_address(pointer)
        self.nccl.group.append((kind, np.frombuffer(memory, np.uint8), peer))

    def check_async_error(self):
        if self.nccl.fake.failing:
            raise (NcclError("remote process exited") if self.nccl.fake.failing == 6
                   else KeyError(self.nccl.fake.failing))

    def abort(self):
        assert not self.ended
        self.ended = True
        self.nccl.fake.log.append("abort")
