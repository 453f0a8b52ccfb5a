"""Engines: the ways that gradients take between the devices of the ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from minidrop.backend import Backend
from minidrop.errors import ParallelError
from minidrop.solver.communicator import Communicator
from minidrop.solver.ranks import CHUNK, Ranks, Steps
from minidrop.solver.wire import Wire


class Engine(Protocol):
    """Adds up rows of numbers of all ranks. `in_order`: whether all begin their rows in one order."""

    in_order: bool

    def adding(self, flat: np.ndarray, tag: int, queued: bool = False) -> Steps:
        """The steps that replace a row on the device by its sum over ranks, see `Ranks.adding`.

        queued: the last step lets the device wait, and not the host, as a captured step needs.
        """

    def close(self) -> None:
        """End what is under way: no sum is needed any more."""


class HostEngine:
    """Rows travel from host to host, by the ranks' Communicator."""

    in_order = False

    def __init__(self, ranks: Ranks, backend: Backend, chunk: int = CHUNK, wire: Wire | None = None):
        self.ranks, self.backend, self.chunk, self.wire = ranks, backend, chunk, wire

    def adding(self, flat: np.ndarray, tag: int, queued: bool = False) -> Steps:
        """The steps that replace a row by its sum over ranks; a captured step can take none of them."""
        host = self.backend.to_host(flat)
        yield from self.ranks.adding(host, tag, self.chunk, self.wire)
        if host is not flat:
            flat[...] = self.backend.asarray(host)

    def close(self) -> None:
        """Do nothing: nothing outlives an error."""


class DeviceEngine:
    """Rows travel from GPU to GPU, on a stream of their own beside the one that computes.

    The parts are those of `Ranks.adding`, added up in the order of the ranks: sums have the bits that they
    have through the host. The host waits as the Communicator does, so that a rank that is gone is noticed.
    """

    in_order = True     # NCCL pairs messages by their order

    def __init__(self, ranks: Ranks, link: Any, chunk: int = CHUNK, wire: Wire | None = None):
        self.ranks, self.link, self.chunk, self.wire = ranks, link, chunk, wire

    def adding(self, flat: np.ndarray, tag: int, queued: bool = False) -> Steps:
        """The steps that replace a row by its sum over ranks."""
        mark = self._queue(flat, tag, self.wire)
        yield _Joined(self.link, mark) if queued else _Marked(self.ranks.communicator, mark)

    def _queue(self, flat, tag, wire):
        with self.link.apart():
            for _ in self.ranks.adding(flat, tag, self.chunk, wire, self.link):
                pass            # each step stands behind the one before in the link's stream
            return self.link.mark()

    def add_queued(self, flat: np.ndarray) -> None:
        """Queue replacing a row by its sum over ranks, unrounded; the stream that computes waits for it."""
        self.link.join(self._queue(flat, 0, None))

    def mark(self) -> Any:
        """Return a mark of all that the stream that computes has so far."""
        return self.link.mark_so_far()

    def wait_for(self, mark: Any) -> None:
        """Wait for a mark as the Communicator waits; where another rank does not come, end the link."""
        try:
            self.ranks.communicator.wait(mark)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """End the link."""
        self.link.close()


class _Marked:
    """A transfer that has ended when a mark of the link's stream is done."""

    def __init__(self, communicator: Communicator, mark: Any):
        self._communicator, self._mark = communicator, mark

    def ready(self) -> bool:
        return self._mark.Test()

    def wait(self) -> None:
        self._communicator.wait(self._mark)


class _Joined:
    """A transfer that the stream that computes waits for, when the host comes to its end."""

    def __init__(self, link: Any, mark: Any):
        self._link, self._mark = link, mark

    def ready(self) -> bool:
        return False        # what is queued next may go on beside it

    def wait(self) -> None:
        self._link.join(self._mark)


def chosen_way(ranks: Ranks, backend: Backend) -> tuple[bool, str]:
    """Return whether gradients of these ranks travel from GPU to GPU, and a line that says how they travel.

    They do if each rank has a GPU of its own, and all have the same NCCL. All ranks call this.
    """
    own = backend.linkable()
    found = [text.split("\n", 3) for text in ranks.texts(
        "\n".join([own.device, own.library, ranks.communicator.host, own.problem]))]
    hosts = "gradients travel from host to host, by MPI"
    if ranks.alone:
        return False, "a single rank: no gradients travel"
    if not any(device for device, *_ in found):
        return False, hosts
    for rank, (device, _, host, problem) in enumerate(found):
        if problem or not device:
            why = " ".join(problem.split()) or "it trains on no GPU"
            return False, f"{hosts}: rank {rank} on {host}: {why}"
    if len({(device, host) for device, _, host, _ in found}) < ranks.size:
        return False, f"{hosts}: some ranks share a GPU"
    if len(libraries := sorted({library for _, library, _, _ in found})) > 1:
        return False, f"{hosts}: the ranks have {' and '.join(libraries)}"
    return True, f"gradients travel from GPU to GPU, by {libraries[0]}"


def engine_of(ranks: Ranks, backend: Backend, wire: Wire | None = None) -> Engine:
    """Return the Engine of these ranks, connected. All ranks call this. Raises ParallelError."""
    if ranks.alone or not chosen_way(ranks, backend)[0]:
        return HostEngine(ranks, backend, wire=wire)
    key = ranks.of_root(backend.link_key().hex() if ranks.is_root else "")
    connecting = InAThread(lambda: backend.link(bytes.fromhex(key), ranks.rank, ranks.size))
    ranks.communicator.wait(connecting)
    return DeviceEngine(ranks, connecting.result(), wire=wire)


class InAThread:
    """Work that waits for other ranks without a limit of its own, and is waited for as a request of MPI."""

    def __init__(self, work: Callable[[], Any]):
        self._found: list = []
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work):
        try:
            self._found = [work(), None]
        except Exception as error:      # raised by `result`
            self._found = [None, error]

    def Test(self) -> bool:     # named as that of MPI's requests
        """Whether the work has ended."""
        return not self._thread.is_alive()

    def result(self) -> Any:
        """Return what it returned, or raise its error."""
        result, error = self._found or (None, ParallelError("the GPUs of the ranks were not connected"))
        if error is not None:
            raise error
        return result
