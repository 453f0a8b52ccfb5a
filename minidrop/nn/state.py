"""State: what a module owns, by name: parameters, statistics, recurrent states, and how to save them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.autograd import Parameter
from minidrop.config.numbers import truth, whole_number
from minidrop.errors import SnapshotError, nearest

if TYPE_CHECKING:
    from minidrop.nn.module import Module

_STATE = re.compile(r"(.*\.)?(state:(?:train|eval):\d+:[^:]+)")   # a path, and a name of carried_states


# Ends of names in PyTorch's state_dicts that are called otherwise here.
_OF_PYTORCH = ("running_mean", "running_var", "_ih_l0", "_hh_l0", "in_proj_weight", "in_proj_bias")


class State:
    """The part of Module that concerns its arrays as a whole. Layers own them; other modules have none."""

    @property
    def is_filled(self) -> bool:
        """Whether its own parameters have values."""
        return False

    @property
    def knows_shapes(self) -> bool:
        """Whether the shapes of its own parameters are known."""
        return True

    def own_parameters(self) -> dict[str, Parameter]:
        """Return {name: Parameter} of the parameters and statistics that this module itself owns."""
        return {}

    def own_buffers(self) -> set[str]:
        """Return which of them no optimizer trains, such as the statistics of norms."""
        return set()

    def carried_states(self) -> dict[str, Any]:
        """Return {name: array} of the states that this module itself carries from call to call."""
        return {}

    def set_carried(self, states: Mapping[str, Any]) -> None:
        """Carry these states on, in the form of `carried_states`."""

    def move_arrays(self) -> None:
        """Move its own arrays to the device and dtype that the module has now."""

    # -- parameters ------------------------------------------------------------------------------------------
    def _named_arrays(self: Any) -> Iterator[tuple[str, Parameter, bool]]:
        """Yield (path, Parameter, whether it is trained) of all arrays, each once."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, parameter in module.own_parameters().items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{path}.{name}" if path else name, parameter, name not in module.own_buffers()

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (path, Parameter) of all that is trained, each once, in the order of the modules.

        Parameters get their initial values when they are first asked for. Raises ConfigError where a layer
        needs a call first to know the shapes of its own.
        """
        return ((name, parameter) for name, parameter, trained in self._named_arrays() if trained)

    def parameters(self) -> list[Parameter]:
        """Return all that is trained, as `named_parameters` yields it."""
        return [parameter for _, parameter in self.named_parameters()]

    def named_buffers(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (path, Parameter) of what layers themselves keep up to date: the statistics of norms."""
        return ((name, parameter) for name, parameter, trained in self._named_arrays() if not trained)

    # -- dicts of arrays -------------------------------------------------------------------------------------
    def state_dict(self: Any) -> dict[str, np.ndarray]:
        """Return {path: array} of parameters and statistics, NumPy arrays of their own: for numpy.savez."""
        return {name: np.array(parameter.numpy()) for name, parameter, _ in self._named_arrays()}

    def load_state_dict(self: Any, state: Mapping[str, Any],
                        strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy arrays of `state_dict` into the parameters and statistics.

        Returns the names that are missing in `state` and those that the module lacks; with `strict` there are
        none, or SnapshotError is raised. It is raised too for an array of another shape, or with an entry
        that is no finite number of the module's dtype. Nothing is changed then.
        """
        _check_mapping(self, state)
        strict = truth(f"{self.describe()}: strict", strict)
        known = {name: parameter for name, parameter, _ in self._named_arrays()}
        missing = [name for name in known if name not in state]
        unknown = [name for name in state if name not in known]
        lines = []
        if strict:
            lines = [f"no array {name!r}{nearest(name, unknown)}" for name in missing]
            lines += [f"an array {name!r} that the module has not{nearest(name, missing or known)}"
                      for name in unknown]
        arrays = {}
        for name, parameter in known.items():
            if name in state:
                array = _as_array(state[name])
                if problem := _unfit(array, tuple(parameter.shape), parameter.dtype):
                    lines.append(f"{name!r}: {problem}")
                arrays[name] = array
        if lines:
            if any(name.endswith(_OF_PYTORCH) for name in map(str, unknown)):
                lines.append("md.from_torch_state_dict(module.net_for(x), state) reads PyTorch's")
            raise SnapshotError(f"{self.describe()}: the state does not fit: " + "; ".join(lines))
        for name, array in arrays.items():
            with known[name].backend.active():
                known[name].data[...] = known[name].backend.asarray(array, known[name].dtype)
            known[name].note_change()
        return missing, unknown

    def run_state(self: Any) -> dict[str, np.ndarray]:
        """Return {path: array} of what a run needs besides `state_dict` to go on as if never interrupted.

        That is how often each module was called in training, and the recurrent states that are carried on.
        """
        found = {}
        for path, module in self.named_modules():
            begin = f"{path}." if path else ""
            if module.iteration:
                found[f"{begin}iteration"] = np.array(module.iteration)
            found |= {f"{begin}{name}": np.array(module.backend.to_host(array))
                      for name, array in module.carried_states().items()}
        return found

    def load_run_state(self: Any, state: Mapping[str, Any]) -> None:
        """Go on from a `run_state`.

        Raises SnapshotError, and changes nothing, for names that do not fit, counts that are none, and states
        that are no finite numbers.
        """
        _check_mapping(self, state)
        modules: dict[str, Module] = dict(self.named_modules())
        counts: dict[str, int] = {}
        states: dict[str, dict[str, np.ndarray]] = {}
        for key, value in state.items():
            path, _, name = str(key).rpartition(".")
            if name == "iteration" and path in modules:
                counts[path] = whole_number(f"{self.describe()}: {key}", value, 0, SnapshotError)
                continue
            found = _STATE.fullmatch(str(key))
            path = (found[1] or "").removesuffix(".") if found else path
            if not found or path not in modules or not modules[path].stateful:
                raise SnapshotError(f"{self.describe()}: the state of a run has {key!r}, which fits no module"
                                    f"{nearest(path, modules)}")
            array = _as_array(value)
            if problem := _unfit(array, array.shape, modules[path].dtype):
                raise SnapshotError(f"{self.describe()}: {key!r}: {problem}")
            states.setdefault(path, {})[found[2]] = array
        for path, module in modules.items():
            module.iteration = counts.get(path, 0)
            with module.backend.active():
                module.set_carried({name: module.backend.asarray(array, module.dtype)
                                    for name, array in states.get(path, {}).items()})

    def reset_states(self: Any) -> None:
        """Let recurrent states that are carried on begin anew, as zeros."""
        for module in self.modules():
            module.set_carried({})

    def fill_known(self: Any) -> None:
        """Give every parameter whose shape is known its initial value."""
        for module in self.modules():
            if module.knows_shapes:
                module.own_parameters()


def _check_mapping(module: Any, state: Any) -> None:
    """Raise SnapshotError for a state that is no mapping."""
    if not isinstance(state, Mapping):
        raise SnapshotError(f"{module.describe()}: expected {{name: array}}, got {type(state).__name__}; "
                            f"np.load reads a .npz file")


def _as_array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:          # lists of unequal lengths
        return np.empty((), object)


def _unfit(array: np.ndarray, shape: tuple[int, ...], dtype: Any) -> str:
    """Return why an array cannot be numbers of a shape and dtype, "" if it can."""
    if array.shape != shape:
        return f"shape {array.shape}, expected {shape}"
    if array.dtype.kind not in "biuf":
        return f"dtype {array.dtype}, expected numbers"
    with np.errstate(over="ignore"):
        if not np.isfinite(array.astype(dtype)).all():
            return f"a NaN, an infinity or a number too large for {dtype}"
    return ""
