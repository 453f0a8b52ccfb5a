"""Compare two methods within one process, step by step: each pair of short blocks gives one ratio.

The two blocks of a pair follow each other at once, so that what the machine does besides slows both, and
they take turns at being first. The median of many such ratios tells differences that are smaller than what
the times themselves vary by. Both share thread pools and caches: each finds these as the other left them.
"""

import time
from statistics import median
from typing import NamedTuple

import numpy as np

RESAMPLED = 2000


class Ratios(NamedTuple):
    """How many times as long the second method takes as the first.

    median, and quartiles of the pairs' ratios: how far chance moves one pair. interval: where the median lies
    with 95 %, by the bootstrap (medians of pairs drawn with replacement). seconds: the medians of a step.
    """

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]
    seconds: tuple[float, float]
    pairs: int

    def __str__(self):
        return (f"{self.median:.3f} ({self.interval[0]:.3f} - {self.interval[1]:.3f}), quartiles "
                f"{self.quartiles[0]:.3f} - {self.quartiles[1]:.3f}, {self.pairs} pairs")


def in_pairs(first, second, seconds, block=1, least=20, clock=time.perf_counter):
    """Return [(seconds of a step of first(), of second()), ...]: pairs for so long, at least `least` of them.

    block: steps of each in a pair.
    """
    pairs, begin = [], clock()
    while len(pairs) < least or clock() - begin < seconds:
        taken = [0.0, 0.0]
        for which in (0, 1) if len(pairs) % 2 else (1, 0):
            step, start = (first, second)[which], clock()
            for _ in range(block):
                step()
            taken[which] = (clock() - start) / block
        pairs.append(tuple(taken))
    return pairs


def ratios_of(pairs, seed=0):
    """Return the Ratios of what `in_pairs` returned."""
    ratios = np.array([second / first for first, second in pairs])
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLED, len(ratios)))
    interval = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return Ratios(float(np.median(ratios)), tuple(np.quantile(ratios, (0.25, 0.75)).tolist()),
                  tuple(interval.tolist()), tuple(median(times) for times in zip(*pairs, strict=True)),
                  len(ratios))
