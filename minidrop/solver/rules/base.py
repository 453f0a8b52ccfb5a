"""UpdateRule, and the registry of rules by Caffe's names."""

import math

from minidrop.config.load import decimal
from minidrop.errors import ConfigError, nearest

_RULES = {}


class UpdateRule:
    """One way of updating a parameter from its gradient.

    slots: how many history arrays it keeps per parameter, shaped like the weights and zero at first.
    ranges: the fields of SolverParameter that it reads, {name: (lowest, limit)}, lowest <= value < limit.
    without: fields that must be 0, because the rule has no use for them.
    capturable: update also takes lr and grad_scale as float64 arrays (1,) on the device, and heeds `backend.trouble`.
    """

    capturable = False
    slots = 1
    ranges = {}
    without = ()

    def __init__(self, param):
        for field in self.ranges:
            setattr(self, field, decimal(getattr(param, field)))
        self._buffers = {}

    def update(self, backend, parameter, history, lr, decay=0.0, l1=False, grad_scale=1.0, iteration=0):
        """Change parameter.data and the arrays in `history` in place; the gradient is left as it is.

            g = grad_scale * gradient + decay * w        (L2)
            g = grad_scale * gradient + decay * sign(w)  (L1, l1=True)
            w, history = step(g)

        lr and decay: floats, the parameter's lr_mult and decay_mult included. iteration: from 0.
        """
        xp, w = backend.xp, parameter.data
        g, spare = self._buffer(xp, w, "g"), self._buffer(xp, w, "spare")
        xp.multiply(parameter.dense_grad(), float(grad_scale), out=g)
        if decay:
            if l1:
                xp.sign(w, out=spare)
                spare *= float(decay)
            else:
                xp.multiply(w, float(decay), out=spare)
            g += spare
        self.step(xp, w, g, spare, history, float(lr), iteration)

    def step(self, xp, w, g, spare, history, lr, iteration):
        """Update w and history in place; g, the regularised gradient, and spare may be overwritten."""
        raise NotImplementedError

    def _buffer(self, xp, like, purpose):
        """Return an unset array shaped like `like`; all parameters take turns in one."""
        slot = (purpose, xp.__name__, like.dtype.str)
        if slot not in self._buffers or self._buffers[slot].size < like.size:
            self._buffers[slot] = xp.empty(like.size, like.dtype)
        return self._buffers[slot][:like.size].reshape(like.shape)


def average(mean, sample, keep):
    """mean = keep * mean + (1 - keep) * sample, in place; `sample` is overwritten."""
    mean *= keep
    sample *= 1 - keep
    mean += sample


def register_rule(name):
    """Return a class decorator that makes an UpdateRule known as `name`, the solver's `type`."""
    def add(rule):
        _RULES[name] = rule
        rule.name = name
        return rule
    return add


def known_rules():
    """Return the names of all rules, sorted."""
    return sorted(_RULES)


def get_rule(param):
    """Return the UpdateRule that SolverParameter.type names, set up from `param`; raises ConfigError."""
    problems = check_rule(param)
    if problems:
        raise ConfigError("; ".join(problem for _, problem in problems))
    return _RULES[param.type](param)


def check_rule(param):
    """Return what is wrong with a SolverParameter's rule as a list of (field, problem); [] is good."""
    rule = _RULES.get(param.type)
    if rule is None:
        return [("type", f"type: expected one of {', '.join(known_rules())}; "
                         f"got {param.type!r}{nearest(param.type, known_rules())}")]
    problems = []
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
