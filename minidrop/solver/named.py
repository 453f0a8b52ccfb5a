"""Parameters by name, and checks of states that are arrays by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from minidrop.autograd import Parameter, Tensor
from minidrop.errors import ConfigError, SnapshotError, kind_of, nearest

Parameters: TypeAlias = Mapping[str, Parameter] | Iterable[Parameter | tuple[str, Parameter]]


def named_parameters(params: Parameters, first: int = 0) -> dict[str, Parameter]:
    """Return {name: Parameter} for a mapping, for pairs (name, Parameter), or for Parameters.

    A Parameter that comes without a name has its own, `Parameter.name`. If it has none, or another has it
    already, its place, counted from `first`, is part of the name: "parameter 3", "weight 3". Raises
    ConfigError for anything else, and for a given name or a Parameter that comes twice.
    """
    if isinstance(params, Parameter):
        raise ConfigError("params: expected several Parameters, got one; write [parameter]")
    if hasattr(params, "named_parameters"):
        raise ConfigError(f"params: expected Parameters or pairs (name, Parameter), got the module "
                          f"{type(params).__name__}; write module.parameters()")
    if not np.iterable(params):
        raise ConfigError(f"params: expected Parameters or pairs (name, Parameter), got {kind_of(params)}")
    found: dict[str, Parameter] = {}
    for i, one in enumerate(params.items() if isinstance(params, Mapping) else params, first):
        name, parameter = one if isinstance(one, tuple) and len(one) == 2 else (None, one)
        if not isinstance(parameter, Parameter):
            raise ConfigError(f"params: expected Parameters or pairs (name, Parameter), got "
                              f"{type(one).__name__} at place {i}"
                              + "; md.Parameter(array) is a tensor that is trained" * isinstance(one, Tensor))
        if not name:
            own = parameter.name or "parameter"
            name = own if parameter.name and own not in found else f"{own} {i}"
        if name in found:
            raise ConfigError(f"params: two are named {name!r}; give pairs (name, Parameter) with names of "
                              f"their own")
        if other := next((key for key, known in found.items() if known is parameter), None):
            raise ConfigError(f"params: {other!r} and {name!r} are one Parameter; give it once")
        found[name] = parameter
    return found


def check_unmoved(what: str, parameters: Mapping[str, Parameter],
                  arrays: Mapping[str, Iterable[np.ndarray]]) -> None:
    """Raise ConfigError if a parameter is in another dtype than the arrays that are kept of it."""
    for name, own in arrays.items():
        if any(array.dtype != parameters[name].dtype for array in own):
            raise ConfigError(f"{what}: {name} is in {parameters[name].dtype}, but what is kept of it not; "
                              f"the model was moved: call its method `to` before, and make a new one")


def checked_state(what: str, state: Mapping[str, Any], expected: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return `state`, host arrays, if it has the names, shapes and kinds of numbers of `expected`.

    what: of which state, for the error. Raises SnapshotError, also for a number that is not finite.
    """
    if missing := [name for name in expected if name not in state]:
        raise SnapshotError(f"{what}: has no {missing[0]!r}{nearest(missing[0], state)}")
    if foreign := [name for name in state if name not in expected]:
        raise SnapshotError(f"{what}: has {foreign[0]!r}, which is unknown here"
                            f"{nearest(foreign[0], expected)}")
    found = {}
    for name, own in expected.items():
        value = found[name] = np.asarray(state[name])
        if value.shape != own.shape or value.dtype.kind != own.dtype.kind:
            raise SnapshotError(f"{what}: {name!r}: expected {own.dtype} of shape {own.shape}, got "
                                f"{value.dtype} of shape {value.shape}")
        if own.dtype.kind == "f" and not np.isfinite(value).all():
            raise SnapshotError(f"{what}: {name!r} is not finite")
    return found
