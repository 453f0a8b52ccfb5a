"""NCCL through CuPy: messages between the GPUs of several ranks, on a stream of their own.

Of NCCL only ncclSend and ncclRecv are used: it moves bytes, and whoever calls adds them up, so that sums have
one order on any topology, and the bits that they have through the host.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minidrop.errors import LostRankError, ParallelError

OFF = "MINIDROP_NCCL"       # an environment variable: 0 moves gradients through the host


def nccl_module() -> tuple[Any, str]:
    """Return (cupy.cuda.nccl, "") or (None, why it cannot be used)."""
    if os.environ.get(OFF) == "0":
        return None, f"{OFF} is 0"
    try:
        with warnings.catch_warnings(record=True) as told:      # CuPy says in a warning why there is none
            warnings.simplefilter("always")
            from cupy.cuda import nccl
    except ImportError as error:
        return None, f"CuPy has no NCCL ({error})"
    if nccl.available:
        return nccl, ""
    reasons = [line for one in told for line in str(one.message).splitlines() if line.startswith("Reason: ")]
    return None, f"NCCL cannot be loaded{f' ({reasons[0][8:]})' if reasons else ''}; pip install " \
                 f"nvidia-nccl-cu12, or -cu13"


class NcclLink:
    """The messages between this rank's device and those of `size` ranks.

    cupy, nccl: the modules; device: the cupy.cuda.Device. key: what `unique_key` returned on one rank. All
    ranks make theirs at a time, and each waits there for the others. Afterwards all queue the same messages
    in the same order. Raises ParallelError.

    Work on the link's stream runs beside that on the stream that computes:

        with link.apart():          # the link's stream waits for what is queued so far
            link.start(...)         # and this is queued there
            mark = link.mark()
        ...                         # queued on the current stream, which does not wait
        mark                        # `Test` says whether all of it is done

    Arrays that are allocated outside of `apart` and used within must live until the mark is done: CuPy's pool
    gives memory back to the stream that it was allocated for.
    """

    def __init__(self, cupy: Any, nccl: Any, device: Any, rank: int, size: int, key: bytes):
        self._cupy, self._nccl, self._device, self.rank = cupy, nccl, device, rank
        self.before_end: list[Callable[[], object]] = []
        try:
            with device:
                self._stream = cupy.cuda.Stream(non_blocking=True)
                self._peers = _communicator(nccl, size, key, rank)
        except Exception as error:      # CuPy raises KeyError for codes of NCCL that it does not know
            raise ParallelError(f"NCCL cannot connect the GPUs of the ranks ({_text(error)}); "
                                f"NCCL_DEBUG=INFO says more, and {OFF}=0 sends gradients through the "
                                f"host") from error

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within this context work is queued on the link's stream, behind what the current one has so far."""
        cuda = self._cupy.cuda
        with self._device:
            so_far = cuda.Event(disable_timing=True)
            so_far.record(cuda.get_current_stream())
            self._stream.wait_event(so_far)
            with self._stream:
                yield

    def start(self, parts: Sequence[np.ndarray], found: Sequence[np.ndarray], tag: int = 0) -> "Queued":
        """Queue sending parts[r] to rank r, and receiving into found[r] what rank r sends; within `apart`.

        The arrays are contiguous, on the device, and this rank's own places are left alone. The order of the
        calls pairs messages; tags are not needed. Returns what need not be waited for.
        """
        self.check()
        nccl, stream = self._nccl, self._stream.ptr
        others = [rank for rank in range(len(parts)) if rank != self.rank]
        try:
            nccl.groupStart()       # in a group, no message waits for another
            try:
                for other in others:
                    for array, call in ((parts[other], self._peers.send), (found[other], self._peers.recv)):
                        if array.nbytes:
                            call(self.pointer(array), array.nbytes, nccl.NCCL_UINT8, other, stream)
            finally:
                nccl.groupEnd()
        except Exception as error:
            self.close()
            raise _lost(error) from error
        return Queued()

    def pointer(self, array: Any) -> int:
        """Return the device address of an array."""
        return array.data.ptr

    def mark(self) -> "Mark":
        """Return a Mark of all that is queued on the link's stream."""
        return self._mark(self._stream)

    def mark_so_far(self) -> "Mark":
        """Return a Mark of all that is queued on the current stream."""
        with self._device:
            return self._mark(self._cupy.cuda.get_current_stream())

    def _mark(self, stream):
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(stream)
        return Mark(self, event)

    def join(self, mark: "Mark") -> None:
        """Let the current stream wait for a mark of the link's; the host does not."""
        with self._device:
            self._cupy.cuda.get_current_stream().wait_event(mark.event)

    def check(self) -> None:
        """Raise LostRankError if a message has failed, or the link was closed."""
        if self._peers is None:
            raise LostRankError("the link between the GPUs of the ranks was closed")
        try:
            self._peers.check_async_error()         # ncclCommGetAsyncError
        except Exception as error:
            self.close()
            raise _lost(error) from error

    def close(self) -> None:
        """End the link, and all messages that wait for another rank, on this rank alone.

        This is ncclCommAbort: ncclCommDestroy would wait for messages, and for other ranks. Both wait for
        graphs that hold messages, so those go first (`before_end`).
        """
        peers, self._peers = self._peers, None
        if peers is not None:
            for function in self.before_end:
                function()
            with self._device:
                peers.abort()


class Queued:
    """A transfer whose readers stand behind it in one stream: nobody need wait."""

    def ready(self) -> bool:
        """Return True."""
        return True

    def wait(self) -> None:
        """Do nothing."""


class Mark:
    """A place in a stream: that of the `event`."""

    def __init__(self, link: NcclLink, event: Any):
        self._link, self.event = link, event

    def Test(self) -> bool:     # named as that of MPI's requests
        """Whether all work before it is done. Raises LostRankError if a message has failed."""
        self._link.check()
        return self.event.done


def unique_key(nccl: Any) -> bytes:
    """Return the key of a new link, to be handed to all ranks."""
    return bytes(number & 0xFF for number in nccl.get_unique_id())


def _communicator(nccl, size, key, rank):
    try:
        return nccl.NcclCommunicator(size, key, rank)
    except TypeError:       # older CuPy has a tuple of signed numbers
        return nccl.NcclCommunicator(size, tuple(np.frombuffer(key, np.int8).tolist()), rank)


def _lost(error):
    return LostRankError(f"a message between the GPUs of the ranks failed ({_text(error)}): one of them is "
                         f"gone, or what connects them; NCCL_DEBUG=INFO says more")


def _text(error):
    return f"NCCL's error {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
