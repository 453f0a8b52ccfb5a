"""AdaDelta."""

import math

from minidrop.solver.rules.base import UpdateRule, average, register_rule


@register_rule("AdaDelta")
class AdaDelta(UpdateRule):
    """h = momentum * h + (1 - momentum) * g**2
    u = g * sqrt((d + delta) / (h + delta))
    d = momentum * d + (1 - momentum) * u**2
    w -= lr * u

    history: h, d. Source: Zeiler 2012, algorithm 1.
    """

    slots = 2
    ranges = {"momentum": (0, 1), "delta": (0, math.inf)}

    def step(self, xp, w, g, spare, history, lr, iteration):
        h, d = history
        xp.square(g, out=spare)
        average(h, spare, self.momentum)
        # Two square roots instead of one of the ratio: the ratio would need another array.
        xp.add(d, self.delta, out=spare)
        xp.sqrt(spare, out=spare)
        g *= spare
        xp.add(h, self.delta, out=spare)
        xp.sqrt(spare, out=spare)
        g /= spare
        xp.square(g, out=spare)
        average(d, spare, self.momentum)
        g *= lr
        w -= g
