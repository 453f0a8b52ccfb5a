"""Rules in PyTorch's form, where it differs from Caffe's (minidrop/solver/rules)."""

from __future__ import annotations

import math
from typing import Any

from minidrop.solver.rules import UpdateRule, adam


class GradientMomentum(UpdateRule):
    """h = momentum * h + g;  w -= lr * h. The history holds gradients: a new lr acts on all of it at once.

    Source: torch.optim.SGD with dampening 0; Sutskever et al. 2013, section 2, name the difference.
    """

    name = "SGD"
    ranges = {"momentum": (0, 1)}

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        return lr, self.momentum

    @staticmethod
    def formula(w: Any, g: Any, h: Any, lr: float, momentum: float) -> tuple:
        h = h * momentum + g
        return w - h * lr, h


class GradientNesterov(GradientMomentum):
    """h' = momentum * h + g;  w -= lr * (g + momentum * h').

    Source: torch.optim.SGD with nesterov=True.
    """

    name = "Nesterov"

    @staticmethod
    def formula(w: Any, g: Any, h: Any, lr: float, momentum: float) -> tuple:
        h = h * momentum + g
        return w - (g + h * momentum) * lr, h


class AdamOfCorrected(adam.Adam):
    """Adam whose delta is added to the root of the corrected v, not of v itself.

    w -= lr * m' / (sqrt(v') + delta),  m' = m / (1 - momentum**t),  v' = v / (1 - momentum2**t)

    Source: Kingma and Ba 2015, algorithm 1, which torch.optim.Adam follows.
    """

    name = "Adam"

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        *others, delta = super().numbers(lr, decay, iteration)
        return *others, delta * math.sqrt(1 - self.momentum2 ** (iteration + 1))
