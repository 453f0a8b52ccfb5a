"""Ranks: what the ranks of a training agree on."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from minidrop import errors
from minidrop.errors import ConfigError, MinidropError, ParallelError, kind_of
from minidrop.patterns.part import Part
from minidrop.solver.communicator import Alone, Communicator, Mover, Pending
from minidrop.solver.wire import Wire

CHUNK = 1 << 20         # numbers that are added up at a time
_MOST_LETTERS = 16      # of the name of a call

# Work with pauses in which other ranks are waited for, and what it returns in the end.
Steps = Generator[Pending, None, Any]


class Ranks:
    """The ranks of a training, over a Communicator: sums, decisions and errors that are the same on all.

    All ranks call the same methods in the same order. Sums are taken in the order of the ranks, by one of
    them for all, so that every rank has the same bits, whatever MPI does on the way. `sent`: the bytes that
    this rank has sent to others. Raises ConfigError for what is no Communicator.
    """

    def __init__(self, communicator: Communicator | None = None):
        self.communicator: Communicator = Alone() if communicator is None else communicator
        if isinstance(self.communicator, type) or not isinstance(self.communicator, Communicator):
            raise ConfigError(f"communicator: expected what minidrop.solver.mpi.world() returns, got "
                              f"{kind_of(communicator)}")
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

    def add(self, flat: np.ndarray, chunk: int = CHUNK) -> None:
        """Replace a row of numbers by its sum over ranks, see `adding`."""
        Job(self.adding(flat, 0, chunk)).finish()

    def adding(self, flat: np.ndarray, tag: int, chunk: int = CHUNK, wire: Wire | None = None,
               mover: Mover | None = None) -> Steps:
        """The steps that replace a row of numbers by its sum over ranks.

        Of each chunk rank r adds the r-th part, in the row's dtype, and gives the others the sum; see
        `bytes_to_add` for what it sends. wire: what numbers are rounded to on their way. Each rank's part of
        a sum is what it computed itself, unrounded, until the sum is rounded for all. mover: what moves the
        arrays in place of the Communicator.
        """
        if self.alone:
            return
        own = self.rank
        chunks = [flat[first:first + chunk] for first in range(0, len(flat), chunk)]
        ways, exchanges = [], []
        for numbers in chunks:
            sent = self._parts(numbers if wire is None else wire.encode(numbers))
            found = [np.empty_like(sent[own]) for _ in sent]
            ways.append((sent, found))
            exchanges.append(self.start(sent, found, tag, mover))
        gathers = []
        for numbers, (sent, found), exchange in zip(chunks, ways, exchanges, strict=True):
            yield exchange
            mine = self._parts(numbers)[own]
            parts = found if wire is None else [wire.decode(part, flat.dtype) for part in found]
            parts[own] = mine
            total = parts[0] + parts[1]
            for part in parts[2:]:
                total += part
            sent[own][:] = total if wire is None else wire.encode(total)
            gathers.append(self.start([sent[own]] * self.size, sent, tag, mover))
        for numbers, (sent, _), gather in zip(chunks, ways, gathers, strict=True):
            yield gather
            if wire is not None:
                for part, coded in zip(self._parts(numbers), sent, strict=True):
                    part[:] = wire.decode(coded, flat.dtype)

    def _parts(self, row):
        """Return the parts of a row that each rank adds."""
        length = -(-len(row) // self.size)
        return [row[rank * length:(rank + 1) * length] for rank in range(self.size)]

    def start(self, parts: Sequence[np.ndarray], found: Sequence[np.ndarray], tag: int,
              mover: Mover | None = None) -> Pending:
        """Begin to send parts[r] to rank r and to receive found[r] from it, see `Communicator.start`."""
        self.sent += sum(part.nbytes for rank, part in enumerate(parts) if rank != self.rank)
        return (mover or self.communicator).start(parts, found, tag)

    def gathering(self, row: np.ndarray, tag: int) -> Steps:
        """The steps that find (size, n): the rows of all ranks, which have one length."""
        found = np.empty((self.size, len(row)), row.dtype)
        found[self.rank] = row
        if not self.alone:
            yield self.start([row] * self.size, list(found), tag)
        return found

    def listing(self, row: np.ndarray, tag: int) -> Steps:
        """The steps that find a row of numbers from each rank; they may differ in length."""
        lengths = yield from self.gathering(np.array([len(row)], np.int64), tag)
        found = [np.empty(length, row.dtype) for length in lengths[:, 0].tolist()]
        found[self.rank] = row
        if not self.alone:
            yield self.start([row] * self.size, found, tag)
        return found

    def rows(self, row: np.ndarray) -> list[np.ndarray]:
        """Return a row of numbers from each rank; they may differ in length."""
        return Job(self.listing(row, 0)).finish()

    def texts(self, text: str) -> list[str]:
        """Return a text from each rank."""
        # Names of files may hold bytes that are no text: lone surrogates.
        row = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8)
        return [bytes(row).decode(errors="surrogatepass") for row in self.rows(row)]

    def of_root(self, text: str = "") -> str:
        """Return the text of rank 0."""
        return text if self.alone else self.texts(text)[0]

    def meet(self, call: str) -> None:
        """Raise ParallelError, on all ranks, unless all of them make this call: in their own they would wait.

        Of ranks that have gone on to other work it hears nothing.
        """
        if self.alone:
            return
        names = np.zeros((1, _MOST_LETTERS), np.uint8)
        names[0, :len(call)] = np.frombuffer(call.encode(), np.uint8)
        calls = [bytes(row[row > 0]).decode() for row in self.gather(names)[:, 0]]
        if other := next((rank for rank, name in enumerate(calls) if name != calls[0]), 0):
            raise ParallelError(f"rank 0 calls {calls[0]}, rank {other} calls {calls[other]}: every rank has "
                                f"to make the same calls in the same order; it is rank 0 alone that writes "
                                f"files all the same")

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
        told = [type(error).__name__, str(error), *getattr(error, "said", ())]
        kind, text, *lines = json.loads(self.texts(json.dumps(told))[first])
        known = getattr(errors, kind, None)
        cause = error if self.rank == first else None
        if not (isinstance(known, type) and issubclass(known, MinidropError)):
            raise ParallelError(f"rank {first}: {kind}: {text}") from cause
        raise known.saying([f"rank {first}: {line}" for line in lines or [text]]) from cause

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
        if part is None:
            return array
        before, length, behind = array.shape[:part.axis], array.shape[part.axis], array.shape[part.axis + 1:]
        runs = [own.reshape(*before, length // part.count, part.count, *behind) for own in self.gather(array)]
        return np.concatenate(runs, axis=part.axis + 1).reshape(part.whole_shape(array.shape))


def _in_order(parts):
    """Return the sum of arrays, one after the other."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


