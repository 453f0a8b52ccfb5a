"""AdamW as an update rule of a user's own: one class, and no part of minidrop."""

import math

import numpy as np

from minidrop.solver.rules import UpdateRule


class OwnAdamW(UpdateRule):
    """w = (1 - lr * decay) * w, then Adam's step. Source: Loshchilov and Hutter 2019, algorithm 2."""

    slots, regularises = 2, False
    ranges = {"momentum": (0, 1), "momentum2": (0, 1), "delta": (0, math.inf)}

    def numbers(self, lr, decay, iteration):
        t = iteration + 1
        return (lr / (1 - self.momentum ** t), 1 - lr * decay, math.sqrt(1 - self.momentum2 ** t),
                self.momentum, 1 - self.momentum, self.momentum2, 1 - self.momentum2, self.delta)

    @staticmethod
    def formula(w, g, m, v, rate, shrink, root, momentum, rest, momentum2, rest2, delta):
        m = momentum * m + rest * g
        v = momentum2 * v + rest2 * (g * g)
        return shrink * w - rate * (m / (np.sqrt(v) / root + delta)), m, v
