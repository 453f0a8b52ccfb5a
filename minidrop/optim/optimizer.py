"""Optimizer: update rules for parameters outside of a Solver; ParamGroup: parameters that share settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from minidrop.autograd import Parameter
from minidrop.config.numbers import real_number, truth
from minidrop.errors import ConfigError, SnapshotError, in_short, nearest, no_member
from minidrop.functions.explained import says_arguments
from minidrop.optim.clipping import require_finite, total_norm
from minidrop.optim.torch_names import OPTIMIZER
from minidrop.solver.named import Parameters, check_unmoved, checked_state, named_parameters
from minidrop.solver.rule_update import RuleUpdate
from minidrop.solver.rules import UpdateRule, range_problems


class ParamGroup(RuleUpdate):
    """Parameters of an Optimizer that share their settings; `lr` and `weight_decay` may be set at any time.

    For others see `change`. `iteration`: the number of steps so far. `history[name]`: what the rule keeps of
    a parameter. Raises ConfigError for an l1 that is neither True nor False.
    """

    def __init__(self, rule_of: Callable[[Mapping[str, Any]], UpdateRule],
                 parameters: Mapping[str, Parameter], options: Mapping[str, Any]):
        l1, _ = (truth(name, options.get(name, False)) for name in ("l1", "nesterov"))
        super().__init__(rule_of(options), next(iter(parameters.values())).backend, parameters, l1=l1)
        self._options = dict(options)
        self._rule_of = rule_of
        self._schedulers: list[int] = []        # the numbers of those that have set the rate, the newest last
        self.iteration = 0
        self.lr, self.weight_decay = options["lr"], options["weight_decay"]

    def __setattr__(self, name: str, value: Any) -> None:
        _refuse_lost(self, vars(self).get("_options", ()), name, f"change({name}=...) sets it")
        super().__setattr__(name, value)

    def __getitem__(self, name: str) -> Any:
        said = f"group.{name}" if name in ("lr", "weight_decay") else f"group.options[{name!r}]"
        raise ConfigError(f"a group is no dictionary: {said} reads it")

    def __setitem__(self, name: str, value: Any) -> None:
        said = f"group.{name} = ..." if name in ("lr", "weight_decay") else f"group.change({name}=...)"
        raise ConfigError(f"a group is no dictionary: {said} sets it")

    @property
    def options(self) -> Mapping[str, Any]:
        """The settings as they were given; `change` changes them."""
        return MappingProxyType(self._options)

    @property
    def lr(self) -> float:
        """The learning rate, which each parameter's lr_mult multiplies."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _checked("lr", value)

    @property
    def weight_decay(self) -> float:
        """The weight decay, which each parameter's decay_mult multiplies."""
        return self.decay

    @weight_decay.setter
    def weight_decay(self, value: float) -> None:
        self.decay = _checked("weight_decay", value)

    def follow(self, scheduler: int) -> None:
        """Note the number of the scheduler that sets the rate from now on."""
        self._schedulers = [one for one in self._schedulers if one != scheduler] + [scheduler]

    def has_left(self, scheduler: int) -> bool:
        """Whether it followed this scheduler, and another one since."""
        return scheduler in self._schedulers[:-1]

    def change(self, **settings: Any) -> None:
        """Change numbers of the rule from now on, such as momentum=0.8; the history stays.

        Raises ConfigError for a setting that is unknown here, or that makes another rule.
        """
        if unknown := [name for name in settings if name not in self.options]:
            raise ConfigError(f"there is no setting {unknown[0]!r}{nearest(unknown[0], self.options)} "
                              f"(settings: {', '.join(self.options)})")
        options = {**self.options, "lr": self.lr, "weight_decay": self.weight_decay, **settings}
        rule = self._rule_of(options)
        if type(rule) is not type(self.rule) or bool(options.get("l1", False)) != self.l1:
            raise ConfigError(f"{', '.join(settings)}: makes another rule, to which the history does not "
                              f"belong; make a new optimizer")
        self.lr, self.weight_decay = options["lr"], options["weight_decay"]
        self._options, self.rule = options, rule

    def step(self) -> None:
        """Update the parameters by their gradients, which must be finite, and clear those."""
        with self.backend.active():
            self.update(self.numbers(self.iteration, self.lr))
        self.iteration += 1

    @property
    def numbers_of_state(self) -> dict[str, float]:
        """What `set_state` takes: the part of the state that is not the history."""
        return {"iteration": self.iteration, "lr": self.lr, "weight_decay": self.weight_decay}

    def set_state(self, iteration: int, lr: float, weight_decay: float) -> None:
        """Set how many steps were taken, and the settings that may change between them."""
        self.lr, self.weight_decay, self.iteration = lr, weight_decay, iteration

    def __repr__(self):
        names = list(self.parameters)
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        settings = {**self.options, "lr": self.lr, "weight_decay": self.weight_decay}
        said = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        return (f"{_counted(len(names), 'parameter')} ({shown}), {said}, "
                f"{_counted(self.iteration, 'step')}")


