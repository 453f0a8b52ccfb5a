"""The threads of `threads`, for thin products that follow each other closely; see cpu_thin.py."""

from __future__ import annotations

import itertools
import os
import threading

import numpy as np

from minidrop.kernels import threads
from minidrop.kernels.cpu_thin import board, lead, present, serve

_LEAST_TERMS = 1 << 21      # of a product that a second thread makes faster


class Crew:
    """Who computes thin products together: a thread that leads, and those that serve it."""

    def __init__(self):
        # Held by who leads. A Ctrl-C at the wrong moment may leave it held: its thread leads on all the same.
        self._lock = threading.RLock()
        self._threads = threads.COUNT       # the board has room for so many
        self._board, self._tickets = board(self._threads), itertools.count(1)
        self._interrupts = np.frombuffer(threads.interrupts, np.int64)
        self._kinds = {}

    def multiply(self, a: np.ndarray, at: np.ndarray, packed: np.ndarray, y: np.ndarray,
                 form: tuple) -> None:
        """y = a op(W) with op(W) packed; see `cpu_thin.lead`."""
        zero = y.dtype.type(0)
        terms = y.shape[0] * packed.size
        if threads.COUNT < 2 or terms < _LEAST_TERMS or threads.is_worker() or not self._lock.acquire(False):
            lead(board(1), 1, 0, 1, a, at, packed, y, zero, form)
            return
        try:
            kind = self._kinds.setdefault((y.dtype.char, *map(len, form)), len(self._kinds))
            members = min(threads.COUNT, self._threads, packed.shape[0])
            for thread in range(1, members):
                self._call(thread, kind, zero, form)
            lead(self._board, next(self._tickets), kind, members, a, at, packed, y, zero, form)
        finally:
            self._lock.release()

    def _call(self, thread, kind, zero, form):
        """Have a thread serve products of a kind unless it serves already."""
        place = present(thread, self._threads)
        if self._board[place]:
            return
        self._board[place] = 1
        try:
            threads.ask(serve, self._board, thread, kind, place, self._interrupts, threads.interrupts[0],
                        zero, form)
        except BaseException:       # there are no more threads, or Ctrl-C: ask again next time
            self._board[place] = 0
            raise


crew = Crew()


def _renew():
    """A forked child has none of its parent's threads, and one of them may have led."""
    crew.__init__()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
