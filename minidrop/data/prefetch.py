"""Prefetching: a thread that prepares the next batches while the current one is in use."""

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np


class Prefetcher:
    """Call fetch(n), fetch(n + 1), ... in a thread and return the results in this order.

    At most `depth` results wait at a time, besides the one being made; depth 0 calls `fetch` directly,
    without a thread. The thread starts with `start()` or the first `get()`, so that a `seek()` before it
    costs nothing. It is a daemon thread, and ends with `close()`, with the Prefetcher itself, or with the
    interpreter. `fetch` should not refer back to the owner of the Prefetcher, which would then live until
    `close()`. Raises ValueError for a depth below 0.
    """

    def __init__(self, fetch: Callable, depth: int, start: int = 0):
        if depth < 0:
            raise ValueError(f"Prefetcher needs depth >= 0; got {depth}")
        self._state = _State(fetch, int(depth), int(start))
        # Runs at interpreter exit too: a thread killed inside the HDF5 library could crash the process.
        self._finalizer = weakref.finalize(self, self._state.stop)

    @property
    def position(self) -> int:
        """The index of the result that the next `get()` returns."""
        return self._state.position

    def start(self) -> None:
        """Start reading ahead, if `depth` and `close()` allow it; `get()` does so, too."""
        self._state.start()

    def get(self) -> list[np.ndarray]:
        """Return the next result, such as a list of arrays, waiting for it if necessary.

        An exception of `fetch` is raised here with its traceback, after the results before it. The position
        does not change, so the next `get()` tries the same index again. Raises ValueError after `close()`.
        """
        return self._state.get()

    def seek(self, n: int) -> None:
        """Make fetch(n) the next result; prefetched results are discarded."""
        self._state.seek(int(n))

    def close(self) -> None:
        """Stop the thread. May be called twice."""
        self._finalizer()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


class _State:
    """What thread and Prefetcher share: separate, so that the thread does not keep the Prefetcher alive."""

    def __init__(self, fetch, depth, position):
        self.fetch, self.depth = fetch, depth
        self.position = position       # of the next get()
        self.ahead = position          # of the next fetch()
        self.generation = 0            # results of an older generation are discarded
        self.ready = deque()           # (result, exception) of positions position .. ahead - 1
        self.failed = self.closed = False
        self.thread = None
        self.make_locks()
        _states.add(self)

    def make_locks(self):
        self.changed = threading.Condition()
        self.reading = threading.RLock()        # held while the thread is in fetch()

    def start(self):
        with self.changed:
            if self.thread is None and self.depth and not self.closed:
                self.thread = threading.Thread(target=self.run, name="minidrop-prefetch", daemon=True)
                self.thread.start()

    def get(self):
        with self.changed:
            if self.closed:
                raise ValueError("this Prefetcher is closed; make a new one")
            if self.depth == 0:
                result = self.fetch(self.position)
                self.position += 1
                return result
            self.start()
            if self.failed and not self.ready:
                self.rewind(self.position)      # the error has already been raised: this call retries
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
            # Restarting at the current position would only discard good results.
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
            # Do not keep a result that has been handed out alive while waiting.
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
        """Reset in a forked child, which has no thread: what was prefetched is read again."""
        self.make_locks()
        self.thread = None
        self.rewind(self.position)


# A fork waits until no thread reads: a child would inherit the HDF5 library, and fetch(), in mid-operation.
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
