"""UpdateRule, and the registry of rules by Caffe's names."""

import math

from minidrop.config.load import decimal
from minidrop.errors import ConfigError, nearest
from minidrop.registry import Registry

_RULES = Registry("update rule", "name")


class UpdateRule:
    """One way of updating a parameter from its gradient: the numbers of an iteration, and one elementwise
    formula.

    slots: how many history arrays it keeps per parameter, shaped like the weights and zero at first. ranges:
    the fields of SolverParameter that it reads, {name: (lowest, limit)}, lowest <= value < limit. without:
    fields that must be 0, because the rule has no use for them. regularises: the gradient gets decay * R(w)
    before the formula; False for a rule that decays weights itself. compiled: formula can be compiled by
    Numba, with numbers in the place of arrays. capturable: update also takes lr and grad_scale as float64
    arrays (1,) on the device, and heeds `backend.trouble`.
    """

    capturable = False
    compiled = True
    regularises = True
    slots = 1
    ranges = {}
    without = ()

    def __init__(self, param):
        for field in self.ranges:
            setattr(self, field, decimal(getattr(param, field)))

    def numbers(self, lr, decay, iteration):
        """Return the numbers of the formula, a tuple of floats: what does not differ from weight to
        weight."""
        raise NotImplementedError

    @staticmethod
    def formula(w, g, *history_and_numbers):
        """Return (new w, new history...) for arrays or for single numbers, each operation rounded on its
        own."""
        raise NotImplementedError

    def update(self, backend, parameter, history, lr, decay=0.0, l1=False, grad_scale=1.0, iteration=0):
        """Change parameter.data and the arrays in `history` in place; the gradient is left as it is.

            g = grad_scale * gradient + decay * w        (L2)
            g = grad_scale * gradient + decay * sign(w)  (L1, l1=True)
            w, history = formula(w, g, history, numbers)

        lr and decay: floats, the parameter's lr_mult and decay_mult included. iteration: from 0.
        """
        numbers = self.numbers(float(lr), float(decay), iteration)
        backend.rule_update(parameter.data, history, parameter.blocks, self, numbers,
                            float(decay) if self.regularises else 0.0, l1, float(grad_scale))


def register_rule(name):
    """Return a class decorator that makes an UpdateRule known as `name`, the solver's `type`."""
    return _RULES.register(name)


def known_rules():
    """Return the names of all rules, sorted."""
    return _RULES.names()


def get_rule(param):
    """Return the UpdateRule that SolverParameter.type names, set up from `param`; raises ConfigError."""
    problems = check_rule(param)
    if problems:
        raise ConfigError("; ".join(problem for _, problem in problems))
    return _RULES.get(param.type)(param)


def check_rule(param):
    """Return what is wrong with a SolverParameter's rule as a list of (field, problem); [] is good."""
    if param.type not in _RULES:
        return [("type", f"type: expected one of {', '.join(known_rules())}; "
                         f"got {param.type!r}{nearest(param.type, known_rules())}")]
    rule, problems = _RULES.get(param.type), []
    for field, (lowest, limit) in rule.ranges.items():
        value = decimal(getattr(param, field))
        if not lowest <= value < limit:
            upper = f" and < {limit:g}" if limit < math.inf else ""
            problem = f"{field}: {param.type} needs a number >= {lowest:g}{upper}, got {value:g}"
            problems.append((field, problem))
    for field in rule.without:
        if value := decimal(getattr(param, field)):
            problems.append((field, f"{field}: {param.type} has none; remove it (got {value:g})"))
    return problems
