"""Updater: clips, divides by iter_size, regularises, and applies the update rule, in Caffe's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from minidrop.autograd import Parameter
from minidrop.config import SolverParameter, decimal
from minidrop.errors import CaptureError, NonFiniteError
from minidrop.net import Net
from minidrop.solver.rule_update import (
    RuleUpdate,
    device_gradient_norm,
    gradient_norm,
    nonfinite_gradient,
)
from minidrop.solver.rules import UpdateRule, get_rule


class Updater:
    """What updates the parameters of a net: groups of them, each with a rule and its history.

    `parameters` and `history` are of all groups, by "layer/name": history["layer/name"] is a list of arrays
    shaped like the parameter, zero at first; snapshots keep them. `shows_norm`: whether the norm of the
    gradients has to be right also where nothing is clipped. `rates`: function(lr) that gives the learning
    rate of each group where that of the first is lr; by default all have the same. Without groups, all that
    is trained in the net is one, with the rule of the settings.
    """

    def __init__(self, settings: SolverParameter, net: Net, groups: Sequence[RuleUpdate] | None = None,
                 rates: Callable[[float], Sequence[float]] | None = None):
        if groups is None:
            trained = {name: p for name, p in net.parameters().items() if p.requires_grad}
            groups = [RuleUpdate(get_rule(settings), net.backend, trained, decimal(settings.weight_decay),
                                 settings.regularization_type == "L1", settings.decay_axes)]
        self.backend, self.groups, self.rates = net.backend, list(groups), rates
        own = {id(p): group.history[name] for group in groups for name, p in group.parameters.items()}
        self.parameters = {name: p for name, p in net.parameters().items() if id(p) in own}
        self.history = {name: own[id(p)] for name, p in self.parameters.items()}
        self.clip = decimal(settings.clip_gradients)
        self.shows_norm = settings.log_gradient_norm

    @property
    def rule(self) -> UpdateRule:
        """The rule of the first group; those of the others are of the same type."""
        return self.groups[0].rule

    @property
    def constants(self) -> tuple:
        """The numbers of an update that no policy changes between iterations."""
        return (self.clip, *(number for group in self.groups for number in group.constants))

    def numbers(self, iteration: int, lr: float) -> dict[tuple, tuple[float, ...]]:
        """Return {(group, lr_mult, decay_mult): numbers for its rule's formula} of an iteration."""
        rates = [lr] * len(self.groups) if self.rates is None else self.rates(lr)
        return {(i, *multiples): numbers for i, group in enumerate(self.groups)
                for multiples, numbers in group.numbers(iteration, rates[i]).items()}

    def update(self, numbers: Mapping[tuple, tuple], scale: float | np.ndarray = 1.0) -> None:
        """Update all parameters by `scale` times their gradients, and clear those; see RuleUpdate.update."""
        for i, group in enumerate(self.groups):
            group.update({place[1:]: own for place, own in numbers.items() if place[0] == i}, scale)

    def permute(self, parameter: Parameter, axis: int, order: np.ndarray) -> None:
        """Permute one axis of a parameter and of its history: new[i] = old[order[i]]."""
        history: Sequence[np.ndarray] = next((self.history[name] for name, own in self.parameters.items()
                                              if own is parameter), ())
        with self.backend.active():
            places = self.backend.asarray(order)
            for array in (parameter.data, *history):
                array[...] = self.backend.xp.take(array, places, axis=axis)

    def apply(self, iteration: int, lr: float, iter_size: int = 1, norm: float | None = None) -> str | None:
        """Update the weights with the gradients of `iter_size` backward passes, and clear the gradients.

        norm: of the gradients as they are, if known. If a gradient is not finite, nothing is updated, and the
        "layer/name" of the last such parameter, the one nearest to the loss, is returned; otherwise None.
        """
        with self.backend.active():
            norm = self.norm() if norm is None else norm
            if broken := self.nonfinite(norm):
                return broken
            self.update(self.numbers(iteration, lr), self._clip_scale(norm) / iter_size)
            return None

    def nonfinite(self, norm: float) -> str | None:
        """Return the "layer/name" of the last parameter whose gradient is not finite, if the norm says so."""
        with self.backend.active():
            return None if math.isfinite(norm) else nonfinite_gradient(self.backend, self.parameters)

    def apply_numbers(self, numbers: Mapping[tuple, tuple[np.ndarray, ...]],
                      iter_size: int = 1) -> np.ndarray:
        """Update as `apply` does, without waiting for the device, for captured steps; returns `device_norm`.

        numbers: as `Updater.numbers` returns them, but each a float64 array (1,) on the device.
        """
        with self.backend.active():
            norm = self.device_norm()
            self.backend.refuse(~self.backend.xp.isfinite(norm), _nonfinite_gradient)
            self.update(numbers, self._clip_scale_on_device(norm) / iter_size)
            return norm

    def apply_if_finite(self, iteration: int, lr: float, iter_size: int = 1, loss_scale: float = 1.0,
                        norm: float | None = None) -> bool:
        """Update with gradients that are `loss_scale` times too large; returns whether they are finite.

        norm: of the gradients as they are, if known. If they are not finite, the weights are unchanged and
        the gradients are cleared. Raises CaptureError while a step is captured.
        """
        if self.backend.capturing:
            raise CaptureError("float16: the host has to see whether the gradients are finite before it "
                               "updates")
        with self.backend.active():
            norm = (self.norm() if norm is None else norm) / loss_scale
            finite = math.isfinite(norm)
            if finite:
                self.update(self.numbers(iteration, lr), self._clip_scale(norm) / (iter_size * loss_scale))
            else:
                for parameter in self.parameters.values():
                    parameter.clear_grad()
            return finite

    def norm(self) -> float:
        """Return the norm of all gradients, of all passes of an iteration, before they are clipped.

        Where it is neither shown nor held against clip_gradients, it only tells whether they are finite.
        """
        with self.backend.active():
            return gradient_norm(self.backend, self.parameters.values(), self._is_exact)

    def device_norm(self) -> np.ndarray:
        """Return the result of `norm` as a float64 array (1,), without waiting for the device."""
        return device_gradient_norm(self.backend, self.parameters.values(), self._is_exact)

    @property
    def _is_exact(self):
        return self.shows_norm or self.clip >= 0

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


def _nonfinite_gradient():
    return NonFiniteError("the loss is finite, but a gradient is not; nothing was updated")
