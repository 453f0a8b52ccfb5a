"""AdamW."""

import math
from typing import Any

import numpy as np

from minidrop.solver.rules.base import UpdateRule, register_rule


@register_rule("AdamW")
class AdamW(UpdateRule):
    """Adam whose decay shrinks the weights themselves, with history m and v.

    m = momentum * m + (1 - momentum) * g
    v = momentum2 * v + (1 - momentum2) * g**2
    w = (1 - lr * decay) * w - lr * m' / (sqrt(v') + delta),
    m' = m / (1 - momentum**t),  v' = v / (1 - momentum2**t),  t = iteration + 1

    The decay is no part of g, so m and v do not see it. Both corrections are the same for all weights: with
    c = sqrt(1 - momentum2**t) the step is lr * c / (1 - momentum**t) * m / (sqrt(v) + c * delta).

    Source: Loshchilov and Hutter 2019, algorithm 2; the rate of the decay is lr, as PyTorch has it.
    """

    slots = 2
    regularises = False
    ranges = {"momentum": (0, 1), "momentum2": (0, 1), "delta": (0, math.inf)}

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        t = iteration + 1
        root = math.sqrt(1 - self.momentum2 ** t)
        return (1 - lr * decay, lr * root / (1 - self.momentum ** t), self.momentum, 1 - self.momentum,
                self.momentum2, 1 - self.momentum2, self.delta * root)

    @staticmethod
    def formula(w: Any, g: Any, m: Any, v: Any, shrink: float, rate: Any, keep: Any, rest: Any, keep2: Any,
                rest2: Any, delta: Any) -> tuple:
        v = v * keep2 + g * g * rest2
        m = m * keep + g * rest
        return w * shrink - m / (np.sqrt(v) + delta) * rate, m, v
