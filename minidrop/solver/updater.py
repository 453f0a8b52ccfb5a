"""From gradients to new weights: clip, divide by iter_size, regularise, apply the rule. Caffe's order."""

import math

from minidrop.config import decimal
from minidrop.errors import CaptureError
from minidrop.solver.rules import get_rule


class Updater:
    """The update rule of a SolverParameter with its history for every trained parameter of a net.

    `history["layer/name"]` is a list of arrays shaped like the parameter, zero at first; a snapshot keeps
    them.
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

    @property
    def constants(self):
        """The numbers of an update that do not change by themselves from iteration to iteration."""
        return (self.decay, self.l1, self.clip, *vars(self.rule).values(),
                *((p.lr_mult, p.decay_mult) for p in self.parameters.values()))

    def apply(self, iteration, lr, iter_size=1):
        """Change the weights by the gradients summed over `iter_size` backward passes, and forget the
        gradients.

        While a step is captured `lr` may be a float64 array (1,), and the norm of the gradients stays on the
        device. Raises CaptureError then where the rule is not capturable.
        """
        if self.backend.capturing and not self.rule.capturable:
            raise CaptureError(f"the rule {self.rule.name} updates with numbers that the host gives it in "
                               f"every iteration")
        with self.backend.active():
            scale = (self._clip_scale_on_device() if self.backend.capturing and self.clip >= 0
                     else self._clip_scale())
            self._apply(iteration, lr, scale / iter_size)

    def apply_if_finite(self, iteration, lr, iter_size=1, loss_scale=1.0):
        """As `apply`, for gradients that are `loss_scale` times too large; returns whether they are finite.

        If they are not, the weights stay as they are and only the gradients are forgotten. Not while a step
        is captured.
        """
        if self.backend.capturing:
            raise CaptureError("float16: the host has to see whether the gradients are finite before it "
                               "updates")
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
        rates = {1: lr}        # an array is multiplied on the device: once for each multiplier
        for name, parameter in self.parameters.items():
            factor = parameter.lr_mult
            rate = rates[factor] if factor in rates else rates.setdefault(factor, lr * factor)
            self.rule.update(self.backend, parameter, self.history[name], rate,
                             self.decay * parameter.decay_mult, self.l1, scale, iteration)
            parameter.clear_grad()

    def permute(self, parameter, axis, order):
        """Give the entries of one axis of a parameter other places, and those of its whole history: new[i] =
        old[order[i]]."""
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

    def _clip_scale_on_device(self):
        """As `_clip_scale`, to the last bit, as a float64 array (1,)."""
        xp = self.backend.xp
        norm = xp.sqrt(self.backend.squares(*self._parts())).reshape(1)
        return xp.where(norm > self.clip, self.clip / xp.maximum(norm, self.clip), 1.0)

    def _norm(self):
        return math.sqrt(self.backend.sum_of_squares(*self._parts()))

    def _parts(self):
        # All at once: every sum that leaves a device is one more wait for it.
        return [part for p in self.parameters.values() for part in _separate_parts(p)]


def _separate_parts(parameter):
    """Return arrays whose squares add up to those of the gradient; what its blocks leave out is zero."""
    if parameter.has_separate_blocks():
        return [block.data for block in parameter.blocks]
    return [parameter.grad]
