"""More elementwise functions of one tensor, as Caffe has them.

Its kept set is passed on where f(0) = 0, and with `carry`, which layers set, anywhere: see `real_operand`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Function, Tensor
from minidrop.config.numbers import real_number
from minidrop.errors import ConfigError
from minidrop.functions.checks import check_name
from minidrop.functions.operands import real_operand

if TYPE_CHECKING:
    from minidrop.backend.generic.base import Backend


class ELU(Function):
    """y = x where x > 0, alpha (exp(x) - 1) elsewhere (Clevert et al. 2016)."""

    __slots__ = ("alpha", "x", "y")
    kept_rule = "same"

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        xp = backend.xp
        self.x = x
        self.y = xp.maximum(x, 0) + x.dtype.type(self.alpha) * xp.expm1(xp.minimum(x, 0))
        return self.y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy * backend.xp.where(self.x > 0, gy.dtype.type(1), self.y + gy.dtype.type(self.alpha))


class AbsVal(Function):
    """y = |x|, with the derivative 0 at 0."""

    __slots__ = ("x",)
    kept_rule = "same"

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        self.x = x
        return backend.xp.abs(x)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy * backend.xp.sign(self.x)


class BNLL(Function):
    """y = log(1 + exp(x)), evaluated as max(x, 0) + log(1 + exp(-|x|)), which cannot overflow."""

    __slots__ = ("x",)
    kept_rule = "same"

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        xp = backend.xp
        self.x = x
        return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy * backend.activate(self.x, None, "sigmoid", 1)


class Exp(Function):
    """y = base ^ (shift + scale x); base None: e."""

    __slots__ = ("scale", "shift", "y")
    kept_rule = "same"

    def __init__(self, base: float | None = None, scale: float = 1.0, shift: float = 0.0):
        log_base = 1.0 if base is None else math.log(base)
        self.scale, self.shift = log_base * scale, log_base * shift

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        number = x.dtype.type
        plain = self.scale == 1 and self.shift == 0
        self.y = backend.xp.exp(x if plain else x * number(self.scale) + number(self.shift))
        return self.y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy * self.y * gy.dtype.type(self.scale)


class Log(Function):
    """y = log(shift + scale x) to a base; None: e."""

    __slots__ = ("log_base", "scale", "shift", "inner")
    kept_rule = "same"

    def __init__(self, base: float | None = None, scale: float = 1.0, shift: float = 0.0):
        self.log_base = 1.0 if base is None else math.log(base)
        self.scale, self.shift = scale, shift

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        number = x.dtype.type
        plain = self.scale == 1 and self.shift == 0
        self.inner = x if plain else x * number(self.scale) + number(self.shift)
        y = backend.xp.log(self.inner)
        return y if self.log_base == 1 else y * number(1 / self.log_base)

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        return gy * gy.dtype.type(self.scale / self.log_base) / self.inner


class Clip(Function):
    """y = max(low, min(x, high)), with the derivative 1 where low <= x <= high, else 0. None: no bound."""

    __slots__ = ("low", "high", "x")
    kept_rule = "same"

    def __init__(self, low: float | None, high: float | None):
        self.low, self.high = low, high

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        number = x.dtype.type
        self.x = y = x
        if self.high is not None:
            y = backend.xp.minimum(y, number(self.high))
        return y if self.low is None else backend.xp.maximum(y, number(self.low))

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        number = gy.dtype.type
        gx = gy if self.high is None else gy * (self.x <= number(self.high))
        return gx if self.low is None else gx * (self.x >= number(self.low))


class SelfGate(Function):
    """y = x P(x), P a distribution function.

    Sources: Hendrycks and Gimpel 2016 (GELU), Ramachandran et al. 2017 (Swish). kind, beta: see
    Backend.self_gate. The derivative is computed with y, as both share an exponential, and kept in its place.
    """

    __slots__ = ("kind", "beta", "slope")
    kept_rule = "same"

    def __init__(self, kind: str, beta: float = 1.0):
        self.kind, self.beta = kind, beta

    def forward(self, backend: Backend, x: np.ndarray) -> np.ndarray:
        y, self.slope = backend.self_gate(x, self.kind, self.beta)
        return y

    def backward(self, backend: Backend, gy: np.ndarray, wanted: Sequence[bool]) -> np.ndarray:
        gx = backend.empty(gy.shape, gy.dtype)
        g, slope, out = gy.reshape(-1), self.slope.reshape(-1), gx.reshape(-1)

        def some(first, last):
            backend.xp.multiply(g[first:last], slope[first:last], out=out[first:last])

        backend.in_chunks(some, gy.size, 1, gy.dtype.itemsize)
        return gx


def elu(x: Any, alpha: float = 1.0) -> Tensor:
    """Return x where it is positive, alpha (exp(x) - 1) elsewhere."""
    return ELU(alpha).apply(real_operand(x))


def absval(x: Any) -> Tensor:
    """Return |x|."""
    return AbsVal().apply(real_operand(x, integers=True))


def bnll(x: Any, carry: bool = False) -> Tensor:
    """Return log(1 + exp(x))."""
    return BNLL().apply(real_operand(x, False, carry))


def exp(x: Any, base: float | None = None, scale: float = 1.0, shift: float = 0.0,
        carry: bool = False) -> Tensor:
    """Return base ^ (shift + scale x), by default exp(x)."""
    _check_base("exp", base)
    return Exp(base, scale, shift).apply(real_operand(x, False, carry))


def log(x: Any, base: float | None = None, scale: float = 1.0, shift: float = 0.0,
        carry: bool = False) -> Tensor:
    """Return the logarithm of shift + scale x to a base, by default the natural one."""
    _check_base("log", base)
    scale, shift = real_number("log: scale", scale), real_number("log: shift", shift)
    return Log(base, scale, shift).apply(real_operand(x, shift == 1, carry))


def _check_base(what, base):
    if base is not None and not (real_number(f"{what}: base", base) > 0 and (what == "exp" or base != 1)):
        not_one = ", and not 1" if what == "log" else ""
        raise ConfigError(f"{what}: the base must be above 0{not_one}, got {base:g}")


def clip(x: Any, low: float | None = None, high: float | None = None, carry: bool = False) -> Tensor:
    """Return max(low, min(x, high)); None: no bound. Integers stay integers between whole bounds.

    Raises ConfigError where low is above high, or one of them is no number.
    """
    for name, bound in (("low", low), ("high", high)):
        if bound is not None:
            real_number(f"clip: {name}", bound)
    if low is not None and high is not None and low > high:
        raise ConfigError(f"clip: the lower bound {low:g} is above the upper one, {high:g}")
    whole = all(bound is None or isinstance(bound, int | np.integer) for bound in (low, high))
    return Clip(low, high).apply(real_operand(x, (low or 0) <= 0 <= (high or 0), carry, whole))


def swish(x: Any, beta: float = 1.0) -> Tensor:
    """Return x / (1 + exp(-beta x))."""
    return SelfGate("logistic", beta).apply(real_operand(x))


def gelu(x: Any, approximate: str = "none") -> Tensor:
    """Return x Phi(x), Phi the normal distribution's function; approximate: "none", or "tanh" by a tanh."""
    check_name("gelu", approximate, ("none", "tanh"))
    return SelfGate("tanh" if approximate == "tanh" else "normal").apply(real_operand(x))


def threshold(x: Any, limit: float = 0.0, carry: bool = False) -> Tensor:
    """Return 1 where x > limit, 0 elsewhere, without gradient."""
    x = real_operand(x, limit >= 0, carry)
    above = x.data > x.dtype.type(limit)
    return Tensor(above.astype(x.dtype), backend=x.backend, kept=x.kept, kept_axis=x.kept_axis)
