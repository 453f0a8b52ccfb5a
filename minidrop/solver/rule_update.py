"""RuleUpdate: parameters that one rule updates; and the norm of gradients that come in blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from minidrop.autograd import Parameter
from minidrop.backend import Backend
from minidrop.errors import fits_into_memory
from minidrop.solver.rules import UpdateRule


class RuleUpdate:
    """Parameters that one rule updates, and what the rule keeps of them.

    `history["layer/name"]` is a list of arrays shaped like the parameter, zero at first. decay: of all
    weights; with l1 it is that of their signs. It acts on parameters of at least decay_axes axes.
    """

    def __init__(self, rule: UpdateRule, backend: Backend, parameters: Mapping[str, Parameter],
                 decay: float = 0.0, l1: bool = False, decay_axes: int = 0):
        self.rule, self.backend, self.parameters = rule, backend, dict(parameters)
        self.decay, self.l1, self.decay_axes = decay, l1, decay_axes
        with backend.active():
            self.history = {name: self._new_history(name) for name in self.parameters}

    def _new_history(self, name):
        with fits_into_memory(f"{name}: what the solver keeps of it"):
            return [self.backend.xp.zeros_like(self.parameters[name].data) for _ in range(self.rule.slots)]

    @property
    def constants(self) -> tuple:
        """The numbers of an update that no policy changes between iterations."""
        return (self.decay, self.l1, *vars(self.rule).values(),
                *map(self.multiples, self.parameters.values()),
                *(parameter.requires_grad for parameter in self.parameters.values()))

    def multiples(self, parameter: Parameter) -> tuple[float, float]:
        """Return (lr_mult, decay_mult) of a parameter; no decay acts on one of fewer axes than decay_axes."""
        return parameter.lr_mult, parameter.decay_mult if parameter.ndim >= self.decay_axes else 0.0

    def numbers(self, iteration: int, lr: float) -> dict[tuple[float, float], tuple[float, ...]]:
        """Return {(lr_mult, decay_mult): numbers for the rule's formula} of an iteration; see `multiples`."""
        pairs = dict.fromkeys(map(self.multiples, self.parameters.values()))
        return {(a, b): tuple(map(float, self.rule.numbers(lr * a, self.decay * b, iteration)))
                for a, b in pairs}

    def update(self, numbers: Mapping[tuple[float, float], tuple], scale: float | np.ndarray = 1.0) -> None:
        """Update all parameters by `scale` times their gradients, and clear those.

        One that requires no gradient now is frozen: momentum and weight decay do not act on it either.
        numbers: as the method `numbers` returns them. In captured steps they and scale are float64 arrays
        (1,) on the device.
        """
        for name, parameter in self.parameters.items():
            multiples = self.multiples(parameter)
            if not parameter.requires_grad:
                parameter.clear_grad()
                continue
            with fits_into_memory(f"{name}: its update"):
                self.rule.update(self.backend, parameter, self.history[name], numbers[multiples],
                                 self.decay * multiples[1], self.l1, scale)
            parameter.note_change()
            parameter.clear_grad()


def gradient_norm(backend: Backend, parameters: Iterable[Parameter], exact: bool = True) -> float:
    """Return sqrt(sum of the squares of all gradients), from their blocks; nothing dense is kept.

    It is added up in float64, on a device in one pass that is waited for once. exact: False if it only has to
    show whether all gradients are finite. Then blocks of one parameter that overlap are not added first.
    """
    return math.sqrt(backend.sum_of_squares(*_parts(backend, parameters, exact)))


def device_gradient_norm(backend: Backend, parameters: Iterable[Parameter],
                         exact: bool = True) -> np.ndarray:
    """Return the result of `gradient_norm` as a float64 array (1,), without waiting for the device."""
    return backend.xp.sqrt(backend.squares(*_parts(backend, parameters, exact))).reshape(1)


def nonfinite_gradient(backend: Backend, parameters: dict[str, Parameter]) -> str | None:
    """Return the name of the last parameter with a NaN or infinity in its gradient, or None.

    The last one of a net is the one nearest to the loss.
    """
    isfinite = backend.xp.isfinite
    return next((name for name, p in reversed(parameters.items())
                 if not all(bool(isfinite(part).all()) for part in _blocks(p))), None)


def _parts(backend, parameters, exact):
    """Return arrays the sum of whose squares is that of all gradients, if exact.

    All are summed at once, since each sum read from a device waits for it.
    """
    return [part for p in parameters for part in (_separate_parts(backend, p) if exact else _doubtful(p))]


def _doubtful(parameter):
    """Return the blocks that may hold a NaN or infinity."""
    return [block.data for block in parameter.blocks
            if block.late is None or not block.late.is_surely_finite]


def _separate_parts(backend, parameter):
    """Return arrays whose squares add up to those of the gradient; what its blocks leave out is zero."""
    separate = parameter.has_separate_blocks()
    if any(block.late is not None for block in parameter.blocks):
        norm = backend.late_norm(parameter.data, parameter.blocks, separate)
        if norm is not None:
            return [np.array([norm])]
    if separate:
        return _blocks(parameter)
    return backend.norm_parts(parameter.data, parameter.blocks)


def _blocks(parameter):
    return [block.data for block in parameter.blocks]
