"""RMSProp."""

import math

from minidrop.solver.rules.base import UpdateRule, average, register_rule


@register_rule("RMSProp")
class RMSProp(UpdateRule):
    """h = rms_decay * h + (1 - rms_decay) * g**2;  w -= lr * g / (sqrt(h) + delta).

    Source: Tieleman and Hinton 2012, lecture 6.5.
    """

    ranges = {"rms_decay": (0, 1), "delta": (0, math.inf)}
    without = ("momentum",)

    def step(self, xp, w, g, spare, history, lr, iteration):
        h, = history
        xp.square(g, out=spare)
        average(h, spare, self.rms_decay)
        xp.sqrt(h, out=spare)
        spare += self.delta
        g /= spare
        g *= lr
        w -= g
