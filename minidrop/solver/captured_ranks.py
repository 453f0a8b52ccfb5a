"""CapturedRanks: what the captured iterations of several ranks agree on, and how their work becomes one."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.errors import CaptureError, NonFiniteError
from minidrop.kept import Kept
from minidrop.net.run import Run
from minidrop.solver.engines import DeviceEngine

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver


AHEAD = 4       # iterations: fewer than a device has slots for batches on their way


class CapturedRanks:
    """The ranks of a CapturedSteps. A single one agrees with itself, and nothing travels.

    The gradients and the loss of an iteration travel within its graph, from GPU to GPU, as `Reduction` sends
    them. All ranks draw the same patterns, so that they capture, or launch, in the same iterations. The host
    sends a few bytes in each: whether all have read their records, and the signature. While a step is
    captured it also tells which blocks gradients have. Errors of the device, and losses, are added up, so
    that all ranks see those of any.
    """

    def __init__(self, solver: Solver, drop_graphs: Callable[[], object]):
        self.solver, self.ranks, self.backend = solver, solver.ranks, solver.net.backend
        self.marks: deque[Any] = deque()        # of the iterations that have been queued last
        engine = solver.gradient_sum.engine
        if isinstance(engine, DeviceEngine):
            engine.link.before_end.append(drop_graphs)

    @property
    def several(self) -> bool:
        """Whether there is more than one rank."""
        return not self.ranks.alone

    @property
    def _engine(self) -> DeviceEngine:
        engine = self.solver.gradient_sum.engine
        assert isinstance(engine, DeviceEngine)         # see problem_of
        return engine

    def signature(self, own: tuple) -> tuple:
        """Return the signature of the iteration on all ranks, from that on this one."""
        if not self.several:
            return own
        digest = np.frombuffer(hashlib.blake2b(repr(own).encode(), digest_size=16).digest(), np.uint8)
        return (*own, self.ranks.gather(digest).tobytes())

    def backward(self, run: Run, trouble: np.ndarray, moving: Sequence[Kept]) -> np.ndarray:
        """Run backward with gradients of the whole batch; returns its loss, a float64 array (1,).

        `trouble` is then that of any rank. moving: the kept sets that are read on the device.
        """
        if not self.several:
            loss = self._checked(run.loss_array())
            run.backward()
            return loss
        weights, passes = self._weights(run)
        loss = self._checked(run.loss_array(weights))
        total, error = self.solver.gradient_sum, None
        reduction = total.begin(self.solver.updater.parameters, passes, moving)
        try:
            run.backward(weights, reduction if total.early else None)
        except Exception as raised:     # raised by `finish`, on all ranks
            error = raised
        reduction.finish(error)
        outcome = self.backend.empty((2,), np.float64)
        outcome[:1] = loss
        outcome[1:] = trouble
        self._engine.add_queued(outcome)
        trouble[...] = outcome[1:] != 0
        return outcome[:1] * passes

    def _weights(self, run):
        """Return what each loss is multiplied by on this rank, and all of that and gradients in the end."""
        counts = run.loss_counts
        differ = len(set(counts)) > 1
        self.ranks.check(CaptureError("its losses weigh a batch differently") if differ else None)
        times = [self.ranks.size if ref in run.net.parts.adds_up else 1 for ref, _ in run.net.losses]
        whole = float(self.ranks.total(counts[0]))
        return [counts[0] * own for own in times], 1 / whole if whole else 1.0

    def _checked(self, loss):
        self.backend.refuse(~self.backend.xp.isfinite(loss), _not_finite)
        return loss

    def capture(self, work: Callable[[], object]) -> Any:
        """Return the graph of work(). Where a rank cannot capture it, all raise CaptureError."""
        graph, error = None, None
        try:
            graph = self.backend.capture(work)
        except CaptureError as raised:
            error = raised
        if self.ranks.any(error is not None):
            raise error or CaptureError("another rank could not capture an iteration")
        return graph

    def wait_for_device(self) -> None:
        """Wait for the device, and for other ranks that it waits for, as long as their time allows."""
        if self.several:
            self.marks.clear()
            self._engine.wait_for(self._engine.mark())

    def keep_up(self) -> None:
        """Wait until a few iterations are queued at most: what waits for room on the device has no limit."""
        if self.several:
            self.marks.append(self._engine.mark())
            if len(self.marks) > AHEAD:
                self._engine.wait_for(self.marks.popleft())


def _not_finite():
    return NonFiniteError("raised on no device: a captured step sets a flag")
