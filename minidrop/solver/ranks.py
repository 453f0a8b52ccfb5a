"""Ranks: what the ranks of a training agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidrop import errors
from minidrop.errors import MinidropError, ParallelError
from minidrop.patterns.part import Part
from minidrop.solver.communicator import Alone, Communicator

BUCKET = 1 << 22        # numbers that are exchanged at a time


class Ranks:
    """The ranks of a training, over a Communicator: sums, decisions and errors that are the same on all.

    All ranks call the same methods in the same order. Sums are taken in the order of the ranks, by one of
    them for all, so that every rank has the same bits, whatever MPI does on the way. `sent`: the bytes that
    this rank has sent to others.
    """

    def __init__(self, communicator: Communicator | None = None):
        self.communicator: Communicator = communicator or Alone()
        self.rank, self.size = self.communicator.rank, self.communicator.size
        self.sent = 0

    @property
    def alone(self) -> bool:
        """Whether there is a single rank."""
        return self.size == 1

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which alone writes files."""
        return self.rank == 0

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Return (size, *shape): the arrays of all ranks, which have the same shape."""
        self.sent += array.nbytes * (self.size - 1)
        return self.communicator.gather(array)

    def total(self, values: Any) -> np.ndarray:
        """Return the sum over ranks of a few numbers, as a float64 array."""
        values = np.asarray(values, np.float64)
        return values if self.alone else _in_order(self.gather(values))

    def add(self, flat: np.ndarray, bucket: int = BUCKET) -> int:
        """Replace a row of numbers by its sum over ranks, in its own dtype; returns the bytes sent.

        Of each bucket rank r adds the r-th part and gives the others the sum, so that a rank sends
        2 (size - 1) ceil(n / size) numbers for a bucket of n, see `bytes_to_add`.
        """
        before = self.sent
        for first in range(0, 0 if self.alone else len(flat), bucket):
            part = flat[first:first + bucket]
            send = np.zeros((self.size, -(-len(part) // self.size)), flat.dtype)
            send.reshape(-1)[:len(part)] = part
            self.sent += send[0].nbytes * (self.size - 1)
            own = _in_order(self.communicator.exchange(send))
            part[:] = self.gather(own).reshape(-1)[:len(part)]
        return self.sent - before

    def rows(self, row: np.ndarray) -> list[np.ndarray]:
        """Return a row of numbers from each rank; they may differ in length."""
        lengths = self.gather(np.array([len(row)], np.int64))[:, 0]
        padded = np.zeros(lengths.max(), row.dtype)
        padded[:len(row)] = row
        return [every[:n] for every, n in zip(self.gather(padded), lengths, strict=True)]

    def texts(self, text: str) -> list[str]:
        """Return a text from each rank."""
        return [bytes(row).decode() for row in self.rows(np.frombuffer(text.encode(), np.uint8))]

    def of_root(self, text: str = "") -> str:
        """Return the text of rank 0."""
        return text if self.alone else self.texts(text)[0]

    def any(self, flag: object) -> bool:
        """Whether the flag of any rank is true."""
        return self.check(None, flag)

    def check(self, error: Exception | None, flag: object = False) -> bool:
        """Raise the error of the first rank that has one, on all ranks; else return whether any flag is true.

        On other ranks the error is of the same type if it is one of minidrop's, else a ParallelError.
        """
        if self.alone:
            if error is not None:
                raise error
            return bool(flag)
        flags = self.gather(np.array([error is not None, bool(flag)], np.uint8))
        if not flags[:, 0].any():
            return bool(flags[:, 1].any())
        first = int(flags[:, 0].argmax())
        kind, _, text = self.texts(f"{type(error).__name__}\n{error}")[first].partition("\n")
        known = getattr(errors, kind, None)
        cause = error if self.rank == first else None
        if isinstance(known, type) and issubclass(known, MinidropError):
            raise known(f"rank {first}: {text}") from cause
        raise ParallelError(f"rank {first}: {kind}: {text}") from cause

    def together(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns on this rank; if it fails on any, all raise that error."""
        result, failed = self._tried(work)
        self.check(failed)
        return result

    def agreed(self, work: Callable[[], bool]) -> bool:
        """Return whether `work` returns true on all ranks; if it fails on any, all raise that error."""
        result, failed = self._tried(work)
        return not self.check(failed, not result)

    def _tried(self, work):
        if self.alone:
            return work(), None
        try:
            return work(), None
        except Exception as error:      # raised by `check`, on all ranks
            return None, error

    def at_root(self, work: Callable[[], object]) -> None:
        """Let rank 0 work; if it fails, all raise that error."""
        self.together(work if self.is_root else lambda: None)

    def whole(self, array: np.ndarray, part: Part | None) -> np.ndarray:
        """Return the array of the whole batch of which each rank has a part; the array itself for None."""
        return array if part is None else np.concatenate(list(self.gather(array)), axis=part.axis)


def _in_order(parts):
    """Return the sum of arrays, one after the other."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


def bytes_to_add(numbers: int, itemsize: int, ranks: int, bucket: int = BUCKET) -> int:
    """Return the bytes that each rank sends to add a row of so many numbers, see `Ranks.add`."""
    full, rest = divmod(numbers, bucket)
    return 2 * (ranks - 1) * itemsize * (full * -(-bucket // ranks) + -(-rest // ranks))
