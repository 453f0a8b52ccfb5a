"""Updater: clips, divides by iter_size, regularises, and applies the update rule, in Caffe's order."""

from __future__ import annotations

import math

import numpy as np

from minidrop.autograd import Parameter
from minidrop.config import SolverParameter, decimal
from minidrop.errors import CaptureError, NonFiniteError, fits_into_memory
from minidrop.net import Net
from minidrop.solver.rules import get_rule


class Updater:
    """The update rule of a SolverParameter with its history for every trained parameter of a net.

    `history["layer/name"]` is a list of arrays shaped like the parameter, zero at first; snapshots keep
    them.
    """

    def __init__(self, settings: SolverParameter, net: Net):
        self.rule = get_rule(settings)
        self.backend = net.backend
        self.parameters = {name: p for name, p in net.parameters().items() if p.requires_grad}
        self.decay, self.decay_axes = decimal(settings.weight_decay), settings.decay_axes
        self.l1 = settings.regularization_type == "L1"
        self.clip = decimal(settings.clip_gradients)
        with self.backend.active():
            self.history = {name: self._new_history(name) for name in self.parameters}

    def _new_history(self, name):
        with fits_into_memory(f"{name}: what the solver keeps of it"):
            return [self.backend.xp.zeros_like(self.parameters[name].data) for _ in range(self.rule.slots)]

    @property
    def constants(self) -> tuple:
        """The numbers of an update that no policy changes between iterations."""
        return (self.decay, self.l1, self.clip, *vars(self.rule).values(),
                *map(self.multiples, self.parameters.values()))

    def multiples(self, parameter: Parameter) -> tuple[float, float]:
        """Return (lr_mult, decay_mult) of a parameter; no decay acts on one of fewer axes than decay_axes."""
        return parameter.lr_mult, parameter.decay_mult if parameter.ndim >= self.decay_axes else 0.0

    def numbers(self, iteration: int, lr: float) -> dict[tuple[float, float], tuple[float, ...]]:
        """Return {(lr_mult, decay_mult): numbers for the rule's formula} of an iteration; see `multiples`."""
        pairs = dict.fromkeys(map(self.multiples, self.parameters.values()))
        return {(a, b): tuple(map(float, self.rule.numbers(lr * a, self.decay * b, iteration)))
                for a, b in pairs}

    def apply(self, iteration: int, lr: float, iter_size: int = 1) -> str | None:
        """Update the weights with the gradients of `iter_size` backward passes, and clear the gradients.

        If a gradient is not finite, nothing is updated, and the "layer/name" of the last such parameter, the
        one nearest to the loss, is returned; otherwise None.
        """
        with self.backend.active():
            norm = self._norm()
            if not math.isfinite(norm) and (broken := self._broken()):
                return broken
            self._apply(self.numbers(iteration, lr), self._clip_scale(norm) / iter_size)
            return None

    def _broken(self):
        """Return the name of the last parameter with a NaN or infinity in its gradient, or None."""
        isfinite = self.backend.xp.isfinite
        return next((name for name, p in reversed(self.parameters.items())
                     if not all(bool(isfinite(part).all()) for part in _blocks(p))), None)

    def apply_numbers(self, numbers: dict[tuple[float, float], tuple[np.ndarray, ...]],
                      iter_size: int = 1) -> None:
        """Update as `apply` does, without waiting for the device, for captured steps.

        numbers: as `Updater.numbers` returns them, but each a float64 array (1,) on the device.
        """
        with self.backend.active():
            norm = self._device_norm()
            self.backend.refuse(~self.backend.xp.isfinite(norm), _nonfinite_gradient)
            self._apply(numbers, self._clip_scale_on_device(norm) / iter_size)

    def apply_if_finite(self, iteration: int, lr: float, iter_size: int = 1, loss_scale: float = 1.0) -> bool:
        """Update with gradients that are `loss_scale` times too large; returns whether they are finite.

        If not, the weights are unchanged and the gradients are cleared. Raises CaptureError while a step is
        captured.
        """
        if self.backend.capturing:
            raise CaptureError("float16: the host has to see whether the gradients are finite before it "
                               "updates")
        with self.backend.active():
            norm = self._norm() / loss_scale
            finite = math.isfinite(norm)
            if finite:
                self._apply(self.numbers(iteration, lr), self._clip_scale(norm) / (iter_size * loss_scale))
            else:
                for parameter in self.parameters.values():
                    parameter.clear_grad()
            return finite

    def _apply(self, numbers, scale):
        for name, parameter in self.parameters.items():
            multiples = self.multiples(parameter)
            with fits_into_memory(f"{name}: its update"):
                self.rule.update(self.backend, parameter, self.history[name], numbers[multiples],
                                 self.decay * multiples[1], self.l1, scale)
            parameter.clear_grad()

    def permute(self, parameter: Parameter, axis: int, order: np.ndarray) -> None:
        """Permute one axis of a parameter and of its history: new[i] = old[order[i]]."""
        history = next((self.history[name] for name, own in self.parameters.items() if own is parameter), [])
        with self.backend.active():
            places = self.backend.asarray(order)
            for array in (parameter.data, *history):
                array[...] = self.backend.xp.take(array, places, axis=axis)

    def _clip_scale(self, norm):
        if self.clip < 0:
            return 1.0
        return self.clip / norm if norm > self.clip else 1.0

    def _clip_scale_on_device(self, norm):
        """Return the result of `_clip_scale`, bit for bit, as a float64 array (1,)."""
        if self.clip < 0:
            return 1.0
        xp = self.backend.xp
        return xp.where(norm > self.clip, self.clip / xp.maximum(norm, self.clip), 1.0)

    def _norm(self):
        return math.sqrt(self.backend.sum_of_squares(*self._parts()))

    def _device_norm(self):
        """Return the result of `_norm` as a float64 array (1,), without waiting for the device."""
        return self.backend.xp.sqrt(self.backend.squares(*self._parts())).reshape(1)

    def _parts(self):
        """Return arrays that hold all gradients; with clipping, the sum of their squares is the gradients'.

        Without clipping they only have to show whether the gradients are finite, so blocks may overlap and
        nothing dense is written. All are summed at once, since each sum read from a device waits for it.
        """
        parts_of = _blocks if self.clip < 0 else self._separate_parts
        return [part for p in self.parameters.values() for part in parts_of(p)]

    def _separate_parts(self, parameter):
        """Return arrays whose squares add up to those of the gradient; what its blocks leave out is zero."""
        if parameter.has_separate_blocks():
            return _blocks(parameter)
        return self.backend.norm_parts(parameter.data, parameter.blocks)


def _nonfinite_gradient():
    return NonFiniteError("the loss is finite, but a gradient is not; nothing was updated")


def _blocks(parameter):
    return [block.data for block in parameter.blocks]
