"""Checks of the Python objects that a Solver is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from minidrop.data import DataLoader
from minidrop.errors import ConfigError, kind_of
from minidrop.nn import Module
from minidrop.nn.objective import Objective
from minidrop.solver.early_stopping import EarlyStopping


@runtime_checkable
class OptimizerLike(Protocol):
    """One of md.optim, whose groups the Solver updates."""

    param_groups: list[Any]

    def add_param_group(self, group: Mapping[str, Any]) -> Any:
        """Add parameters."""


@runtime_checkable
class SchedulerLike(Protocol):
    """One of md.optim.schedulers."""

    lr_policy: str
    settings: Mapping[str, Any]
    groups: list[Any]

    def rates(self, iteration: int) -> list[float]:
        """Return the learning rate of each group in an iteration."""

    def seek(self, iteration: int) -> None:
        """Go to an iteration, and set its learning rates."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what load_state_dict takes."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


class Tested(NamedTuple):
    """What a Solver of objects tests: the name of the net, "" for the model's, its loader, its metrics."""

    name: str
    loader: DataLoader
    metrics: Mapping[str, Callable[..., Any]]


def tests_of(test: Any, metrics: Any) -> list[Tested]:
    """Return the tests that are asked for: none, one loader, several in a list, or {name: loader}.

    metrics: {name: function} for each test, or what `test` is with such a dictionary in place of each loader.
    Raises ConfigError for anything else.
    """
    if test is None:
        if metrics:
            raise ConfigError("metrics: tests compute them; give a test loader")
        return []
    if isinstance(test, Mapping):
        loaders = dict(test)
    elif isinstance(test, list | tuple):
        loaders = dict(enumerate(test))
    else:
        loaders = {"": test}
    if not loaders:
        raise ConfigError(f"test: expected one or more loaders, got an empty {type(test).__name__}; None is "
                          f"for no test")
    named = isinstance(test, Mapping)
    if wrong := [name for name in loaders if named and (not isinstance(name, str) or not name)]:
        raise ConfigError(f"test: expected names of loaders, got {wrong[0]!r}")
    for name, loader in loaders.items():
        if not isinstance(loader, DataLoader):
            what, wanted = ("test", "a DataLoader or None") if name == "" else (f"test {name!r}",
                                                                                "a DataLoader")
            raise ConfigError(f"{what}: expected {wanted}, got {kind_of(loader)}")
    own = _metrics_of(metrics or {}, loaders)
    return [Tested(str(name) if named else "", loader, own[name]) for name, loader in loaders.items()]


def _metrics_of(metrics, loaders):
    """Return {key of a loader: {name: function}}."""
    own = dict(enumerate(metrics)) if isinstance(metrics, list | tuple) else metrics
    if not isinstance(own, Mapping) or own is not metrics and not any(
            isinstance(value, Mapping) for value in own.values()):
        raise ConfigError(f"metrics: expected {{name: function}}, got {type(metrics).__name__}")
    if own is metrics and not any(isinstance(value, Mapping) for value in own.values()):
        return dict.fromkeys(loaders, own)
    if own.keys() - loaders.keys() or own is not metrics and len(own) != len(loaders):
        raise ConfigError(f"metrics: expected those of each test, {', '.join(map(repr, loaders))}, got "
                          f"{', '.join(map(repr, own))}")
    if wrong := [name for name, value in own.items() if not isinstance(value, Mapping)]:
        raise ConfigError(f"metrics: expected {{name: function}} for test {wrong[0]!r}, got "
                          f"{type(own[wrong[0]]).__name__}")
    return {name: own.get(name, {}) for name in loaders}


