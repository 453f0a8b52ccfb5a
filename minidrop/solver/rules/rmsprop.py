"""RMSProp."""

import math
from typing import Any

import numpy as np

from minidrop.solver.rules.base import UpdateRule, register_rule


@register_rule("RMSProp")
class RMSProp(UpdateRule):
    """h = rms_decay * h + (1 - rms_decay) * g**2;  w -= lr * g / (sqrt(h) + delta).

    Source: Tieleman and Hinton 2012, lecture 6.5.
    """

    ranges = {"rms_decay": (0, 1), "delta": (0, math.inf)}
    without = ("momentum",)

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        return lr, self.rms_decay, 1 - self.rms_decay, self.delta

    @staticmethod
    def formula(w: Any, g: Any, h: Any, lr: float, keep: Any, rest: Any, delta: Any) -> tuple:
        h = h * keep + g * g * rest
        return w - g / (np.sqrt(h) + delta) * lr, h