class Job:
    """Steps that are taken as far as what they wait for is there."""

    def __init__(self, steps: Steps):
        self._steps, self._result = steps, None
        self._pending: Pending | None = None
        self._go_on()

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return self._pending is None

    def advance(self) -> bool:
        """Take the steps that need not wait; returns whether none is left."""
        while self._pending is not None and self._pending.ready():
            self._go_on()
        return self.done

    def wait(self) -> None:
        """Wait for what the next step needs, and take it."""
        if self._pending is not None:
            self._pending.wait()
            self._go_on()

    def finish(self) -> Any:
        """Take all steps, and return what they found."""
        while not self.done:
            self.wait()
        return self._result

    def _go_on(self):
        try:
            self._pending = next(self._steps)
        except StopIteration as end:
            self._pending, self._result = None, end.value


def bytes_to_add(numbers: int, itemsize: int, ranks: int, chunk: int = CHUNK, rank: int = 0) -> int:
    """Return the bytes that a rank sends to add a row of so many numbers, see `Ranks.adding`.

    Of a chunk of m numbers, of which it adds p: m - p to be added by others, and p sums to each of them.
    """
    total = 0
    for length in [chunk] * (numbers // chunk) + [numbers % chunk]:
        part = -(-length // ranks)
        own = min(part, max(0, length - rank * part))
        total += length - own + (ranks - 1) * own
    return total * itemsize
