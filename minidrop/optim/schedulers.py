"""Schedulers: the solver's learning-rate policies for the groups of an Optimizer, each with a warm-up.

`learning_rate` of minidrop/solver/lr_policy.py has the formulas. base_lr is the learning rate that a group
has when its scheduler is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from minidrop.config.numbers import real_number, whole_number
from minidrop.errors import ConfigError, SnapshotError, no_attribute, no_member
from minidrop.functions.explained import says_arguments
from minidrop.optim.optimizer import Optimizer
from minidrop.optim.torch_names import SCHEDULER, SCHEDULERS
from minidrop.solver.lr_policy import Schedule
from minidrop.solver.named import checked_state

__all__ = ["Scheduler", "cosine", "exp", "fixed", "inv", "multistep", "onecycle", "poly", "sigmoid", "step"]

_numbers = itertools.count()        # of the schedulers


class Scheduler:
    """Sets the learning rates of an Optimizer's groups: that of iteration 0, and with each `step` the next.

    lr_policy, settings: as in a solver file, such as "step", gamma=0.1, stepsize=100, warmup_iter=10; the
    functions of this module name those of each policy. momentum: a Schedule of the momentum as well, of
    betas[0] in Adam. Groups that are added later keep their own rate. One scheduler may follow another; two
    that take turns step by step are refused, as the second alone would count. Raises ConfigError.
    """

    def __init__(self, optimizer: Optimizer, lr_policy: str, momentum: Schedule | None = None,
                 **settings: Any):
        for name, value in settings.items():
            for one in value if name == "stepvalue" and value else (value,):
                if one is not None:
                    real_number(f"lr_policy {lr_policy!r}: {name}", one)
        self._policy, self._settings, self.momentum = lr_policy, settings, momentum
        self._number = next(_numbers)
        self.groups = list(optimizer.param_groups)
        self.iteration = 0
        if momentum is not None and not all({"momentum", "betas"} & group.options.keys()
                                            for group in self.groups):
            raise ConfigError(f"{type(optimizer).__name__} has no momentum that a scheduler could change")
        self._set_base([group.lr for group in self.groups])
        self._apply()

    if not TYPE_CHECKING:       # or every name would be one of a Scheduler's
        def __getattr__(self, name: str) -> NoReturn:
            raise no_member(self, name, SCHEDULER)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("lr_policy", "settings", "base_lr") or name in vars(self).get("_settings", ()):
            raise ConfigError(f"Scheduler: {name} is said where the scheduler is made; make another")
        super().__setattr__(name, value)

    @property
    def lr_policy(self) -> str:
        """The name of the policy."""
        return self._policy

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the policy, as they were given."""
        return MappingProxyType(self._settings)

    def rates(self, iteration: int) -> list[float]:
        """Return the learning rate of each group in an iteration, from 0; changes nothing."""
        return [schedule.rate(iteration) for schedule in self._schedules]

    @says_arguments
    def step(self) -> None:
        """Go on to the next iteration, and set its learning rates.

        Raises ConfigError where another scheduler has taken over since an earlier step.
        """
        if any(group.has_left(self._number) for group in self.groups):
            raise ConfigError(f"{self!r}: another scheduler of this optimizer has set the learning rate "
                              f"since the step before, and of two the last alone counts; step one, which may "
                              f"have a warmup_iter, or first the one and then the other")
        self.seek(self.iteration + 1)

    def seek(self, iteration: int) -> None:
        """Go to an iteration, and set its learning rates; ConfigError for no whole number of 0 or more."""
        self.iteration = whole_number("Scheduler: seek", iteration, 0)
        for group in self.groups:
            group.follow(self._number)
        self._apply()

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return {"iteration": (1,) int64, "base_lr": (groups,) float64}."""
        return {"iteration": np.array([self.iteration], np.int64),
                "base_lr": np.array([schedule.base_lr for schedule in self._schedules], np.float64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, and set the learning rates; raises SnapshotError."""
        found = checked_state("Scheduler", state, self.state_dict())
        iteration, rates = int(found["iteration"][0]), found["base_lr"].tolist()
        if iteration < 0 or min(rates) < 0:
            raise SnapshotError(f"Scheduler: expected an iteration and learning rates >= 0, got {iteration} "
                                f"and {rates}")
        try:
            self._set_base(rates)
        except ConfigError as error:
            raise SnapshotError(f"Scheduler: the state does not fit these settings: {error}") from None
        self.iteration = iteration
        self._apply()

    def __repr__(self):
        said = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"Scheduler({self.lr_policy}{', ' if said else ''}{said}, iteration={self.iteration})"

    def _set_base(self, rates):
        schedules = [Schedule(self.lr_policy, base_lr=rate, **self._settings) for rate in rates]
        problems = [problem for schedule in schedules for _, problem in schedule.problems()]
        if problems:
            raise ConfigError.of(problems)
        self._schedules = schedules

    def _apply(self):
        for group, rate in zip(self.groups, self.rates(self.iteration), strict=True):
            group.lr = rate
            if self.momentum is not None:
                momentum = self.momentum.rate(self.iteration)
                group.change(**({"momentum": momentum} if "momentum" in group.options else
                                {"betas": (momentum, group.options["betas"][1])}))


