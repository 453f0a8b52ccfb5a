"""Adam."""

import math
from typing import Any

import numpy as np

from minidrop.solver.rules.base import UpdateRule, register_rule


@register_rule("Adam")
class Adam(UpdateRule):
    """Adam, with history m and v.

    m = momentum * m + (1 - momentum) * g
    v = momentum2 * v + (1 - momentum2) * g**2
    w -= lr * sqrt(1 - momentum2**t) / (1 - momentum**t) * m / (sqrt(v) + delta),  t = iteration + 1

    Source: Kingma and Ba 2015, the form at the end of section 2; delta is their epsilon-hat.
    """

    slots = 2
    ranges = {"momentum": (0, 1), "momentum2": (0, 1), "delta": (0, math.inf)}

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        t = iteration + 1
        correction = math.sqrt(1 - self.momentum2 ** t) / (1 - self.momentum ** t)
        return (lr * correction, self.momentum, 1 - self.momentum, self.momentum2, 1 - self.momentum2,
                self.delta)

    @staticmethod
    def formula(w: Any, g: Any, m: Any, v: Any, rate: float, keep: Any, rest: Any, keep2: Any, rest2: Any,
                delta: Any) -> tuple:
        v = v * keep2 + g * g * rest2
        m = m * keep + g * rest
        return w - m / (np.sqrt(v) + delta) * rate, m, v
