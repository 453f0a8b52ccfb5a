"""Watchdog: who is missing when a wait takes too long, with a clock and messages of the test's own."""

from types import SimpleNamespace

import pytest

from minidrop.errors import LostRankError, ParallelError
from minidrop.solver import watchdog
from minidrop.solver.watchdog import PARTS, Watchdog, named

HOSTS = ["a", "a", "b", "b"]


class Peers:
    """Rank 0 of four, and what it hears: `inbox` has the ranks whose messages have come."""

    rank, size = 0, 4

    def __init__(self):
        self.inbox, self.told = [], []

    def Dup(self):
        return self

    def Iprobe(self, status):
        status.source = self.inbox[0] if self.inbox else None
        return bool(self.inbox)

    def Recv(self, said, source):
        assert self.inbox.pop(0) == source

    def Isend(self, said, other):
        self.told.append(other)
        return SimpleNamespace(Test=lambda: True)


@pytest.fixture
def waiting(monkeypatch):
    """wait(seconds, {rank: (first, last)}) waits in steps of 0.1 s while those ranks say that they wait."""
    now = [100.0]
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now[0]))
    peers = Peers()
    dog = Watchdog(SimpleNamespace(COMM_WORLD=peers, Status=SimpleNamespace), HOSTS, timeout=20.0)

    def wait(seconds, speaking=(), jump=0.0):
        dog.begin()
        for step in range(round(10 * seconds)):
            now[0] += 0.1 + (jump if step == 5 else 0)
            if step % 10 == 9:
                peers.inbox += [rank for rank, (first, last) in dict(speaking).items()
                                if first <= step / 10 <= last]
            dog.look()
    wait.peers = peers
    return wait


def test_a_short_wait_tells_nobody(waiting):
    waiting(0.9 * 20 / PARTS)
    assert waiting.peers.told == []


def test_the_ranks_that_say_nothing_are_lost(waiting):
    always = (0, 99)
    with pytest.raises(LostRankError, match=r"^rank 2 on b did not come within the 20 s .* --rank-timeout"
                                            r" \(now 20 s\) .*, world\(timeout=...\) in a program") as caught:
        waiting(30, {1: always, 3: always})
    assert caught.value.lost == (2,)
    assert set(waiting.peers.told) == {1, 2, 3} and len(waiting.peers.told) == 3 * (PARTS - 1)


def test_what_was_said_in_earlier_waits_does_not_count(waiting):
    waiting.peers.inbox += [1, 2, 3, 3]
    with pytest.raises(LostRankError) as caught:
        waiting(30, {2: (18, 99)})      # which began to wait late
    assert caught.value.lost == (1, 3)


def test_all_wait(waiting):
    with pytest.raises(ParallelError, match="all ranks have waited for each other") as caught:
        waiting(30, dict.fromkeys((1, 2, 3), (0, 99)))
    assert not isinstance(caught.value, LostRankError)


def test_the_time_in_which_the_process_itself_was_stopped_does_not_count(waiting):
    waiting(15, jump=1000.0)
    with pytest.raises(LostRankError):
        waiting(21)


def test_names():
    assert named((1, 2), HOSTS) == "rank 1 on a, rank 2 on b"
    assert named(range(12), ["h"] * 12).endswith("rank 7 on h and 4 more")
