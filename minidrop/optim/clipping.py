"""The norm of gradients, and clipping by it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from minidrop.autograd import Parameter
from minidrop.config.numbers import real_number
from minidrop.errors import NonFiniteError
from minidrop.functions.explained import says_arguments
from minidrop.solver.named import Parameters, named_parameters
from minidrop.solver.rule_update import gradient_norm, nonfinite_gradient


@says_arguments
def clip_grad_norm(params: Parameters, most: float) -> float:
    """Scale the gradients down to a common L2 norm of `most` where it is above; returns it as it was.

        g *= most / norm  if norm > most,  norm = sqrt(sum of the squares of all gradients)

    Gradients in compact blocks stay compact. torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6; this is
    Caffe's clip_gradients. Raises NonFiniteError, with nothing changed, if a gradient is not finite, and
    ConfigError for a `most` that is no number above 0.
    """
    most = real_number("clip_grad_norm: most", most, "a number above 0", lambda number: number > 0)
    named = named_parameters(params)
    norm = total_norm(named.values())
    require_finite("clip_grad_norm", named, norm)
    if norm > most:
        for parameter in named.values():
            with parameter.backend.active():
                parameter.scale_grad(most / norm)
    return norm


def total_norm(parameters: Iterable[Parameter], exact: bool = True) -> float:
    """Return the L2 norm of all gradients, see `gradient_norm`; the parameters may be on several devices."""
    by_backend: dict[int, list[Parameter]] = {}
    for parameter in parameters:
        by_backend.setdefault(id(parameter.backend), []).append(parameter)
    norms = []
    for found in by_backend.values():
        with found[0].backend.active():
            norms.append(gradient_norm(found[0].backend, found, exact))
    return math.hypot(*norms)


def require_finite(what: str, named: dict[str, Parameter], norm: float) -> None:
    """Raise NonFiniteError if a norm is not finite because one of the gradients is not."""
    if math.isfinite(norm):
        return
    for name, parameter in named.items():
        with parameter.backend.active():
            if nonfinite_gradient(parameter.backend, {name: parameter}):
                raise NonFiniteError(f"{what}: the gradient of {name} is not finite; nothing was changed. A "
                                     f"division or a square root at 0 does that, or a learning rate that is "
                                     f"too large")
