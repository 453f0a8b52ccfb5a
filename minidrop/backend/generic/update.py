"""Updates of the weights."""

import math
from typing import Any

import numpy as np

from minidrop.backend.generic.arrays import Arrays


class Updates(Arrays):
    """The update rules on a device, and the norm of gradients."""

    def sgd_update(self, W: np.ndarray, history: np.ndarray, blocks: Any, lr: float, momentum: float,
                   decay: float, l1: bool, grad_scale: Any) -> None:
        """history = momentum * history + lr * (grad_scale * gW + decay * R(W));  W -= history. In place.

        `blocks` is the gradient as a list of `Block`s (see autograd.tensor); R(W) = sign(W) if `l1` else W.
        Without momentum the history is never read; without momentum and decay it is left unchanged, and so
        are weights that have no gradient. For captured steps `lr` and `grad_scale` may be float64 arrays
        (1,), and nothing changes if `trouble` is set.
        """
        xp = self.xp
        if not momentum and not decay:
            for block in blocks:
                block.add_to(self, W, -lr * grad_scale)
            return
        history *= momentum
        if decay:
            history += (lr * decay) * (xp.sign(W) if l1 else W)
        for block in blocks:
            block.add_to(self, history, lr * grad_scale)
        W -= history

    def rule_update(self, W: np.ndarray, history: Any, blocks: Any, rule: Any, numbers: Any, decay: float,
                    l1: bool, grad_scale: Any) -> None:
        """W, history = rule.formula(W, g, *history, *numbers), g = grad_scale * gW + decay * R(W). In place.

        `blocks` and R as in `sgd_update`; `rule`: an UpdateRule, whose formula is elementwise. For captured
        steps `numbers` and `grad_scale` may be float64 arrays (1,), and nothing changes if `trouble` is set.
        """
        xp, number = self.xp, W.dtype.type
        grad_scale, *numbers = (_as_number(one, number) for one in (grad_scale, *numbers))
        if len(blocks) == 1:
            g = blocks[0].dense(self, W.shape) * grad_scale
        else:
            g = self.zeros(W.shape, W.dtype)
            for block in blocks:
                block.add_to(self, g, 1)
            g *= grad_scale
        if decay:
            g += (xp.sign(W) if l1 else W) * number(decay)
        old = W, *history
        # A formula may return one of them for another: none is written before all are read.
        new = [one.copy() if any(one is array for array in old) else one
               for one in rule.formula(W, g, *history, *numbers)]
        for array, value in zip(old, new, strict=True):
            self.keep_if_well(array, value)

    def keep_if_well(self, target: Any, new: Any) -> None:
        """target[...] = new, unless `trouble` is set on the device."""
        target[...] = new

    def norm_parts(self, W: np.ndarray, blocks: Any) -> list:
        """Return arrays whose squares add up to those of a gradient of W in blocks that may overlap."""
        total = self.zeros(W.shape, W.dtype)
        for block in blocks:
            block.add_to(self, total, 1)
        return [total]

    def sum_of_squares(self, *arrays: np.ndarray) -> float:
        """Return the sum of squares of all elements of the arrays as a host float: one synchronization."""
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(self.squares(*arrays))
        if math.isfinite(total) or not arrays:
            return total
        # Squares overflow float32 for numbers above 1.8e19, but not float64.
        return float(sum(self.xp.square(array.astype(np.float64)).sum() for array in arrays))

    def squares(self, *arrays: np.ndarray) -> float:
        """As `sum_of_squares`, but the float64 stays on the device, shape (), without synchronization."""
        total = self.xp.zeros((), np.float64)
        for array in arrays:
            flat = array.reshape(-1)
            total = total + self.xp.dot(flat, flat)
        return total


def _as_number(one, number):
    """Return a number as type `number`; one that is an array on the device stays there, with shape ()."""
    return one.astype(number).reshape(()) if getattr(one, "shape", ()) else number(one)
