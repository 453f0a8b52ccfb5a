"""Learning-rate policies: Caffe's seven, the cosine and the cycle, each with a warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from minidrop.config import SolverParameter, decimal
from minidrop.errors import ConfigError, nearest

# What each policy needs besides base_lr, and what it reads where it is given.
_FIELDS: dict[str, tuple[str, ...]] = {
    "fixed": (),
    "step": ("gamma", "stepsize"),
    "exp": ("gamma",),
    "inv": ("gamma", "power"),
    "multistep": ("gamma", "stepvalue"),
    "poly": ("power", "max_iter"),
    "sigmoid": ("gamma", "stepsize"),
    "cosine": ("max_iter",),
    "onecycle": ("max_lr", "max_iter"),
}
_OPTIONAL: dict[str, tuple[str, ...]] = {"cosine": ("min_lr",), "onecycle": ("min_lr", "pct_start")}
POLICIES = tuple(_FIELDS)
_TO_MAX_ITER = ("poly", "cosine", "onecycle")       # begin when the warm-up ends
# What some policy reads and no other part of a solver does.
SHAPING = tuple(dict.fromkeys(field for fields in (*_FIELDS.values(), *_OPTIONAL.values()) for field in fields
                              if field != "max_iter"))
_ANY_SIGN = {("sigmoid", "gamma"), ("inv", "power")}


@dataclass(frozen=True)
class Schedule:
    """A learning rate for every iteration: the fields of a SolverParameter that its lr_policy reads.

    None: a field that is not given. For the formulas see `learning_rate`.
    """

    lr_policy: str
    base_lr: Any = None
    gamma: Any = None
    power: Any = None
    stepsize: Any = None
    stepvalue: tuple[int, ...] | None = None
    max_iter: Any = None
    warmup_iter: int = 0
    min_lr: float = 0.0
    max_lr: Any = None
    pct_start: float = 0.3

    @classmethod
    def of(cls, param: SolverParameter) -> Schedule:
        """Return the Schedule of a solver file, with the decimals that were written in it."""
        policy = param.lr_policy
        needed = {field: _value(param, field) for field in ("base_lr", *_FIELDS.get(policy, ()))
                  if _is_given(param, field)}
        more = {field: _value(param, field) for field in _OPTIONAL.get(policy, ())}
        return cls(lr_policy=policy, warmup_iter=param.warmup_iter, **needed, **more)

    def rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration, from 0; raises ConfigError for an unknown policy."""
        if iteration < self.warmup_iter:
            return self.rate(self.warmup_iter) * ((iteration + 1) / self.warmup_iter)
        try:
            return self._rate(iteration)
        except OverflowError:
            return math.inf

    def _rate(self, i):
        base, gamma = self.base_lr, self.gamma
        if self.lr_policy in _TO_MAX_ITER:
            i, last = i - self.warmup_iter, self.max_iter - self.warmup_iter
            done = min(1.0, i / last)
        match self.lr_policy:
            case "fixed":
                return base
            case "step":
                return base * gamma ** (i // self.stepsize)
            case "exp":
                return base * gamma ** i
            case "inv":
                return base * (1 + gamma * i) ** -self.power
            case "multistep":
                return base * gamma ** sum(value <= i for value in self.stepvalue)
            case "poly":
                return base * (1 - done) ** self.power
            case "cosine":
                return _cosine(base, self.min_lr, done)
            case "onecycle":
                peak = self.pct_start * last - 1
                if i < peak:
                    return _cosine(base, self.max_lr, i / peak)
                down = max(last - 1 - peak, 1e-9)       # with a pct_start of 1 nothing is left for it
                return _cosine(self.max_lr, self.min_lr, min(1.0, (i - peak) / down))
            case "sigmoid":  # 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2, which cannot overflow
                return base * (1 + math.tanh(gamma * (i - self.stepsize) / 2)) / 2
        raise ConfigError(_unknown(self.lr_policy))

    def problems(self) -> list[tuple[str, str]]:
        """Return what is wrong, as a list of (field, problem)."""
        problems = []
        if self.base_lr is None:
            problems.append(("base_lr", "base_lr is missing"))
        elif not (math.isfinite(self.base_lr) and self.base_lr >= 0):
            problems.append(("base_lr", f"base_lr: expected a number >= 0, got {self.base_lr}"))
        policy = self.lr_policy
        if policy not in _FIELDS:
            return [*problems, ("lr_policy", _unknown(policy))]
        for field in _FIELDS[policy]:
            value = getattr(self, field)
            if problem := "is missing" if value is None else _problem(policy, field, value):
                problems.append((field, f"lr_policy {policy!r} needs {field}, which {problem}"))
        return problems or self._problems_together()

    def _problems_together(self):
        """Return mistakes in how fields that are right alone fit together."""
        problems, policy = [], self.lr_policy
        if self.warmup_iter < 0:
            problems.append(("warmup_iter", f"warmup_iter: expected a number >= 0, got {self.warmup_iter}"))
        if policy in _TO_MAX_ITER and self.max_iter <= self.warmup_iter:
            problems.append(("warmup_iter", f"warmup_iter: lr_policy {policy!r} begins after the warm-up and "
                                            f"ends at max_iter: expected fewer than {self.max_iter}, got "
                                            f"{self.warmup_iter}"))
        if policy == "onecycle" and not self.base_lr <= self.max_lr:
            problems.append(("max_lr", f"max_lr: expected a number from base_lr on, {self.base_lr:g}, got "
                                       f"{self.max_lr:g}"))
        if policy == "onecycle" and not 0 <= self.pct_start <= 1:
            problems.append(("pct_start", f"pct_start: expected a number from 0 to 1, got "
                                          f"{self.pct_start:g}"))
        name = {"cosine": "base_lr", "onecycle": "max_lr"}.get(policy)
        if name and not 0 <= self.min_lr <= getattr(self, name):
            problems.append(("min_lr", f"min_lr: expected a number from 0 to {name}, "
                                       f"{getattr(self, name):g}, got {self.min_lr:g}"))
        return problems


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
        onecycle   half a cosine from base_lr up to max_lr, which it reaches at p = pct_start * max_iter - 1,
                   then half a cosine down to min_lr, at max_iter - 1 and from there on:
                   base_lr + (max_lr - base_lr) * (1 - cos(pi * iteration / p)) / 2,
                   min_lr + (max_lr - min_lr) * (1 + cos(pi * (iteration - p) / (max_iter - 1 - p))) / 2

    With warmup_iter = n > 0 the rate of iteration i < n is (i + 1) / n of that of iteration n, with which the
    policy begins. poly, cosine and onecycle then go from there to max_iter: they have iteration - n for
    iteration, and max_iter - n for max_iter. All others count from iteration 0, so that a stepvalue is the
    iteration that it names, with a warm-up or without.

    A rate too large for a float is infinite. Raises ConfigError for an unknown policy; check_lr_policy finds
    that and every other mistake beforehand.

    onecycle is PyTorch's OneCycleLR (cosine annealing, two phases), whose first rate is max_lr / div_factor
    and whose last is that / final_div_factor. Source: Smith and Topin 2018, arXiv 1708.07120.
    """
    return Schedule.of(param).rate(iteration)


def check_lr_policy(param: SolverParameter) -> list[tuple[str, str]]:
    """Return the mistakes in a SolverParameter's learning-rate fields, as a list of (field, problem)."""
    return Schedule.of(param).problems()


def unread_shaping(param: SolverParameter) -> list[tuple[str, list[str]]]:
    """Return (field, the policies that read it) of what a SolverParameter has and its lr_policy reads not."""
    policy, defaults = param.lr_policy, SolverParameter()
    return [(field, [name for name in POLICIES if field in _read_by(name)]) for field in SHAPING
            if field not in _read_by(policy) and getattr(param, field) != getattr(defaults, field)]


def _read_by(policy):
    return _FIELDS.get(policy, ()) + _OPTIONAL.get(policy, ())


def _is_given(param, field):
    value = getattr(param, field)
    return len(value) > 0 if field == "stepvalue" else param.HasField(field)


def _value(param, field):
    value = getattr(param, field)
    return decimal(value) if isinstance(value, float) else tuple(value) if field == "stepvalue" else value


def _cosine(first, last, done):
    """Return what stands between `first` and `last` where `done` of half a cosine has passed."""
    return last + (first - last) * ((1 + math.cos(math.pi * done)) / 2)


def _problem(policy, field, value):
    if field in ("stepsize", "max_iter"):
        return f"must be at least 1, but is {value}" if not value >= 1 and policy != "sigmoid" else ""
    if field == "stepvalue":
        if min(value) < 0:
            return f"must not be negative, but is {', '.join(map(str, value))}"
        increases = all(a < b for a, b in zip(value, value[1:], strict=False))
        return "" if increases else f"must increase, but is {', '.join(map(str, value))}"
    if not math.isfinite(value) or (value < 0 and (policy, field) not in _ANY_SIGN):
        return f"must be a number >= 0, but is {value}"
    return ""


def _unknown(policy):
    return (f"lr_policy: expected one of {', '.join(POLICIES)}; got {policy!r}{nearest(policy, POLICIES)}"
            if policy else f"lr_policy is missing; it is one of {', '.join(POLICIES)}")
