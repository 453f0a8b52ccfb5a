"""find_learning_rate: a sweep of learning rates, from which one to begin with can be read."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from minidrop.errors import ConfigError, NonFiniteError
from minidrop.solver import Solver
from minidrop.solver.trial import trial

LEAST_ITERATIONS = 10


@dataclass(frozen=True)
class LearningRates:
    """What a sweep found: the loss of the iteration with each learning rate, and the losses smoothed.

    suggestion: the rate where the smoothed loss falls fastest, None where it never falls. diverged: why the
    sweep ended before its highest rate, "" if it did not.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    diverged: str


def find_learning_rate(source: Solver | Callable[[float], float], lowest: float = 1e-6, highest: float = 1.0,
                       iterations: int = 100, smoothing: float = 0.9,
                       diverges_at: float = 4.0) -> LearningRates:
    """Train with growing learning rates, and say where the loss falls fastest.

        rate(i) = lowest * (highest / lowest) ** (i / (iterations - 1))
        smoothed(i) = the mean of loss(0), ..., loss(i) with weights smoothing ** i, ..., 1
        suggestion = the rate where d smoothed / d log(rate) is lowest, after the first tenth of the sweep and
                     up to the lowest smoothed loss

    The sweep ends where smoothed exceeds diverges_at times its lowest value so far, for losses above 0, or
    where a loss or gradient is not finite. The suggestion is one to begin with: smoothing shifts it to
    somewhat higher rates, and another update rule or batch size needs another sweep.

    source: a Solver, which is afterwards as it was before, to the last bit (see `trial`); its lr_policy plays
    no part. Or a function that trains one iteration with a learning rate and returns its loss; then what it
    changes stays changed, but for weights and optimizer within Optimizer.restored().

    Raises ConfigError, also if fewer than ten iterations ended before the sweep diverged.

    Source: Smith 2017, arXiv 1506.01186, section 3.3, for the sweep; smoothing, the factor of four and the
    steepest descent as in fastai's lr_find.
    """
    _check(lowest, highest, iterations, smoothing, diverges_at)
    rates, losses, smoothed, diverged = [], [], [], ""
    mean = 0.0
    with trial(source) if isinstance(source, Solver) else nullcontext(source) as step:
        for i in range(iterations):
            rate = lowest * (highest / lowest) ** (i / (iterations - 1))
            try:
                loss = float(step(rate))
            except NonFiniteError as error:
                diverged = str(error)
                break
            if not math.isfinite(loss):
                diverged = f"the loss is {loss}"
                break
            mean += (loss - mean) * ((1 - smoothing) / (1 - smoothing ** (i + 1)))
            rates.append(rate)
            losses.append(loss)
            smoothed.append(mean)
            if 0 < diverges_at * min(smoothed) < smoothed[-1]:
                diverged = f"the smoothed loss is more than {diverges_at:g} times its lowest value"
                break
    if len(rates) < LEAST_ITERATIONS:
        raise ConfigError(f"find_learning_rate: of the iterations with rates from {lowest:g} on only "
                          f"{len(rates)} ended well, expected {LEAST_ITERATIONS}: {diverged}. Try a smaller "
                          f"lowest rate")
    return LearningRates(rates, losses, smoothed, _steepest(rates, smoothed), diverged)


def _steepest(rates, smoothed):
    """Return the rate where the smoothed loss falls fastest with log(rate), or None."""
    first, last = len(rates) // 10, int(np.argmin(smoothed)) + 1
    if last - first < 2:
        return None
    slopes = np.gradient(np.array(smoothed), np.log(rates))[first:last]
    place = int(np.argmin(slopes))
    return rates[first + place] if slopes[place] < 0 else None


def _check(lowest, highest, iterations, smoothing, diverges_at):
    for holds, what in (
            (0 < lowest < highest < math.inf, f"rates 0 < lowest < highest, got {lowest:g} and {highest:g}"),
            (iterations >= LEAST_ITERATIONS, f"iterations >= {LEAST_ITERATIONS}, got {iterations}"),
            (0 <= smoothing < 1, f"smoothing from 0 to below 1, got {smoothing:g}"),
            (diverges_at > 1, f"diverges_at above 1, got {diverges_at:g}")):
        if not holds:
            raise ConfigError(f"find_learning_rate: expected {what}")
