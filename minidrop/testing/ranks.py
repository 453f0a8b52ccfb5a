"""run_ranks: several ranks in one process, each a thread of which one runs at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from minidrop.errors import ParallelError

PATIENCE = 60       # seconds that a rank waits for the others
_LOOK = 1e-3        # seconds between two looks at what says nothing when it ends


def run_ranks(size: int, work: Callable[[Any], Any]) -> list:
    """Return work(communicator) of `size` ranks, in their order; see `minidrop.solver.communicator`.

    One rank runs until it waits for the others, so that libraries that do not like threads see one of them at
    a time. Raises the error of the rank that failed first, and ParallelError where ranks do not do the same:
    calls of different methods or with different shapes, or a rank that ends while others wait.
    """
    hub = _Hub(size)
    threads = [threading.Thread(target=hub.run, args=(rank, work), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if hub.errors:
        raise hub.errors[0]
    return [hub.results[rank] for rank in range(size)]


class _Hub:
    """What the ranks share."""

    def __init__(self, size):
        self.size, self.barrier, self.turn = size, threading.Barrier(size), threading.Lock()
        self.news = threading.Condition(self.turn)
        # (from, to, tag, number of the message): those that are under way
        self.messages: dict[tuple[int, int, int, int], np.ndarray] = {}
        self.slots: dict[int, tuple[str, np.ndarray]] = {}
        self.results: dict[int, Any] = {}
        self.errors: list[BaseException] = []
        self.ended: set[int] = set()

    def run(self, rank, work):
        with self.turn:
            try:
                self.results[rank] = work(_Rank(self, rank))
                self.ended.add(rank)
            except BaseException as error:
                if not isinstance(error, threading.BrokenBarrierError):
                    self.errors.append(error)
                self.barrier.abort()
            else:
                if self.barrier.n_waiting or self.barrier.broken:
                    self.errors.append(ParallelError(f"rank {rank} ended while others wait for it"))
                    self.barrier.abort()
            self.news.notify_all()

    def all(self, rank, what, array):
        """Return the arrays of all ranks, once each has given one."""
        self.slots[rank] = what, np.array(array)
        self._wait()
        given = [self.slots[other] for other in range(self.size)]
        self._wait()        # nobody gives the next before all have read
        calls = {(name, part.shape, str(part.dtype)) for name, part in given}
        if len(calls) > 1:
            raise ParallelError(f"the ranks do not do the same: {sorted(map(str, calls))}")
        return [part for _, part in given]

    def wait_for(self, transfer):
        """Return when all messages of a transfer are here; meanwhile others run."""
        while not transfer.ready():
            if gone := self.ended.intersection(transfer.senders):
                raise ParallelError(f"rank {min(gone)} ended while others wait for it")
            if self.barrier.broken or not self.news.wait(PATIENCE):
                raise threading.BrokenBarrierError

    def let_others_run(self, until):
        """Return when until() is true; meanwhile others run."""
        while not until():
            if self.barrier.broken:
                raise threading.BrokenBarrierError
            self.news.wait(_LOOK)

    def _wait(self):
        self.turn.release()
        try:
            self.barrier.wait(PATIENCE)
        finally:
            self.turn.acquire()


class _Rank:
    """The Communicator of one of them."""

    host = "here"

    def __init__(self, hub, rank):
        self.hub, self.rank, self.size = hub, rank, hub.size
        self.local_rank, self.local_size = rank, hub.size
        self.numbers: Counter[tuple[int, int, int]] = Counter()     # of messages sent and expected so far

    def start(self, parts: Sequence[np.ndarray], found: Sequence[np.ndarray], tag: int) -> _Transfer:
        """Begin to send parts[r] to rank r."""
        expected = {}
        for other in range(self.size):
            if other != self.rank:
                self.hub.messages[self._next(self.rank, other, tag)] = np.array(parts[other])
                expected[self._next(other, self.rank, tag)] = found[other]
        self.hub.news.notify_all()
        return _Transfer(self.hub, expected)

    def _next(self, *way):
        self.numbers[way] += 1
        return *way, self.numbers[way]

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Return the arrays of all ranks."""
        return np.stack(self.hub.all(self.rank, "gather", array))

    def wait(self, request: Any) -> None:
        """Let others run until a request has ended."""
        self.hub.let_others_run(request.Test)

    def abort(self) -> NoReturn:
        """End this rank, and so all."""
        raise SystemExit(1)


class _Transfer:
    """The messages that a rank expects in return for those that it has sent."""

    def __init__(self, hub, expected):
        self.hub, self.expected = hub, expected

    @property
    def senders(self) -> set[int]:
        """The ranks whose messages are not here."""
        return {place[0] for place in self.expected}

    def ready(self) -> bool:
        """Take what has arrived; whether that is all."""
        for place in [place for place in self.expected if place in self.hub.messages]:
            message, found = self.hub.messages.pop(place), self.expected.pop(place)
            if (message.shape, message.dtype) != (found.shape, found.dtype):
                raise ParallelError(f"the ranks do not do the same: rank {place[0]} sends {message.shape} "
                                    f"numbers of {message.dtype}, rank {place[1]} expects {found.shape} of "
                                    f"{found.dtype}")
            found[...] = message
        return not self.expected

    def wait(self) -> None:
        """Let others run until all is here."""
        self.hub.wait_for(self)
