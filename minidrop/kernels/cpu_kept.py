"""Loops over arrays of samples that lack entries or channels, in each group of samples others.

backend/numpy/kept.py cuts the samples into groups. The references are in backend/generic/kept.py.
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import add, jit
from minidrop.kernels.cpu import relu as rectified


@jit
def add_to_samples(out: Any, x: np.ndarray, cols: Any, begin: Any, samples: Any, whole: np.ndarray, relu: Any,
                   first: Any, last: Any) -> None:
    """out[i, begin + s] = f(whole[i, begin + s] + x[i, begin + s] in its places cols) for 0 <= s < samples.

    f = max(., 0) if `relu`, else nothing; a row is one (i, s).
    """
    for row in range(first, last):
        i, s = row // samples, begin + row % samples
        to, own, before = out[i, s], x[i, s], whole[i, s]
        for j in range(to.size):
            to[j] = before[j]
        for j in range(cols.size):
            to[cols[j]] += own[j]
        if relu:
            rectified(to, to, 0, to.size)


@jit
def take_of_samples(x: np.ndarray, out: Any, cols: Any, begin: Any, samples: Any, first: Any,
                    last: Any) -> None:
    """out[i, begin + s, j] = x[i, begin + s, cols[j]], rows as for `add_to_samples`."""
    for row in range(first, last):
        own, to = x[row // samples, begin + row % samples], out[row // samples, begin + row % samples]
        for j in range(cols.size):
            to[j] = own[cols[j]]


@jit
def put_of_samples(out: Any, x: np.ndarray, cols: Any, begin: Any, samples: Any, first: Any,
                   last: Any) -> None:
    """out[i, begin + s, cols[j]] = x[i, begin + s, j], rows as for `add_to_samples`."""
    for row in range(first, last):
        to, own = out[row // samples, begin + row % samples], x[row // samples, begin + row % samples]
        for j in range(cols.size):
            to[cols[j]] = own[j]


@jit
def add_to_channels(out: Any, x: np.ndarray, places: Any, begin: Any, whole: np.ndarray, relu: Any,
                    first: Any, last: Any) -> None:
    """out[n, c] = f(whole[n, c] + x[n, places[c]]), without x where that place is -1; arrays (N, C, places).

    f as for `add_to_samples`; n = begin + first .. begin + last - 1.
    """
    for n in range(begin + first, begin + last):
        for c in range(places.size):
            before, to = whole[n, c], out[n, c]
            if places[c] >= 0:
                add(before, x[n, places[c]], relu, to, 0, to.size)
            elif relu:
                rectified(before, to, 0, to.size)
            else:
                for i in range(to.size):
                    to[i] = before[i]


@jit
def take_of_channels(x: np.ndarray, out: Any, channels: Any, begin: Any, first: Any, last: Any) -> None:
    """out[n, k] = x[n, channels[k]], as for `add_to_channels`."""
    for n in range(begin + first, begin + last):
        for k in range(channels.size):
            own, to = x[n, channels[k]], out[n, k]
            for i in range(own.size):
                to[i] = own[i]


@jit
def put_of_channels(out: Any, x: np.ndarray, places: Any, begin: Any, first: Any, last: Any) -> None:
    """out[n, c] = x[n, places[c]], 0 where that place is -1; n as for `add_to_channels`."""
    for n in range(begin + first, begin + last):
        for c in range(out.shape[1]):
            to = out[n, c]
            if places[c] < 0:
                to[:] = 0
                continue
            own = x[n, places[c]]
            for i in range(own.size):
                to[i] = own[i]
