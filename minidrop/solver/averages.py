"""The averages of weights that a Solver keeps: when they begin, what tests read, and where snapshots keep
them."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np

from minidrop.autograd import Parameter
from minidrop.config import SolverParameter, decimal
from minidrop.solver.ema import EMA

if TYPE_CHECKING:
    from minidrop.net import Net
    from minidrop.solver.loop import Solver
    from minidrop.solver.ranks import Ranks


def averages_of(solver: Solver) -> EMA | None:
    """Return new averages of the weights as they are now, as `ema_decay` says; None without it."""
    settings = solver.settings
    if not settings.ema_decay:
        return None
    return EMA(solver.updater.parameters, decimal(settings.ema_decay), settings.ema_warmup)


def begin(solver: Solver) -> None:
    """Before a solver's first update, let its averages be the weights, which were loaded or set."""
    if solver.ema is not None and not solver.ema.updates:
        solver.ema = averages_of(solver)


def average(solver: Solver) -> None:
    """After an update, take the weights into a solver's averages, if it has any."""
    if solver.ema is not None:
        solver.ema.update()


def tested_weights(solver: Solver) -> AbstractContextManager[None]:
    """Return a context in which the nets hold what tests read: the averages, or the weights as they are."""
    ema = solver.ema
    if ema is None or not ema.updates or not solver.settings.ema_test:
        return nullcontext()
    return ema.applied()


def kept_weights(solver: Solver) -> AbstractContextManager[None]:
    """Return a context in which the nets hold the weights as they are, also in a test of the averages."""
    return nullcontext() if solver.ema is None else solver.ema.withheld()


def permute(ema: EMA | None, parameter: Parameter, axis: int, order: np.ndarray) -> None:
    """Permute one axis of the average of a parameter: new[i] = old[order[i]]."""
    if ema is None:
        return
    for name, own in ema.parameters.items():
        if own is parameter:
            backend, average = parameter.backend, ema.averages[name]
            with backend.active():
                average[...] = backend.xp.take(average, backend.asarray(order), axis=axis)


def ema_problems(settings: SolverParameter) -> list[tuple[str, str]]:
    """Return (field, what is wrong with it) of the fields of averages."""
    decay = decimal(settings.ema_decay)
    if math.isfinite(decay) and 0 <= decay < 1:
        return []
    return [("ema_decay", f"ema_decay must be a share, 0 <= ema_decay < 1, such as 0.999, got {decay:g}")]


def average_statistics(net: Net, ranks: Ranks) -> None:
    """Let all ranks have the mean of what layers keep up to date themselves, such as BatchNorm's statistics.

    They are linear in what each batch adds, so that it does not matter how often this is done.
    """
    if ranks.alone:
        return
    for parameter in net.statistics():
        mean = ranks.total(net.backend.to_host(parameter.data)) / ranks.size
        parameter.data[...] = net.backend.asarray(mean, parameter.dtype)
