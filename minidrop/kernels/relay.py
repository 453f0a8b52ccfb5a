"""Parts of a call that other threads take at once: they wait for them in compiled code.

A thread that sleeps takes some 40 microseconds to wake, and the one that waits for it asleep takes as long
again: a second thread is then not worth its while for less than a tenth of a millisecond. So a thread that
has done its part waits a while for the next one without sleeping, and who called it waits likewise. Neither
has the interpreter then, which the other needs to go on.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import numpy as np

from minidrop.kernels.cpu import jit
from minidrop.kernels.vectors import BITS, give_way, load, pause, store, swap, ticks

IS_KNOWN = bool(BITS) and os.name == "posix"    # how to wait here
LINE = 8                            # words of a cache line: each thread's word has one of its own
ASLEEP, WAITS, CALLED = range(3)    # or elsewhere; for a part; it has a part to do
_PATIENCE = 1 << 21                 # ticks, about 1 ms
_SPINS = 64                         # pauses before another thread may have the core


@jit
def call(words: Any, parts: Any) -> None:
    """Call the threads 1 .. parts - 1, as far as they wait."""
    for thread in range(1, parts):
        swap(words, LINE * thread, WAITS, CALLED)


@jit
def wait(words: Any, parts: Any) -> None:
    """Return when the threads 1 .. parts - 1 have done what they were called for."""
    spins = 0
    for thread in range(1, parts):
        while load(words, LINE * thread) == CALLED:
            pause()
            spins += 1
            if spins % _SPINS == 0:
                give_way()


@jit
def attend(words: Any, me: Any, news: Any) -> Any:
    """Wait to be called; return whether that was so, or other tasks have come, or nothing for a while."""
    store(words, LINE * me, WAITS)
    since, spins = ticks(), 0
    while load(words, LINE * me) == WAITS:
        if (load(words, 0) != news or ticks() - since > _PATIENCE) and swap(words, LINE * me, WAITS, ASLEEP):
            return False
        pause()
        spins += 1
        if spins % _SPINS == 0:
            give_way()
    return True


class Relay:
    """The threads 0, which calls, to `threads` - 1: a word for each says where it stands.

    The first word changes when tasks of another kind have come.
    """

    def __init__(self, threads: int):
        self.threads, self._words = threads, np.zeros(LINE * threads, np.int64)
        # Held by who calls. A Ctrl-C at the wrong moment may leave it held: its thread calls on all the same.
        self._lock, self._is_called = threading.RLock(), False
        self._parts: list[tuple | None] = [None] * threads
        self._errors: list[BaseException] = []
        self._numbers = itertools.count(1)
        wait(self._words, 1)        # compiled from here on

    def join(self) -> int | None:
        """Return the number of the thread that asks, None if there are enough. No two have the same."""
        number = next(self._numbers)
        return number if number < self.threads else None

    def news(self) -> None:
        """Have the threads that wait look for other tasks."""
        self._words[0] += 1

    def share(self, kernel: Callable, bounds: Sequence[int], args: tuple) -> bool:
        """Call kernel(*args, first, last) for neighbours of `bounds`, each by a thread; raise their errors.

        Returns False, and does nothing, unless all these threads wait.
        """
        parts = len(bounds) - 1
        if parts > self.threads or not self._lock.acquire(False):
            return False
        if self._is_called:         # by this thread, for a part of its own
            self._lock.release()
            return False
        try:
            self._is_called = True
            if any(self._words[LINE * part] != WAITS for part in range(1, parts)):
                return False
            for part in range(1, parts):
                self._parts[part] = kernel, (*args, *bounds[part:part + 2])
            try:
                if hasattr(kernel, "py_func"):
                    calling(kernel)(self._words, parts, *args, *bounds[:2])
                else:
                    call(self._words, parts)
                    kernel(*args, *bounds[:2])
            finally:
                # No thread may write to `args` after this call. An interrupt comes before compiled code or
                # after it, and nothing stands between: none leaves this out.
                wait(self._words, parts)
            for part in range(1, parts):
                left = self._parts[part]
                if left is not None:    # the thread went to sleep before it was called
                    left[0](*left[1])
            if self._errors:
                raise self._errors[0]
            return True
        finally:
            self._parts[:], self._errors, self._is_called = [None] * self.threads, [], False
            self._lock.release()

    def attend(self, me: int, tasks: queue.SimpleQueue) -> bool:
        """Wait for a part, as thread number `me`, and do it; return False if none comes, or a task does.

        That it is done shows when the thread attends again.
        """
        news = int(self._words[0])
        if not tasks.empty() or not attend(self._words, me, news):
            return False
        (kernel, args), self._parts[me] = self._parts[me], None     # type: ignore[misc]
        try:
            kernel(*args)
        except BaseException as error:          # passed to the caller
            self._errors.append(error)
        return True


def _calling(words, parts, *args):
    call(words, parts)
    kernel(*args)           # noqa: F821 (a global of each copy)


_copies: dict[Any, Callable] = {}


def calling(kernel: Any) -> Callable:
    """Return a compiled function of (words, parts, *args): `call`, then kernel(*args).

    Other threads are called when compiled code has begun, and the interpreter is theirs. Where the kernel is
    cached on disk, so is the function, as if it stood in the kernel's file.
    """
    found = _copies.get(kernel)
    if found is None:
        own, name = kernel.py_func, f"calling_{kernel.py_func.__name__}"
        code = _calling.__code__.replace(co_filename=own.__code__.co_filename, co_name=name,
                                         co_firstlineno=own.__code__.co_firstlineno)
        copy = FunctionType(code, {"call": call, "kernel": kernel, "__name__": own.__module__}, name)
        copy.__module__, copy.__qualname__ = own.__module__, name
        found = _copies[kernel] = jit(copy, kernel.stats.cache_path is not None)
    return found
