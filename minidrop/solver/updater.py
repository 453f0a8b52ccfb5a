"""From gradients to new weights: clip, divide by iter_size, regularise, apply the rule. Caffe's order."""

import math

from minidrop.config import decimal
from minidrop.solver.rules import get_rule


class Updater:
    """The update rule of a SolverParameter with its history for every trained parameter of a net.

    `history["layer/name"]` is a list of arrays shaped like the parameter, zero at first; a snapshot keeps them.
    """

    def __init__(self, settings, net):
        self.rule = get_rule(settings)
        self.backend = net.backend
        self.parameters = {name: p for name, p in net.parameters().items() if p.requires_grad}
        self.decay = decimal(settings.weight_decay)
        self.l1 = settings.regularization_type == "L1"
        self.clip = decimal(settings.clip_gradients)
        with self.backend.active():
            self.history = {name: [self.backend.xp.zeros_like(p.data) for _ in range(self.rule.slots)]
                            for name, p in self.parameters.items()}

    def apply(self, iteration, lr, iter_size=1):
        """Change the weights by the gradients summed over `iter_size` backward passes, and forget the gradients."""
        with self.backend.active():
            self._apply(iteration, lr, self._clip_scale() / iter_size)

    def apply_if_finite(self, iteration, lr, iter_size=1, loss_scale=1.0):
        """As `apply`, for gradients that are `loss_scale` times too large; returns whether they are finite.

        If they are not, the weights stay as they are and only the gradients are forgotten.
        """
        with self.backend.active():
            norm = self._norm() / loss_scale
            finite = math.isfinite(norm)
            if finite:
                self._apply(iteration, lr, self._clip_scale(norm) / (iter_size * loss_scale))
            else:
                for parameter in self.parameters.values():
                    parameter.clear_grad()
            return finite

    def _apply(self, iteration, lr, scale):
        for name, parameter in self.parameters.items():
            self.rule.update(self.backend, parameter, self.history[name], lr * parameter.lr_mult,
                             self.decay * parameter.decay_mult, self.l1, scale, iteration)
            parameter.clear_grad()

    def permute(self, parameter, axis, order):
        """Give the entries of one axis of a parameter other places, and those of its whole history: new[i] = old[order[i]]."""
        history = next((self.history[name] for name, own in self.parameters.items() if own is parameter), [])
        with self.backend.active():
            places = self.backend.asarray(order)
            for array in (parameter.data, *history):
                array[...] = self.backend.xp.take(array, places, axis=axis)

    def _clip_scale(self, norm=None):
        if self.clip < 0:
            return 1.0
        norm = self._norm() if norm is None else norm
        return self.clip / norm if norm > self.clip else 1.0

    def _norm(self):
        # All at once: every sum that leaves a device is one more wait for it.
        return math.sqrt(self.backend.sum_of_squares(*(part for p in self.parameters.values() for part in _separate_parts(p))))


def _separate_parts(parameter):
    """Return arrays whose squares add up to those of the gradient; what its blocks leave out is zero."""
    if parameter.has_separate_blocks():
        return [block.data for block in parameter.blocks]
    return [parameter.grad]
