"""Learning-rate policies: Caffe's seven."""

import math

from minidrop.config import SolverParameter, decimal
from minidrop.errors import ConfigError, nearest

# What each policy reads besides base_lr.
_FIELDS = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
}
POLICIES = tuple(_FIELDS)
_ANY_SIGN = {("sigmoid", "gamma"), ("inv", "power")}


def learning_rate(param: SolverParameter, iteration: int) -> float:
    """Return the learning rate of `iteration` (from 0) according to param.lr_policy.

        fixed      base_lr
        step       base_lr * gamma ** floor(iteration / stepsize)
        exp        base_lr * gamma ** iteration
        inv        base_lr * (1 + gamma * iteration) ** -power
        multistep  base_lr * gamma ** (number of stepvalues <= iteration)
        poly       base_lr * (1 - iteration / max_iter) ** power, 0 from max_iter on
        sigmoid    base_lr / (1 + exp(-gamma * (iteration - stepsize)))

    A rate too large for a float is infinite. Raises ConfigError for an unknown policy; check_lr_policy finds
    that and every other mistake beforehand.
    """
    base, gamma, power = (decimal(value) for value in (param.base_lr, param.gamma, param.power))
    try:
        match param.lr_policy:
            case "fixed":
                return base
            case "step":
                return base * gamma ** (iteration // param.stepsize)
            case "exp":
                return base * gamma ** iteration
            case "inv":
                return base * (1 + gamma * iteration) ** -power
            case "multistep":
                return base * gamma ** sum(value <= iteration for value in param.stepvalue)
            case "poly":
                return base * max(0.0, 1 - iteration / param.max_iter) ** power
            case "sigmoid":  # 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, which cannot overflow
                return base * (1 + math.tanh(gamma * (iteration - param.stepsize) / 2)) / 2
    except OverflowError:
        return math.inf
    raise ConfigError(_unknown(param.lr_policy))


def check_lr_policy(param: SolverParameter) -> list[tuple[str, str]]:
    """Return the mistakes in a SolverParameter's learning-rate fields, as a list of (field, problem)."""
    problems = []
    if not _is_given(param, "base_lr"):
        problems.append(("base_lr", "base_lr is missing"))
    elif not (math.isfinite(param.base_lr) and param.base_lr >= 0):
        problems.append(("base_lr", f"base_lr: expected a number >= 0, got {decimal(param.base_lr)}"))
    policy = param.lr_policy
    if policy not in _FIELDS:
        return [*problems, ("lr_policy", _unknown(policy))]
    for field in _FIELDS[policy]:
        problem = _problem(policy, field, getattr(param, field)) if _is_given(param, field) else "is missing"
        if problem:
            problems.append((field, f"lr_policy {policy!r} needs {field}, which {problem}"))
    return problems


def _is_given(param, field):
    value = getattr(param, field)
    return len(value) > 0 if field == "stepvalue" else param.HasField(field)


def _problem(policy, field, value):
    if field in ("stepsize", "max_iter"):
        return f"must be at least 1, but is {value}" if value < 1 and policy != "sigmoid" else ""
    if field == "stepvalue":
        if min(value) < 0:
            return f"must not be negative, but is {', '.join(map(str, value))}"
        increases = all(a < b for a, b in zip(value, value[1:], strict=False))
        return "" if increases else f"must increase, but is {', '.join(map(str, value))}"
    if not math.isfinite(value) or (value < 0 and (policy, field) not in _ANY_SIGN):
        return f"must be a number >= 0, but is {decimal(value)}"
    return ""


def _unknown(policy):
    return (f"lr_policy: expected one of {', '.join(POLICIES)}; got {policy!r}{nearest(policy, POLICIES)}"
            if policy else f"lr_policy is missing; it is one of {', '.join(POLICIES)}")
