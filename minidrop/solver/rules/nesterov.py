"""Nesterov's accelerated gradient."""

from typing import Any

from minidrop.solver.rules.base import UpdateRule, register_rule


@register_rule("Nesterov")
class Nesterov(UpdateRule):
    """h' = momentum * h + lr * g;  w -= (1 + momentum) * h' - momentum * h.

    Since momentum * h = h' - lr * g, the step is momentum * h' + lr * g, and the old h need not be kept.
    Source: Nesterov 1983, in the form of Sutskever et al. 2013, equations 3 and 4.
    """

    ranges = {"momentum": (0, 1)}

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        return lr, self.momentum

    @staticmethod
    def formula(w: Any, g: Any, h: Any, lr: float, momentum: float) -> tuple:
        g = g * lr
        h = h * momentum + g
        return w - (g + h * momentum), h