@says_arguments
def fixed(optimizer: Optimizer, warmup_iter: int = 0) -> Scheduler:
    """base_lr, after the warm-up."""
    return Scheduler(optimizer, "fixed", warmup_iter=warmup_iter)


@says_arguments
def step(optimizer: Optimizer, stepsize: int, gamma: float = 0.1, warmup_iter: int = 0) -> Scheduler:
    """base_lr * gamma ** floor(iteration / stepsize)."""
    return Scheduler(optimizer, "step", stepsize=stepsize, gamma=gamma, warmup_iter=warmup_iter)


@says_arguments
def multistep(optimizer: Optimizer, stepvalues: Sequence[int], gamma: float = 0.1,
              warmup_iter: int = 0) -> Scheduler:
    """base_lr * gamma ** (number of stepvalues <= iteration)."""
    steps = tuple(stepvalues) if np.ndim(stepvalues) else (stepvalues,)
    return Scheduler(optimizer, "multistep", stepvalue=steps or None, gamma=gamma,
                     warmup_iter=warmup_iter)


@says_arguments
def exp(optimizer: Optimizer, gamma: float, warmup_iter: int = 0) -> Scheduler:
    """base_lr * gamma ** iteration."""
    return Scheduler(optimizer, "exp", gamma=gamma, warmup_iter=warmup_iter)


@says_arguments
def inv(optimizer: Optimizer, gamma: float, power: float, warmup_iter: int = 0) -> Scheduler:
    """base_lr * (1 + gamma * iteration) ** -power."""
    return Scheduler(optimizer, "inv", gamma=gamma, power=power, warmup_iter=warmup_iter)


@says_arguments
def poly(optimizer: Optimizer, max_iter: int, power: float = 1.0, warmup_iter: int = 0) -> Scheduler:
    """base_lr * (1 - iteration / max_iter) ** power, 0 from max_iter on; counted after the warm-up."""
    return Scheduler(optimizer, "poly", max_iter=max_iter, power=power, warmup_iter=warmup_iter)


@says_arguments
def sigmoid(optimizer: Optimizer, stepsize: int, gamma: float, warmup_iter: int = 0) -> Scheduler:
    """base_lr / (1 + exp(-gamma * (iteration - stepsize)))."""
    return Scheduler(optimizer, "sigmoid", stepsize=stepsize, gamma=gamma, warmup_iter=warmup_iter)


@says_arguments
def cosine(optimizer: Optimizer, max_iter: int, min_lr: float = 0.0, warmup_iter: int = 0) -> Scheduler:
    """Half a cosine from base_lr down to min_lr, at max_iter; it begins after the warm-up."""
    return Scheduler(optimizer, "cosine", max_iter=max_iter, min_lr=min_lr, warmup_iter=warmup_iter)


@says_arguments
def onecycle(optimizer: Optimizer, max_lr: float, max_iter: int, pct_start: float = 0.3, min_lr: float = 0.0,
             warmup_iter: int = 0, momenta: tuple[float, float] | None = None) -> Scheduler:
    """Half a cosine from base_lr up to max_lr, in a share of pct_start, then one down to min_lr.

    momenta: (lowest, highest), such as (0.85, 0.95): the momentum goes the other way, from the highest down
    to the lowest and up again. None leaves it as it is.

    It is PyTorch's OneCycleLR with base_lr = max_lr / div_factor, min_lr = base_lr / final_div_factor and
    momenta = (base_momentum, max_momentum). Raises ConfigError.
    """
    momentum = None
    if momenta is not None:
        least, most = momenta
        if not 0 <= least <= most < 1:
            raise ConfigError(f"momenta: expected 0 <= lowest <= highest < 1, got {least:g} and {most:g}")
        momentum = Schedule("onecycle", base_lr=most, max_lr=least, min_lr=most, max_iter=max_iter,
                            pct_start=pct_start)
    if momentum is not None and warmup_iter:
        raise ConfigError(f"momenta: a momentum has no warm-up; expected a warmup_iter of 0, got "
                          f"{warmup_iter}")
    return Scheduler(optimizer, "onecycle", momentum, max_lr=max_lr, max_iter=max_iter, pct_start=pct_start,
                     min_lr=min_lr, warmup_iter=warmup_iter)


def __getattr__(name: str) -> NoReturn:
    raise no_attribute(__name__, name, __all__, SCHEDULERS)