class Optimizer:
    """Updates parameters by their gradients: the rule of a Solver without a net, a file or a loop.

        optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
        ... forward, backward ...
        optimizer.step()

    params: {name: Parameter}, pairs (name, Parameter) or Parameters; or a list of groups {"params": ...,
    "lr": ..., ...}, each of which may give any setting of its own. Parameters with an lr_mult of 0 are left
    out; one that requires no gradient for now is frozen: no step changes it. `param_groups` lists the
    ParamGroups.

    What differs from torch.optim: a parameter without a gradient has the gradient 0, so that momentum and
    weight decay act on it, as on what a drop leaves out; lr_mult and decay_mult of a Parameter count; `step`
    clears the gradients. The gradients of a compacted net stay compact.
    """

    def __init__(self, params: Parameters | Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]):
        self.defaults = dict(defaults)
        self.param_groups: list[ParamGroup] = []
        is_one = isinstance(params, Mapping | Parameter) or hasattr(params, "named_parameters")
        given: Any = params if is_one or not np.iterable(params) else list(params)
        is_groups = isinstance(given, list) and bool(given) and isinstance(given[0], Mapping)
        for group in given if is_groups else [{"params": given}]:
            self.add_param_group(group)

    if not TYPE_CHECKING:       # or every name would be one of an Optimizer's
        def __getattr__(self, name: str) -> NoReturn:
            raise no_member(self, name, OPTIMIZER)

    def __setattr__(self, name: str, value: Any) -> None:
        known = vars(self).get("defaults", ())
        _refuse_lost(self, known, name, f"param_groups[i].change({name}=...) sets it")
        super().__setattr__(name, value)

    def rule(self, options: Mapping[str, Any]) -> UpdateRule:
        """Return the rule of a group with these settings; raises ConfigError."""
        raise NotImplementedError

    def add_param_group(self, group: Mapping[str, Any]) -> ParamGroup:
        """Add parameters, {"params": ..., settings...}, whose steps are counted from 0; returns the group.

        Settings that are not given are those of the constructor. Raises ConfigError.
        """
        what = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise ConfigError(f"{what}: a group is {{\"params\": ..., settings}}, got {in_short(group)}")
        for name in group:
            if name != "params" and name not in self.defaults:
                raise ConfigError(f"{what}: there is no setting {name!r}{nearest(name, self.defaults)} "
                                  f"(settings: {', '.join(self.defaults)})")
        known = self.parameters
        found = named_parameters(group["params"], len(known))
        for name, parameter in found.items():
            if name in known or any(parameter is other for other in known.values()):
                raise ConfigError(f"{what}: {name!r} is in a group already")
        trained = {name: parameter for name, parameter in found.items() if parameter.lr_mult}
        if not found:
            raise ConfigError(f"{what}: a group needs at least one parameter, got none")
        if not trained:
            raise ConfigError(f"{what}: a group has no parameter to train: of {len(found)} each has an "
                              f"lr_mult of 0")
        if len({id(parameter.backend) for parameter in trained.values()}) > 1:
            raise ConfigError(f"{what}: the parameters of a group must be on one device, with one precision; "
                              f"make a group for each")
        options = {**self.defaults, **{name: value for name, value in group.items() if name != "params"}}
        made = ParamGroup(self.rule, trained, options)
        self.param_groups.append(made)
        return made

    @property
    def parameters(self) -> dict[str, Parameter]:
        """{name: Parameter} of all groups."""
        return {name: p for group in self.param_groups for name, p in group.parameters.items()}

    @property
    def lr(self) -> float:
        """The learning rate of all groups; setting it sets that of each.

        Raises ConfigError on reading it where groups have several; see `ParamGroup.lr`.
        """
        rates = {group.lr for group in self.param_groups}
        if len(rates) > 1:
            raise ConfigError(f"{type(self).__name__}: the groups have {len(rates)} learning rates; read "
                              f"param_groups[i].lr")
        return rates.pop()

    @lr.setter
    def lr(self, value: float) -> None:
        for group in self.param_groups:
            group.lr = value

    @says_arguments
    def step(self) -> None:
        """Update all parameters by their gradients, and clear those.

        Raises NonFiniteError, with nothing changed, if a gradient is not finite; a device is waited for once.
        Raises ConfigError if the parameters are in another dtype than when the optimizer was made.
        """
        parameters = self.parameters
        for group in self.param_groups:
            check_unmoved(type(self).__name__, parameters, group.history)
        require_finite(f"{type(self).__name__}.step", parameters, total_norm(parameters.values(), False))
        for group in self.param_groups:
            group.step()

    @says_arguments
    def zero_grad(self) -> None:
        """Clear the gradients, for passes without a step; a step has cleared them already."""
        for parameter in self.parameters.values():
            parameter.clear_grad()

    # -- states ----------------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, np.ndarray]:
        """Return what `load_state_dict` takes: host arrays by name, all numbers, such as np.savez writes.

        "groups/0/SGD/iteration", ".../lr" and ".../weight_decay" of group 0, whose rule is SGD, and
        "history/NAME/0" of a parameter. The weights themselves are not part of it.
        """
        return {key: self._to_host(array) for key, array in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned: with the same weights, bit for bit.

        Settings other than lr and weight_decay stay those of this optimizer.
        Raises SnapshotError, with nothing changed, if it is not the state of such parameters and groups.
        """
        what = type(self).__name__
        found = checked_state(what, state, self._state())
        for key, value in found.items():
            if key.startswith("groups/") and value[0] < 0:
                raise SnapshotError(f"{what}: {key!r}: expected a number >= 0, got {value[0]}")
        self._set(found)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore on exit what steps change: weights, history, counts of steps; and lr and weight_decay."""
        weights = [(p, p.data.copy(), p.changed) for p in self.parameters.values()]
        state = self.state_dict()
        groups = list(self.param_groups)
        try:
            yield
        finally:
            self.param_groups = groups
            for parameter, before, changed in weights:
                with parameter.backend.active():
                    parameter.data[...] = before
                    parameter.clear_grad()
                if parameter.changed != changed:
                    parameter.note_change()
            self._set(state)

    def _state(self):
        """Return the arrays of the state; those of the history are the very ones that the rules use."""
        arrays = {}
        for i, group in enumerate(self.param_groups):
            arrays.update({f"{_place(i, group)}/{name}": np.array([value])
                           for name, value in group.numbers_of_state.items()})
            arrays.update({f"history/{name}/{j}": array for name, history in group.history.items()
                           for j, array in enumerate(history)})
        return arrays

    def _set(self, state):
        own = self._state()
        for i, group in enumerate(self.param_groups):
            group.set_state(*(state[f"{_place(i, group)}/{name}"][0].item()
                              for name in group.numbers_of_state))
            with group.backend.active():
                for key in (f"history/{name}/{j}" for name, history in group.history.items()
                            for j in range(len(history))):
                    own[key][...] = group.backend.asarray(state[key], own[key].dtype)

    def _to_host(self, array):
        return np.array(self.param_groups[0].backend.to_host(array))

    def __repr__(self):
        return "\n".join([f"{type(self).__name__}(", *(f"  {i}: {group!r}" for i, group in
                                                        enumerate(self.param_groups)), ")"])


def made_rule(kind: type[UpdateRule], what: str, fields: Mapping[str, float],
              keywords: Mapping[str, str] = MappingProxyType({})) -> UpdateRule:
    """Return a rule with these values of its fields; raises ConfigError for one out of its range.

    keywords: {field: what it is called here} where that differs.
    """
    fields = {field: real_number(f"{what}: {keywords.get(field, field)}", value)
              for field, value in fields.items()}
    problems = [problem.replace(field, keywords.get(field, field), 1)
                for field, problem in range_problems(kind, fields)]
    if problems:
        raise ConfigError.saying(f"{what}: {problem}" for problem in problems)
    return kind(fields)


def _counted(count, what):
    return f"{count} {what}{'s' * (count != 1)}"


def _place(i, group):
    """Return where a state has the numbers of a group; a history of another rule means something else."""
    return f"groups/{i}/{type(group.rule).__name__}"


def _checked(name, value):
    return real_number(name, value, "a number >= 0", lambda number: math.isfinite(number) and number >= 0)


def _refuse_lost(owner, settings, name, remedy):
    """Raise ConfigError for an attribute that has the name of a setting, and would change nothing."""
    if name in settings and name not in vars(owner) and not hasattr(type(owner), name):
        raise ConfigError(f"{type(owner).__name__}: {name} is a setting, which no attribute sets; {remedy}")
