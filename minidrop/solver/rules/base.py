"""UpdateRule, and the registry of rules by Caffe's names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minidrop.autograd import Parameter
from minidrop.backend import Backend
from minidrop.config import SolverParameter
from minidrop.config.load import decimal
from minidrop.errors import ConfigError, nearest
from minidrop.registry import Registry

_RULES: Registry[type[UpdateRule]] = Registry("update rule", "name")


class UpdateRule:
    """An update rule: an elementwise formula for new weights, and the numbers it takes in an iteration.

    slots: the number of history arrays per parameter, shaped like the weights and zero at first.
    ranges: the fields of SolverParameter that it reads, {name: (lowest, limit)}, lowest <= value < limit.
    without: fields that must be 0, because the rule does not use them.
    regularises: whether weight decay is added to the gradient; False for a rule that decays weights itself.
    compiled: whether Numba can compile formula, with scalars in place of arrays.
    """

    compiled: bool = True
    regularises: bool = True
    slots: int = 1
    ranges: dict[str, tuple[float, float]] = {}
    without: tuple[str, ...] = ()
    name: str = ""
    # Read from the solver file if `ranges` names them.
    momentum: float
    momentum2: float
    rms_decay: float
    delta: float

    def __init__(self, param: SolverParameter | Mapping[str, float]):
        for field, value in _values(type(self), param).items():
            setattr(self, field, value)

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        """Return the numbers that the formula takes, the same for all weights.

        lr and decay include the parameter's lr_mult and decay_mult. iteration counts from 0.
        """
        raise NotImplementedError

    @staticmethod
    def formula(w: Any, g: Any, *history_and_numbers: Any) -> tuple:
        """Return (new w, new history...) for arrays or scalars, each operation rounded separately.

        In captured steps the numbers are device arrays of shape (), whose values must not be read.
        """
        raise NotImplementedError

    def update(self, backend: Backend, parameter: Parameter, history: list[np.ndarray], numbers: tuple,
               decay: float = 0.0, l1: bool = False, grad_scale: float | np.ndarray = 1.0) -> None:
        """Change parameter.data and the arrays in `history` in place; the gradient is left as it is.

            g = grad_scale * gradient + decay * w        (L2)
            g = grad_scale * gradient + decay * sign(w)  (L1, l1=True)
            w, history = formula(w, g, history, numbers)

        numbers: as the method `numbers` returns them. decay includes the parameter's decay_mult. In captured
        steps numbers and grad_scale are float64 arrays (1,) on the device.
        """
        backend.rule_update(parameter.data, history, parameter.blocks, self, numbers,
                            decay if self.regularises else 0.0, l1, grad_scale)


def register_rule(name: str) -> Callable[[type], type]:
    """Return a class decorator that registers an UpdateRule under `name`, the solver's `type`."""
    return _RULES.register(name)


def known_rules() -> list[str]:
    """Return the names of all rules, sorted."""
    return _RULES.names()


def get_rule(param: SolverParameter) -> UpdateRule:
    """Return the UpdateRule that SolverParameter.type names, set up from `param`; raises ConfigError."""
    problems = check_rule(param)
    if problems:
        raise ConfigError("; ".join(problem for _, problem in problems))
    return _RULES.get(param.type)(param)


def range_problems(rule: type[UpdateRule], values: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return which of the numbers that a rule reads are out of their range, as a list of (field, problem)."""
    problems = []
    for field, (lowest, limit) in rule.ranges.items():
        if not lowest <= values[field] < limit:
            upper = f" and < {limit:g}" if limit < math.inf else ""
            problems.append((field, f"{field}: {rule.name} needs a number >= {lowest:g}{upper}, got "
                                    f"{values[field]:g}"))
    return problems


def _values(rule, param):
    """Return {field: value} of what a rule reads, of a solver file the decimals that were written in it."""
    if isinstance(param, Mapping):
        return {field: float(param[field]) for field in rule.ranges}
    return {field: decimal(getattr(param, field)) for field in rule.ranges}


def unread_settings(param: SolverParameter) -> list[tuple[str, list[str]]]:
    """Return (field, the rules that read it) of what a SolverParameter has and the rule of its `type` does
    not read. A momentum is a mistake there, see `check_rule`."""
    if param.type not in _RULES:
        return []
    rules, defaults = [_RULES.get(name) for name in known_rules()], SolverParameter()
    fields = dict.fromkeys(field for rule in rules for field in rule.ranges if field != "momentum")
    return [(field, [rule.name for rule in rules if field in rule.ranges]) for field in fields
            if field not in _RULES.get(param.type).ranges and hasattr(defaults, field)
            and getattr(param, field) != getattr(defaults, field)]


def check_rule(param: SolverParameter) -> list[tuple[str, str]]:
    """Return the mistakes in a SolverParameter's rule as a list of (field, problem)."""
    if param.type not in _RULES:
        return [("type", f"type: expected one of {', '.join(known_rules())}; "
                         f"got {param.type!r}{nearest(param.type, known_rules())}")]
    rule = _RULES.get(param.type)
    problems = range_problems(rule, _values(rule, param))
    for field in rule.without:
        if value := decimal(getattr(param, field)):
            problems.append((field, f"{field}: {param.type} has none; remove it (got {value:g})"))
    if not rule.regularises and param.regularization_type == "L1":
        problems.append(("regularization_type", f"regularization_type: {param.type} decays the weights "
                                                f"themselves, which is L2; expected \"L2\", got \"L1\""))
    return problems
