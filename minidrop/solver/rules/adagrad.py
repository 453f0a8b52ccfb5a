"""AdaGrad."""

import math

from minidrop.solver.rules.base import UpdateRule, register_rule


@register_rule("AdaGrad")
class AdaGrad(UpdateRule):
    """h += g**2;  w -= lr * g / (sqrt(h) + delta).

    Source: Duchi, Hazan and Singer 2011, the diagonal form.
    """

    ranges = {"delta": (0, math.inf)}
    without = ("momentum",)

    def step(self, xp, w, g, spare, history, lr, iteration):
        h, = history
        xp.square(g, out=spare)
        h += spare
        xp.sqrt(h, out=spare)
        spare += self.delta
        g /= spare
        g *= lr
        w -= g
