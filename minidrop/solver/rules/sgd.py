"""SGD with momentum."""

import numpy as np

from minidrop.autograd import Parameter
from minidrop.backend import Backend
from minidrop.solver.rules.base import UpdateRule, register_rule


@register_rule("SGD")
class SGD(UpdateRule):
    """h = momentum * h + lr * g;  w -= h.

    The learning rate is part of the history, as in Caffe. The whole update runs in the backend, which can
    use the compact blocks of a gradient without making it dense.
    """

    ranges = {"momentum": (0, 1)}

    def numbers(self, lr: float, decay: float, iteration: int) -> tuple[float, ...]:
        return (lr,)

    def update(self, backend: Backend, parameter: Parameter, history: list[np.ndarray], numbers: tuple,
               decay: float = 0.0, l1: bool = False, grad_scale: float | np.ndarray = 1.0) -> None:
        backend.sgd_update(parameter.data, history[0], parameter.blocks, numbers[0], self.momentum, decay, l1,
                           grad_scale)
