"""Reading ahead: a thread that prepares the next batches while the current one is used."""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np


class Prefetcher:
    """Call fetch(n), fetch(n + 1), ... in a thread and hand the results out in this order.

    At most `depth` results wait at a time, besides the one being made; depth 0 calls `fetch` directly,
    without a thread. The thread starts with the first `get()`, so that a `seek()` before it costs nothing. It
    is a daemon, and it ends with `close()`, with the Prefetcher itself, or with the interpreter. `fetch`
    should not refer back to the object that owns the Prefetcher, or that object lives until `close()`.
    """

    def __init__(self, fetch: Callable, depth: int, start: int = 0):
        if depth < 0:
            raise ValueError(f"Prefetcher needs depth >= 0; got {depth}")
        self._state = _State(fetch, int(depth), int(start))
        # Runs at interpreter exit too: a thread cut off inside the HDF5 library could bring the process down.
        self._finalizer = weakref.finalize(self, self._state.stop)

    @property
    def position(self) -> int:
        """The index of what the next `get()` returns."""
        return self._state.position

    def get(self) -> list[np.ndarray]:
        """Return the next result, waiting for it if need be.

        An exception of `fetch` is raised here with its traceback, after the results that came before it. The
        position stays, so that the next `get()` tries the same index again. Raises ValueError after
        `close()`.
        """
        return self._state.get()

    def seek(self, n: int) -> None:
        """Make fetch(n) the next result; what was read ahead is thrown away."""
        self._state.seek(int(n))

    def close(self) -> None:
        """Stop the thread. May be called twice."""
        self._finalizer()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


class _State:
    """What thread and Prefetcher share; apart, so that the thread does not keep the Prefetcher alive."""

    def __init__(self, fetch, depth, position):
        self.fetch, self.depth = fetch, depth
        self.position = position       # of the next get()
        self.ahead = position          # of the next fetch()
        self.generation = 0            # results of an older generation are thrown away
        self.ready = deque()           # (result, exception) of positions position .. ahead - 1
        self.failed = self.closed = False
        self.thread = None
        self.make_locks()
        _states.add(self)

    def make_locks(self):
        self.changed = threading.Condition()
        self.reading = threading.RLock()        # held while the thread is in fetch()

    def get(self):
        with self.changed:
            if self.closed:
                raise ValueError("this Prefetcher is closed; make a new one")
            if self.depth == 0:
                result = self.fetch(self.position)
                self.position += 1
                return result
            if self.thread is None:
                self.thread = threading.Thread(target=self.run, name="minidrop-prefetch", daemon=True)
                self.thread.start()
            if self.failed and not self.ready:
                self.rewind(self.position)      # the error has been raised: this call tries again
                self.changed.notify_all()
            while not self.ready and not self.closed:
                self.changed.wait()
            if self.closed:
                raise ValueError("this Prefetcher was closed while a result was awaited; make a new one")
            result, error = self.ready.popleft()
            if error is None:
                self.position += 1
            self.changed.notify_all()
        if error is not None:
            raise error
        return result

    def seek(self, n):
        with self.changed:
            # A restart at the place where it stands already would only throw good work away.
            if n != self.position:
                self.rewind(n)
                self.changed.notify_all()

    def rewind(self, n):
        self.position = self.ahead = n
        self.generation += 1
        self.failed = False
        self.ready.clear()

    def run(self):
        result = error = None
        while True:
            with self.changed:
                while not self.closed and (self.failed or len(self.ready) >= self.depth):
                    self.changed.wait()
                if self.closed:
                    return
                n, generation = self.ahead, self.generation
            try:
                with self.reading:
                    result = self.fetch(n)
            except BaseException as caught:
                error = caught
            with self.changed:
                if generation == self.generation:
                    self.ready.append((result, error))
                    self.ahead += 1
                    self.failed = error is not None
                    self.changed.notify_all()
            # Waiting for the next turn must not keep what has been handed out alive.
            result = error = None

    def stop(self):
        with self.changed:
            self.closed = True
            self.ready.clear()
            self.changed.notify_all()
            thread = self.thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5)

    def go_on_alone(self):
        """In a forked child: there is no thread any more, and what it read ahead is read again."""
        self.make_locks()
        self.thread = None
        self.rewind(self.position)


# A fork waits until no thread reads: a child would find the HDF5 library, and fetch(), in the midst of it.
_states: weakref.WeakSet = weakref.WeakSet()
_paused: list[_State] = []


def _pause():
    _paused[:] = _states
    for state in _paused:
        state.reading.acquire()


def _go_on():
    for state in _paused:
        state.reading.release()
    _paused.clear()


def _go_on_in_child():
    for state in _paused:
        state.go_on_alone()
    _paused.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause, after_in_parent=_go_on, after_in_child=_go_on_in_child)
