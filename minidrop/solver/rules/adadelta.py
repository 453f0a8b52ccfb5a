"""AdaDelta."""

import math
from typing import Any

import numpy as np

from minidrop.solver.rules.base import UpdateRule, register_rule


@register_rule("AdaDelta")
class AdaDelta(UpdateRule):
    """AdaDelta, with history h and d.

    h = momentum * h + (1 - momentum) * g**2
    u = g * sqrt((d + delta) / (h + delta))
    d = momentum * d + (1 - momentum) * u**2
    w -= lr * u

    Source: Zeiler 2012, algorithm 1.
    """

    slots = 2
    ranges = {"momentum": (0, 1), "delta": (0, math.inf)}

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        return lr, self.momentum, 1 - self.momentum, self.delta

    @staticmethod
    def formula(w: Any, g: Any, h: Any, d: Any, lr: float, keep: Any, rest: Any, delta: Any) -> tuple:
        h = h * keep + g * g * rest
        u = g * np.sqrt(d + delta) / np.sqrt(h + delta)
        return w - u * lr, h, d * keep + u * u * rest
