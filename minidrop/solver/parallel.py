"""Gradients of several ranks, added up as they are: blocks of what is kept travel, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from minidrop.autograd import Parameter, Tensor, Watch
from minidrop.backend import Backend
from minidrop.kept import Kept
from minidrop.solver.engines import Engine, HostEngine
from minidrop.solver.places import Packed, Place, places_of, read, written
from minidrop.solver.ranks import Job, Ranks, Steps

BUCKET = 1 << 18        # numbers of parameters whose gradients are added up together
_FAILED = np.array([-1], np.int64)      # what a rank without gradients tells of its blocks


class GradientSum:
    """Adds up the gradients of all ranks: each rank's blocks go into rows of numbers, one for each bucket.

    A bucket has parameters in their order, last ones first, as backward reaches them, until they have
    `bucket` numbers. All ranks draw the same patterns, so that mostly they have the same blocks, and then a
    short hash says so. Otherwise they tell each other which they have: groups of samples that are not on
    every rank, rows of an Embed that only some ranks read. What travels is `common_places` of all of them.

    `early`: whether buckets travel while backward still runs; the sums are the same, bit for bit. `engine`:
    how they travel; through the host unless it is given. `entries`, `whole_entries`: how many numbers
    travelled last, and how many all gradients have. `sent`: the bytes that this rank sent for it,
    `bytes_to_add` and what the ranks tell each other of their blocks. `listeners`: functions called with
    (number of the bucket, whether it begins to travel or has been added up).
    """

    def __init__(self, ranks: Ranks, backend: Backend, bucket: int = BUCKET, early: bool = True,
                 engine: Engine | None = None):
        self.ranks, self.backend, self.bucket, self.early = ranks, backend, bucket, early
        self.engine: Engine = engine or HostEngine(ranks, backend)
        self.entries = self.whole_entries = self.sent = 0
        self.listeners: list[Callable[[int, bool], object]] = []

    def begin(self, parameters: Mapping[str, Parameter], factor: float,
              moving: Sequence[Kept] = ()) -> Reduction:
        """Return what replaces each gradient by `factor` times its sum over ranks, once it is complete.

        moving: the sets that a captured step reads on the device, as all ranks list them.
        """
        return Reduction(self, list(parameters.values()), factor, moving)

    def add(self, parameters: Mapping[str, Parameter], factor: float) -> None:
        """Replace each gradient by `factor` times its sum over ranks."""
        self.begin(parameters, factor).finish()

    def tell(self, number: int, begins: bool) -> None:
        """Tell the listeners of a bucket."""
        for listener in self.listeners:
            listener(number, begins)

    def note(self, entries: int, whole_entries: int, sent: int) -> None:
        """Keep what a reduction sent."""
        self.entries, self.whole_entries, self.sent = entries, whole_entries, sent


class Reduction(Watch):
    """The sum of one iteration's gradients over ranks: as a backward pass goes on, or at its end.

    It watches the last backward pass of an iteration. Each bucket travels as soon as its gradients are
    complete; the last one waits for `finish`, and so it can say of a rank that its pass has failed. Buckets
    do not wait for each other, and the ranks may begin them in different orders, unless the engine needs one:
    then a bucket takes its turn when those before it have begun, or are known to fail.
    """

    def __init__(self, total: GradientSum, parameters: list[Parameter], factor: float,
                 moving: Sequence[Kept] = ()):
        self.total, self.ranks, self.factor, self.moving = total, total.ranks, factor, moving
        self.buckets = _buckets(parameters, total.bucket)
        self.number = {id(parameter): n for n, bucket in enumerate(self.buckets) for parameter in bucket}
        self.missing = [{id(parameter) for parameter in bucket} for bucket in self.buckets]
        self.jobs: dict[int, Job] = {}
        self.open: list[int] = []           # buckets that have begun to travel, and have not been added up
        self.settled: set[int] = set()      # buckets that have been given to the engine, or never will be
        self.entries, self.before = 0, self.ranks.sent
        self.error: Exception | None = None
        self.failed = self.broken = False   # broken: what other ranks cannot be told of

    # -- while backward runs ---------------------------------------------------------------------------------
    def begin(self, leaves: Iterable[Tensor]) -> None:
        """Send what this pass adds nothing to."""
        reached = {id(leaf) for leaf in leaves}
        for bucket in self.buckets:
            for parameter in bucket:
                if id(parameter) not in reached:
                    self.complete(parameter)

    def complete(self, leaf: Tensor) -> None:
        """Send the bucket of a leaf, if this was the last of it."""
        number = self.number.get(id(leaf))
        if number is not None:
            self.missing[number].discard(id(leaf))
            if not self.missing[number] and number < len(self.buckets) - 1:
                self._send(number)

    def has_run(self) -> None:
        """Let the buckets go on that are under way."""
        for number in list(self.open):
            self._go_on(number, self.jobs[number].advance)

    # -- in the end ------------------------------------------------------------------------------------------
    def finish(self, error: Exception | None = None) -> None:
        """Return when all gradients are added up. If backward has failed on any rank, all raise its error."""
        if self.broken and error is not None:
            raise error
        self.error, self.failed = error, error is not None
        with self.total.backend.active():
            for number in range(len(self.buckets)):
                if number not in self.jobs:
                    self._send(number)
            while self.open:
                first = min(self.open)          # always has its turn
                self._go_on(first, self.jobs[first].wait)
                self.has_run()
        if self.failed:
            self.ranks.check(self.error)
        self.total.note(self.entries, sum(parameter.size for bucket in self.buckets for parameter in bucket),
                        self.ranks.sent - self.before)

    def _send(self, number):
        self.total.tell(number, True)
        self.open.append(number)
        self._go_on(number, lambda: self.jobs.update({number: Job(self._steps(number))}))

    def _go_on(self, number, step):
        """Take a step of a bucket; what it raises no other rank can be told of."""
        try:
            step()
        except Exception:
            self.broken = True
            self.total.engine.close()
            raise
        if self.jobs[number].done:
            self.open.remove(number)
            self.total.tell(number, False)

    def _steps(self, number) -> Steps:
        """The steps that add up the gradients of a bucket."""
        bucket, backend = self.buckets[number], self.total.backend
        if backend.capturing:       # see `_told`: a rank whose pass has failed has this order, too
            yield _Turn(self, number)
        places = yield from self._places(bucket, number)
        if self.total.engine.in_order:
            yield _Turn(self, number)
        self.settled.add(number)
        if places is None:
            self.failed = True
            return
        packed = Packed(backend, bucket, places, self.factor)
        self.entries += packed.entries
        if packed.entries:
            yield from self.total.engine.adding(packed.flat, number, backend.capturing)
            packed.give()

    def _places(self, bucket, tag) -> Steps:
        """The steps that find the places of each gradient of a bucket; None if backward has failed on a rank.
        """
        own = None if self.error is not None else [places_of(parameter) for parameter in bucket]
        row = _FAILED if own is None else written(own, self.moving)
        digest = np.frombuffer(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), np.uint8)
        digests = yield from self._told(self.ranks.gathering(digest, tag))
        if (digests == digest).all():
            return own
        found: list[list[Place]] = [[] for _ in bucket]
        for other in (yield from self._told(self.ranks.listing(row, tag))):
            if np.array_equal(other, _FAILED):
                return None
            for places, more in zip(found, read(other, len(bucket), self.moving), strict=True):
                places += more
        return found

    def _told(self, steps):
        """The steps of what ranks tell each other: all at once in a captured step, where order lasts."""
        if self.total.backend.capturing:
            return Job(steps).finish()
        return (yield from steps)


class _Turn:
    """What a bucket waits for: that all before it are settled."""

    def __init__(self, reduction: Reduction, number: int):
        self._settled, self._before = reduction.settled, set(range(number))

    def ready(self) -> bool:
        return self._before <= self._settled

    def wait(self) -> None:
        """Return at once: only the first bucket that is open is waited for."""


def _buckets(parameters, most):
    """Return the parameters, last ones first, in lists of about so many numbers; at least one list."""
    buckets: list[list[Parameter]] = [[]]
    for parameter in reversed(parameters):
        if sum(one.size for one in buckets[-1]) >= most:
            buckets.append([])
        buckets[-1].append(parameter)
    return buckets
