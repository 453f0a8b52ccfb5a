"""Adam."""

import math

from minidrop.solver.rules.base import UpdateRule, average, register_rule


@register_rule("Adam")
class Adam(UpdateRule):
    """m = momentum * m + (1 - momentum) * g
    v = momentum2 * v + (1 - momentum2) * g**2
    w -= lr * sqrt(1 - momentum2**t) / (1 - momentum**t) * m / (sqrt(v) + delta),  t = iteration + 1

    history: m, v. Source: Kingma and Ba 2015, the form at the end of section 2; delta is their epsilon-hat.
    """

    slots = 2
    ranges = {"momentum": (0, 1), "momentum2": (0, 1), "delta": (0, math.inf)}

    def step(self, xp, w, g, spare, history, lr, iteration):
        m, v = history
        t = iteration + 1
        correction = math.sqrt(1 - self.momentum2 ** t) / (1 - self.momentum ** t)
        xp.square(g, out=spare)
        average(v, spare, self.momentum2)
        average(m, g, self.momentum)
        xp.sqrt(v, out=spare)
        spare += self.delta
        xp.divide(m, spare, out=spare)
        spare *= lr * correction
        w -= spare