def check_types(model: Any, loss: Any, optimizer: Any, train: Any, tests: Sequence[Tested], scheduler: Any,
                early_stopping: Any) -> None:
    """Raise ConfigError for an object of another kind, or one that no Solver can train with."""
    for what, value, kind, wanted in (
            ("model", model, Module, "a Module"), ("optimizer", optimizer, OptimizerLike, "one of md.optim"),
            ("train", train, DataLoader, "a DataLoader"),
            ("scheduler", scheduler, SchedulerLike | None, "one of md.optim.schedulers"),
            ("early_stopping", early_stopping, EarlyStopping | None, "an EarlyStopping")):
        if not isinstance(value, kind):
            raise ConfigError(f"{what}: expected {wanted}, got {kind_of(value)}")
    metrics = [one for test in tests for one in test.metrics.items()]
    for what, function in (("loss", loss), *metrics):
        if not callable(function) or isinstance(function, type):
            raise ConfigError(f"{what}: expected a module or a function, got {kind_of(function)}")
        if isinstance(function, Module) and not function.traced and list(function.parameters()):
            raise ConfigError(f"{what}: {function.describe()} has traced = False and parameters of its own; "
                              f"write the loop by hand")
    if not model.traced or any(not module.traced for module in model.modules()):
        name = next(module for module in model.modules() if not module.traced).describe()
        raise ConfigError(f"model: {name} has traced = False, and a Solver needs one net: put what depends "
                          f"on values into an nn.Lambda, or write the loop by hand, with optimizer.step()")
    if not model.training:
        raise ConfigError(f"model: {model.describe()} is in eval mode; call its method train() first")
    if any(name == "loss" or not isinstance(name, str) or not name for name, _ in metrics):
        raise ConfigError(f"metrics: expected names other than 'loss', got "
                          f"{', '.join(repr(name) for name, _ in metrics)}")


def check_parameters(model: Module, groups: Sequence[Any], scheduler: Any, train: Objective,
                     tests: Sequence[Objective]) -> None:
    """Raise ConfigError unless groups and scheduler can be followed, and the net has the parameters."""
    kinds = {type(group.rule).__name__ for group in groups}
    if len(kinds) > 1:
        raise ConfigError(f"optimizer: a Solver has one rule, the groups have {', '.join(sorted(kinds))}; "
                          f"they may differ in numbers, such as lr, but not in nesterov or form")
    if len({group.iteration for group in groups}) > 1:
        raise ConfigError("optimizer: its groups took different numbers of steps; a Solver counts one, so "
                          "make a new optimizer with all groups")
    if scheduler is not None and not (
            scheduler.groups and scheduler.groups[0] is groups[0]
            and all(any(own is group for group in groups) for own in scheduler.groups)):
        raise ConfigError("scheduler: it is that of another optimizer; make it with this one")
    used = {id(p) for own in train.params.values() for p in own.values()}
    unused = [name for group in groups for name, p in group.parameters.items() if id(p) not in used]
    if unused:
        raise ConfigError(f"optimizer: its parameter {unused[0]!r} is none that {model.describe()} and "
                          f"the loss use in training; give the optimizer those alone (was another model "
                          f"meant?)")
    for test in tests:
        for layer, own in test.params.items():
            ours = train.params.get(layer, {})
            if other := [name for name in own if ours.get(name) is not own[name]]:
                raise ConfigError(f"test: {layer} reads {other[0]}, which is no parameter of that layer in "
                                  f"training; let the model's forward use the same layers in both")


def check_parts(model: Module, parts: Sequence[tuple[Module, bool]]) -> None:
    """Raise ConfigError where a model has other modules than those traced, or others of them are in training.

    parts: [(module, whether it was in training)]. A model that is in eval mode as a whole has been used
    meanwhile, and trains as it did.
    """
    now = [(module, module.training) for module in model.modules()]
    if [id(module) for module, _ in now] != [id(module) for module, _ in parts]:
        what = "it has other modules"
    elif changed := [module for (module, training), (_, before) in zip(now, parts, strict=True)
                     if training != before and any(dict(now).values())]:
        what = f"{changed[0].describe()} is {'' if changed[0].training else 'not '}in training, other"
    else:
        return
    raise ConfigError(f"model: {what} than when the solver was made, which trains the net of then; make a "
                      f"new solver (Solver.of), which begins where this is")
