"""Learning-rate policies: Caffe's seven and the cosine, each with a warm-up."""

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
    "cosine": ("max_iter",),
}
POLICIES = tuple(_FIELDS)
_TO_MAX_ITER = ("poly", "cosine")       # begin when the warm-up ends
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
        cosine     min_lr + (base_lr - min_lr) * (1 + cos(pi * iteration / max_iter)) / 2, min_lr from
                   max_iter on

    With warmup_iter = n > 0 the rate of iteration i < n is (i + 1) / n of that of iteration n, with which the
    policy begins. poly and cosine then go from there to max_iter: they have iteration - n for iteration, and
    max_iter - n for max_iter. All others count from iteration 0, so that a stepvalue is the iteration that it
    names, with a warm-up or without.

    A rate too large for a float is infinite. Raises ConfigError for an unknown policy; check_lr_policy finds
    that and every other mistake beforehand.
    """
    if iteration < param.warmup_iter:
        return learning_rate(param, param.warmup_iter) * ((iteration + 1) / param.warmup_iter)
    base, gamma, power = (decimal(value) for value in (param.base_lr, param.gamma, param.power))
    if param.lr_policy in _TO_MAX_ITER:
        done = min(1.0, (iteration - param.warmup_iter) / (param.max_iter - param.warmup_iter))
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
                return base * (1 - done) ** power
            case "cosine":
                least = decimal(param.min_lr)
                return least + (base - least) * ((1 + math.cos(math.pi * done)) / 2)
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
    if policy in _TO_MAX_ITER and 1 <= param.max_iter <= param.warmup_iter:
        problems.append(("warmup_iter", f"warmup_iter: lr_policy {policy!r} begins after the warm-up and "
                                        f"ends at max_iter: expected fewer than {param.max_iter}, got "
                                        f"{param.warmup_iter}"))
    if policy == "cosine" and not 0 <= param.min_lr <= param.base_lr:
        problems.append(("min_lr", f"min_lr: expected a number from 0 to base_lr, "
                                   f"{decimal(param.base_lr):g}, got {decimal(param.min_lr):g}"))
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
