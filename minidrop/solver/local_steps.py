"""LocalSteps: ranks that update by themselves, and average what they have now and then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from minidrop.config import SolverParameter

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver


class LocalSteps:
    """Local SGD: each rank updates by the gradients of its own part of the batch; every `interval`
    iterations all take the mean over ranks of weights, the rule's history and the averages of weights.

        w_r <- w_r - update(gradient_r);  every k iterations  w_r, v_r <- mean of all w, mean of all v

    The gradients of the ranks are weighted so that their mean is that of the whole batch: with k = 1 and a
    rule that is linear in the gradient (SGD, with momentum too) this is what adding up gradients does, up to
    rounding. A norm (clip_gradients) is that of a rank's own gradients.
    The history (momentum, means of squares) is averaged too, so that all ranks are in one state whenever
    a test or a snapshot needs one; then they average beforehand. The mean is added up in the order of the
    ranks, in the dtype of the weights. `sent`: the bytes that this rank sent for the last average.

    Sources: Stich, "Local SGD converges fast and communicates little", ICLR 2019, for the weights; Yu, Jin
    and Yang, "On the linear speedup analysis of communication efficient momentum SGD for distributed
    non-convex optimization", ICML 2019, for the average of the momentum.
    """

    def __init__(self, solver: Solver):
        self.solver, self.interval = solver, solver.settings.average_interval
        self.sent = 0
        self._differ = False        # whether ranks have updated since the last average

    @property
    def active(self) -> bool:
        """Whether ranks update by themselves."""
        return bool(self.interval) and not self.solver.ranks.alone

    def update(self, work: Callable[[], object]) -> None:
        """Let `work` update the weights in the solver's iteration, and average if it is time."""
        if not self.active:
            work()
            return
        self.solver.ranks.together(work)
        self._differ = True
        if (self.solver.iteration + 1) % self.interval == 0:
            self.join()

    def forget(self) -> None:
        """All ranks have read one state."""
        self._differ = False

    def join(self) -> None:
        """Let all ranks have the mean of what they have, unless they have it already."""
        if not self._differ:
            return
        ranks, backend = self.solver.ranks, self.solver.net.backend
        before = ranks.sent
        with backend.active():
            for array in self._arrays():
                mean = np.array(backend.to_host(array)).reshape(-1)     # to_host may return the array itself
                ranks.add(mean)
                mean /= mean.dtype.type(ranks.size)
                array[...] = backend.asarray(mean.reshape(array.shape))
        self.sent, self._differ = ranks.sent - before, False

    def _arrays(self) -> Iterator[np.ndarray]:
        updater, ema = self.solver.updater, self.solver.ema
        for name, parameter in updater.parameters.items():
            yield parameter.data
            yield from updater.history[name]
        if ema is not None:
            yield from ema.averages.values()


def local_problems(settings: SolverParameter) -> list[tuple[str, str]]:
    """Return (field, what is wrong with it) where average_interval does not go with another field."""
    if settings.average_interval and settings.precision == "float16":
        return [("average_interval", "average_interval does not go with precision: \"float16\", whose loss "
                                     "scale would differ between ranks; use bfloat16")]
    return []
