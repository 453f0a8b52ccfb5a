"""Watchdog: ranks that wait for others tell each other so, and those that say nothing for long are lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidrop.errors import LostRankError, ParallelError

TIMEOUT = 600.0         # seconds that a rank waits for others, unless told otherwise
PARTS = 20              # of a timeout: so often a waiting rank says that it waits
_RECENT = 4             # parts within which a rank that waits is heard
_MOST_NAMED = 8
_LONGEST_STEP = 1.0     # seconds: what passes at once beyond it passed while this process was stopped itself


class Watchdog:
    """Ends a wait for other ranks after `timeout` seconds, and finds out which do not come.

    A rank that waits says so to all others, PARTS times in a timeout, over a communicator of its own. When
    its time is over, those not heard of late do something else, or nothing: they hang, were stopped, or are
    gone. All is done by the waiting thread; exchanges that take less than a part of the timeout cost nothing.

    `look` is called again and again during a wait that began with `begin`.
    """

    def __init__(self, mpi: Any, hosts: Sequence[str], timeout: float = TIMEOUT):
        self._mpi, self._hosts, self.timeout = mpi, hosts, timeout
        self._peers = mpi.COMM_WORLD.Dup()
        self._says = np.zeros(1, np.uint8)
        self._sent: list[Any] = []
        self.begin()

    def begin(self) -> None:
        """A wait begins."""
        self._waited, self._told, self._last = 0.0, 0, time.monotonic()
        self._heard = [-1.0] * self._peers.size

    def look(self) -> None:
        """Raise LostRankError when the time of this wait is over."""
        now = time.monotonic()
        self._waited += min(now - self._last, _LONGEST_STEP)
        self._last = now
        if self._waited < (self._told + 1) * self.timeout / PARTS:
            return
        self._told += 1
        self._listen()
        if self._waited >= self.timeout:
            self._give_up()
        self._sent = [request for request in self._sent if not request.Test()]
        self._sent += [self._peers.Isend(self._says, other) for other in range(self._peers.size)
                       if other != self._peers.rank]

    def _listen(self):
        status, said = self._mpi.Status(), np.empty_like(self._says)
        while self._peers.Iprobe(status=status):
            self._peers.Recv(said, status.source)
            self._heard[status.source] = self._waited

    def _give_up(self):
        oldest = self._waited - _RECENT * self.timeout / PARTS
        lost = tuple(rank for rank, heard in enumerate(self._heard)
                     if rank != self._peers.rank and heard < oldest)
        limit = (f"--rank-timeout (now {self.timeout:g} s) gives ranks more time, world(timeout=...) in a "
                 f"program of one's own")
        if not lost:
            raise ParallelError(f"all ranks have waited for each other for {self.timeout:g} s: the network "
                                f"between them does not deliver, or one of them called a method that others "
                                f"did not; {limit}")
        raise LostRankError(f"{named(lost, self._hosts)} did not come within the {self.timeout:g} s that "
                            f"others waited: stopped, hanging (as in reading data), or on a host that is "
                            f"gone; {limit}", lost)


def named(ranks: Sequence[int], hosts: Sequence[str]) -> str:
    """Return "rank 1 on node1", or several."""
    names = [f"rank {rank} on {hosts[rank]}" for rank in ranks[:_MOST_NAMED]]
    more = len(ranks) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
