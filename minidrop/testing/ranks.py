"""run_ranks: several ranks in one process, each a thread of which one runs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from minidrop.errors import ParallelError

PATIENCE = 60       # seconds that a rank waits for the others


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
        self.slots: dict[int, tuple[str, np.ndarray]] = {}
        self.results: dict[int, Any] = {}
        self.errors: list[BaseException] = []

    def run(self, rank, work):
        with self.turn:
            try:
                self.results[rank] = work(_Rank(self, rank))
            except BaseException as error:
                if not isinstance(error, threading.BrokenBarrierError):
                    self.errors.append(error)
                self.barrier.abort()
            else:
                if self.barrier.n_waiting or self.barrier.broken:
                    self.errors.append(ParallelError(f"rank {rank} ended while others wait for it"))
                    self.barrier.abort()

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

    def exchange(self, parts: np.ndarray) -> np.ndarray:
        """Send parts[r] to rank r."""
        return np.stack([other[self.rank] for other in self.hub.all(self.rank, "exchange", parts)])

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Return the arrays of all ranks."""
        return np.stack(self.hub.all(self.rank, "gather", array))

    def abort(self) -> NoReturn:
        """End this rank, and so all."""
        raise SystemExit(1)
