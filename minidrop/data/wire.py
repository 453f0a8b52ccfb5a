"""The wire format of protocol buffers, read without copying: for messages that hold millions of numbers.

protobuf's own classes make a Python object of each number; here a run of numbers is one piece of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minidrop.data.file_view import Piece, in_memory
from minidrop.data.limits import how_to_raise, raised

MOST_FIELDS = 1 << 18           # of one file; a run of numbers counts as one; a net of 500 layers has 8,000

# How a value is stored: a number of up to 64 bits, 8 bytes, a length and as many bytes, 4 bytes.
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
_SIZES = {FOUR: 4, EIGHT: 8}


class Wire:
    """Reads the messages of one file, and counts their fields: a small file must not keep it busy for long.

    What is wrong with the file is a ValueError whose text goes on from "the file".
    """

    def __init__(self) -> None:
        self.left = raised(MOST_FIELDS)

    def fields(self, raw: Piece) -> Iterator[tuple[int, int, Any]]:
        """Yield (field number, kind, value) of a serialized message.

        The value is an int of kind VARINT, else a piece of `raw`; fields of 4 or 8 bytes that follow one
        another with one number are one value. Raises ValueError if it is no message.
        """
        at = 0
        while at < len(raw):
            self.left -= 1
            if self.left < 0:
                raise ValueError(f"has more than {raised(MOST_FIELDS)} fields; {how_to_raise()}")
            start = at
            key, at = varint(raw, at)
            field, kind = key >> 3, key & 7
            if kind == VARINT:
                value, at = varint(raw, at)
                yield field, kind, value
                continue
            if kind in _SIZES:
                count = _run(raw, start, at - start, _SIZES[kind])
                value = _joined(raw, start, at - start, _SIZES[kind], count)
                at = start + count * (at - start + _SIZES[kind])
                yield field, kind, value
                continue
            if kind != BYTES:
                raise ValueError(f"has a field of the unknown kind {kind} at byte {start}")
            size, at = varint(raw, at)
            if size > len(raw) - at:
                raise ValueError(f"ends within a field of {size} bytes; it is cut short, or no such file")
            yield field, kind, raw[at:at + size]
            at += size


def varint(raw: Piece, at: int) -> tuple[int, int]:
    """Return (number, place behind it): seven bits a byte, the lowest first, while the top bit is set."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError("ends within a number; it is cut short, or no such file")
        number |= (raw[at] & 127) << shift
        at += 1
        if raw[at - 1] < 128:
            return number, at
    raise ValueError(f"has a number of more than ten bytes at byte {at - 10}")


def as_varint(number: int) -> bytes:
    """Return a number from 0 on as `varint` reads it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def as_key(field: int, kind: int) -> bytes:
    """Return what stands before a value."""
    return as_varint(field << 3 | kind)


def _run(raw, start, key, size):
    """Return how many fields of `size` bytes follow one another with the key at `start`, of `key` bytes."""
    whole = (len(raw) - start) // (key + size)
    if not whole:
        raise ValueError(f"ends within a field of {size} bytes; it is cut short, or no such file")
    wanted, found, step = bytes(raw[start:start + key]), 1, 8
    if bytes(raw[start + key + size:start + 2 * key + size]) != wanted:
        return 1
    while found < whole:        # in growing steps, so that a short run costs little before a long rest
        step = min(2 * step, whole - found)
        begin = start + found * (key + size)
        keys = np.frombuffer(in_memory(raw[begin:begin + step * (key + size)]), np.uint8)
        keys = keys.reshape(step, -1)[:, :key]
        same = (keys == np.frombuffer(wanted, np.uint8)).all(axis=1)
        if not same.all():
            return found + int(same.argmin())
        found += step
    return found


def _joined(raw, start, key, size, count):
    """Return the values of such a run, without their keys; those of several fields are in memory."""
    if count == 1:
        return raw[start + key:start + key + size]
    table = np.frombuffer(in_memory(raw[start:start + count * (key + size)]), np.uint8).reshape(count, -1)
    return memoryview(np.ascontiguousarray(table[:, key:]).reshape(-1))
