"""trial: iterations of a Solver that leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from minidrop.data.hdf5_output import discarding
from minidrop.errors import ConfigError

if TYPE_CHECKING:
    from minidrop.solver.loop import Solver


@contextmanager
def trial(solver: Solver) -> Iterator[Callable[[float], float]]:
    """Give a function that trains one iteration with a learning rate, and returns its loss; then undo all.

        with trial(solver) as step:
            losses = [step(0.01), step(0.1)]

    On exit weights, statistics, history, states, iteration, losses, loss scale, patterns and the place in the
    data are as before, to the last bit, so that training goes on as if nothing had been. No test runs, no
    snapshot and no event happens, nothing is written; hooks of `after_backward` are called. What a layer of a
    user's own keeps for itself is not known here, and not restored.

    The iterations run layer by layer. step raises NonFiniteError for a loss or gradient that is not finite.
    """
    if not solver.net.losses:
        raise ConfigError(f"{solver.net.config.where()}: a training step needs a loss, but no layer is one")
    net, updater = solver.net, solver.updater
    with solver.uncaptured(), net.restored(), discarding():
        steps = solver.steps.uncaptured
        arrays = [p.data for p in net.parameters().values()]
        arrays += [array for history in updater.history.values() for array in history]
        with net.backend.active():
            before = [array.copy() for array in arrays]
        iteration, scale, losses = solver.iteration, copy.copy(solver.loss_scale), list(steps.losses)
        ema, solver.ema = solver.ema, None          # the averages do not see these weights

        def step(lr: float) -> float:
            for moved in net.due_permutations(solver.iteration):
                updater.permute(*moved)
            steps.forward_backward()
            steps.after_backward()
            steps.update(lr)
            solver.iteration += 1
            return steps.losses[-1]
        try:
            yield step
        finally:
            with net.backend.active():
                for array, values in zip(arrays, before, strict=True):
                    array[...] = values
            solver.iteration, solver.loss_scale, solver.ema = iteration, scale, ema
            steps.losses.clear()
            steps.losses.extend(losses)
            net.clear_grads()
            net.show({})        # no blob of these iterations is left, nor the memory of their graph
