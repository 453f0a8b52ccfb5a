"""Numba loops of local response normalization. Reference: backend/generic/norm.py.

Over channels, arrays are (samples, channels, places); within each, planes are (planes, height, width).
"""

from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit

CHUNK = 256         # places at a time: a window of channels stays in the L1 cache


@jit
def inverse_power(s: Any, beta: Any, power: Any) -> None:
    """power = s^-beta; by roots, which vectorise, for the usual ones."""
    one = s.dtype.type(1)
    if beta == 0.75:
        for i in range(s.size):
            root = one / np.sqrt(s[i])
            power[i] = root * np.sqrt(root)
    elif beta == 0.5:
        for i in range(s.size):
            power[i] = one / np.sqrt(s[i])
    else:
        exponent = -s.dtype.type(beta)
        for i in range(s.size):
            power[i] = s[i] ** exponent


@jit
def channel_window(x: np.ndarray, start: Any, c: Any, half: Any, s: Any) -> None:
    """s = the sums of squares of channels c - half .. c + half of x (channels, places), from `start` on."""
    s[:] = 0
    for near in range(max(0, c - half), min(len(x), c + half + 1)):
        row = x[near, start:start + s.size]
        for i in range(s.size):
            s[i] += row[i] * row[i]


@jit
def lrn_across(x: np.ndarray, half: Any, alpha: Any, beta: Any, k: Any, y: Any, first: Any,
               last: Any) -> None:
    """y = x s^-beta over channels; rows first .. last - 1 are the chunks of places of all samples."""
    places = x.shape[2]
    chunks = -(-places // CHUNK)
    sums, powers = np.empty(CHUNK, x.dtype), np.empty(CHUNK, x.dtype)
    for row in range(first, last):
        n, start = row // chunks, row % chunks * CHUNK
        stop = min(places, start + CHUNK)
        s, power = sums[:stop - start], powers[:stop - start]
        for c in range(x.shape[1]):
            channel_window(x[n], start, c, half, s)
            for i in range(s.size):
                s[i] = s[i] * alpha + k
            inverse_power(s, beta, power)
            own, out = x[n, c, start:stop], y[n, c, start:stop]
            for i in range(s.size):
                out[i] = own[i] * power[i]


@jit
def lrn_across_gradient(gy: Any, x: np.ndarray, half: Any, alpha: Any, beta: Any, k: Any, gx: Any, first: Any,
                        last: Any) -> None:
    """gx = gy s^-beta - 2 alpha beta x (the sum of gy x s^(-beta - 1)); rows as for `lrn_across`."""
    channels, places = x.shape[1:]
    chunks = -(-places // CHUNK)
    sums, powers = np.empty(CHUNK, x.dtype), np.empty(CHUNK, x.dtype)
    ratios = np.empty((channels, CHUNK), x.dtype)
    slope = 2 * alpha * x.dtype.type(beta)
    for row in range(first, last):
        n, start = row // chunks, row % chunks * CHUNK
        stop = min(places, start + CHUNK)
        s, power = sums[:stop - start], powers[:stop - start]
        for c in range(channels):
            channel_window(x[n], start, c, half, s)
            for i in range(s.size):
                s[i] = s[i] * alpha + k
            inverse_power(s, beta, power)
            own, g, out, ratio = x[n, c, start:stop], gy[n, c, start:stop], gx[n, c, start:stop], ratios[c]
            for i in range(s.size):
                scaled = g[i] * power[i]
                out[i] = scaled
                ratio[i] = scaled * own[i] / s[i]
        for c in range(channels):
            s[:] = 0
            for near in range(max(0, c - half), min(channels, c + half + 1)):
                ratio = ratios[near]
                for i in range(s.size):
                    s[i] += ratio[i]
            own, out = x[n, c, start:stop], gx[n, c, start:stop]
            for i in range(s.size):
                out[i] -= slope * own[i] * s[i]


@jit
def square_window(x: np.ndarray, h: Any, half: Any, room: Any, s: Any) -> None:
    """s = the sums of x (height, width) over the squares around the places of row h; room: width + 2 half."""
    width = x.shape[1]
    room[:] = 0
    columns = room[half:half + width]
    for near in range(max(0, h - half), min(len(x), h + half + 1)):
        row = x[near]
        for w in range(width):
            columns[w] += row[w]
    s[:] = 0
    for shift in range(2 * half + 1):
        part = room[shift:shift + width]
        for w in range(width):
            s[w] += part[w]


@jit
def lrn_within(x: np.ndarray, half: Any, alpha: Any, beta: Any, k: Any, y: Any, first: Any,
               last: Any) -> None:
    """y = x s^-beta over the places of planes first .. last - 1 of x (planes, height, width)."""
    height, width = x.shape[1:]
    squares = np.empty((height, width), x.dtype)
    room, s, power = np.empty(width + 2 * half, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    for plane in range(first, last):
        own, out = x[plane], y[plane]
        for h in range(height):
            for w in range(width):
                squares[h, w] = own[h, w] * own[h, w]
        for h in range(height):
            square_window(squares, h, half, room, s)
            for w in range(width):
                s[w] = s[w] * alpha + k
            inverse_power(s, beta, power)
            for w in range(width):
                out[h, w] = own[h, w] * power[w]


@jit
def lrn_within_gradient(gy: Any, x: np.ndarray, half: Any, alpha: Any, beta: Any, k: Any, gx: Any, first: Any,
                        last: Any) -> None:
    """The gradient of `lrn_within`, as `lrn_across_gradient`."""
    height, width = x.shape[1:]
    squares, ratios = np.empty((height, width), x.dtype), np.empty((height, width), x.dtype)
    room, s, power = np.empty(width + 2 * half, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    slope = 2 * alpha * x.dtype.type(beta)
    for plane in range(first, last):
        own, g, out = x[plane], gy[plane], gx[plane]
        for h in range(height):
            for w in range(width):
                squares[h, w] = own[h, w] * own[h, w]
        for h in range(height):
            square_window(squares, h, half, room, s)
            for w in range(width):
                s[w] = s[w] * alpha + k
            inverse_power(s, beta, power)
            for w in range(width):
                scaled = g[h, w] * power[w]
                out[h, w] = scaled
                ratios[h, w] = scaled * own[h, w] / s[w]
        for h in range(height):
            square_window(ratios, h, half, room, s)
            for w in range(width):
                out[h, w] -= slope * own[h, w] * s[w]
