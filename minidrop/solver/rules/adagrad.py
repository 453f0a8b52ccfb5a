"""AdaGrad."""

import math
from typing import Any

import numpy as np

from minidrop.solver.rules.base import UpdateRule, register_rule


@register_rule("AdaGrad")
class AdaGrad(UpdateRule):
    """h += g**2;  w -= lr * g / (sqrt(h) + delta).

    Source: Duchi, Hazan and Singer 2011, the diagonal form.
    """

    ranges = {"delta": (0, math.inf)}
    without = ("momentum",)

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        return lr, self.delta

    @staticmethod
    def formula(w: Any, g: Any, h: Any, lr: float, delta: Any) -> tuple:
        h = h + g * g
        return w - g / (np.sqrt(h) + delta) * lr, h
