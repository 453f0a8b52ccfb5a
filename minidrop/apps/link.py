"""What a message between the ranks of a training costs, measured as a training sends it."""

from __future__ import annotations

import math
import time
from statistics import median
from typing import NamedTuple

import numpy as np

from minidrop.solver.ranks import Ranks

PART = 1 << 22          # bytes that a rank sends each other one
REPEATS = 5             # of which the median counts
_SMALL_REPEATS = 20


class Link(NamedTuple):
    """What it takes a rank to send a message of m bytes: latency + m / bandwidth (Hockney's model).

    `latency`: seconds. `bandwidth`: bytes in a second, that one rank sends while all do.
    """

    latency: float
    bandwidth: float


def measure_link(ranks: Ranks, part: int = PART, repeats: int = REPEATS) -> Link:
    """Return the Link between several ranks; all of them call it, and all get that of rank 0.

    A gather of a byte takes ceil(log2 n) latencies, an exchange of parts n - 1 messages one after the other.
    Where ranks share cores, latencies vary by more than an exchange takes: at most half of it is theirs.
    """
    n = ranks.size
    byte = np.zeros(1, np.uint8)
    parts, found = list(np.zeros((n, part), np.uint8)), list(np.empty((n, part), np.uint8))
    small = _seconds(lambda: ranks.communicator.gather(byte), repeats * _SMALL_REPEATS)
    large = _seconds(lambda: ranks.communicator.start(parts, found, 0).wait(), repeats)
    latency = small / max(1, math.ceil(math.log2(n)))
    moving = max(large - (n - 1) * latency, large / 2, 1e-9)
    link = ranks.gather(np.array([latency, (n - 1) * part / moving]))
    return Link(*map(float, link[0]))


def _seconds(call, repeats):
    call()          # what the first one sets up does not count
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return median(taken)
