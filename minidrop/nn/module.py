"""Module: a part of a net, described in Python, which owns parameters and runs as a planned Net."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from minidrop.backend import get_backend
from minidrop.errors import ConfigError, SnapshotError, nearest
from minidrop.net import Net
from minidrop.net.net import DTYPES
from minidrop.nn.built import Nets
from minidrop.nn.state import State
from minidrop.nn.symbol import TraceError
from minidrop.nn.trace import current_trace

if TYPE_CHECKING:
    from minidrop.autograd import Parameter
    from minidrop.backend import Backend

Own = TypeVar("Own", bound="Module")
DEFAULTS = {"seed": 0, "device": "auto", "dtype": "float32", "precision": "float32"}
_INTERNAL = ("_children", "_parents", "_chosen", "_nets", "_name", "iteration")


class Module(State):
    """A part of a net: other modules as attributes, and `forward`, which says how they are connected.

        class Classifier(nn.Module):
            def __init__(self):
                self.hidden = nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.ApproxDropout(0.5))
                self.scores = nn.Linear(2048, 10)

            def forward(self, x):
                return self.scores(self.hidden(x))

    Calling a module runs it on arrays or Tensors and returns Tensors, whose `backward` fills the gradients of
    `parameters()`, and of inputs that require one. The first call with inputs of some shapes, in training or
    not, runs `forward` on Symbols: every layer adds itself to the description of a Net, which is planned as
    one of a file is, so that products leave out what drops drop. Later calls run that Net alone. So `forward`
    must do the same whenever the shapes are: it cannot look at values. What needs them is an nn.Lambda, a
    function of Tensors that runs in every pass, or a module with

        traced = False

    whose forward runs on Tensors in every call, as plain Python: loops that depend on values, two nets that
    train each other. Each module that it calls is then a net of its own; drops that end at its border save
    less. Setting an attribute of a module makes new nets; what a list holds is not watched.

    Layers are called by their paths, as "encoder.fc1", or by their `name`. With the same seed and names a
    module equals the net of a file to the last bit. Everything random follows from `set_seed`, once for the
    whole tree. `iteration` counts the calls in training: the next one draws the patterns of that iteration,
    as a Solver does. A module in training has fresh recurrent states in every call, unless it is `stateful`.

    A module belongs to the first one that holds it, and is created where that begins: `super().__init__()` is
    not needed. Setting a list of modules is an error; nn.ModuleList is made for that.
    """

    traced = True
    stateful = False

    def __new__(cls, *args: Any, **kwargs: Any):
        self = super().__new__(cls)
        vars(self).update(_children={}, _parents=[], _chosen={}, _nets=Nets(), _name=None, iteration=0,
                          training=True)
        return self

    def forward(self, *inputs: Any) -> Any:
        """Return the outputs for Symbols, or with `traced = False` for Tensors; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} needs a method forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trace = current_trace()
        if trace is not None:
            return trace.run(self, args, kwargs)
        if not self.traced:
            return self.forward(*args, **kwargs)
        result = self._nets.run(self, args, kwargs, self.iteration)
        if self.training:
            self.iteration += 1
        return result

    def net(self, *args: Any, **kwargs: Any) -> Net:
        """Return the Net that a call with these arguments runs: its `plan`, its description `config.message`.

        It shares the module's parameters. Raises ConfigError for a module with traced = False.
        """
        if not self.traced:
            raise ConfigError(f"{self.describe()} has traced = False: it is no net, its modules are")
        return self._nets.find(self, args, kwargs)[0].net

    # -- the tree --------------------------------------------------------------------------------------------
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _INTERNAL:
            object.__setattr__(self, name, value)
            return
        self._refuse_in_trace(name)
        if isinstance(value, list | tuple | set | dict) and any(
                isinstance(one, Module) for one in (value.values() if isinstance(value, dict) else value)):
            raise ConfigError(f"{self.describe()}: {name} is a {type(value).__name__} of modules, whose "
                              f"parameters would not be found; use nn.ModuleList, nn.ModuleDict or "
                              f"nn.Sequential")
        self._forget(name)
        if isinstance(value, Module):
            vars(self).pop(name, None)
            self.add_module(name, value)
        else:
            object.__setattr__(self, name, value)
            self._changed()

    def __getattr__(self, name: str) -> Any:
        children = vars(self).get("_children", {})
        if name in children:
            return children[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}"
                             f"{nearest(name, [*children, *vars(self)])}")

    def __delattr__(self, name: str) -> None:
        self._refuse_in_trace(name)
        if not self._forget(name):
            object.__delattr__(self, name)
        self._changed()

    def add_module(self, name: str, module: Module) -> None:
        """Hold a module under a name, as setting an attribute does."""
        if not isinstance(module, Module):
            raise ConfigError(f"{self.describe()}: {name!r} should be a Module, got {type(module).__name__}")
        if not name or "." in name or "/" in name:
            raise ConfigError(f"{self.describe()}: a module's name is not empty and has no '.' or '/', got "
                              f"{name!r}")
        if module is self or any(one is self for one in module.modules()):
            raise ConfigError(f"{self.describe()} cannot hold itself, as {name!r}")
        self._forget(name)
        self._children[name] = module
        module._parents.append((self, name))
        self._changed()

    def _refuse_in_trace(self, name):
        """Raise TraceError for an attribute that a traced forward sets, as later calls would not."""
        trace = current_trace()
        if trace is not None and trace.has_part(self):
            raise TraceError(f"{self.describe()}: a traced forward sets the attribute {name!r}, which would "
                             f"happen once and not in every call; return what it computes, or set traced = "
                             f"False")

    def _forget(self, name):
        """Hold no module under a name any more; returns whether one was."""
        child = self._children.pop(name, None)
        if child is not None:
            child._parents[:] = [one for one in child._parents if one[0] is not self or one[1] != name]
        return child is not None

    def _changed(self):
        """Forget the nets that this module is a part of."""
        vars(self)["_nets"] = Nets()
        for parent, _ in self._parents:
            parent._changed()

    def children(self) -> Iterator[Module]:
        """Yield the modules that this one holds directly, each once."""
        yield from {id(one): one for one in self._children.values()}.values()

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the modules that this one holds directly."""
        yield from self._children.items()

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (path, module) of this module, "", and all below it, each once, parents first."""
        seen: set[int] = set()
        waiting = [(prefix, self)]
        while waiting:
            path, module = waiting.pop()
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module
                waiting += [(f"{path}.{name}" if path else name, one)
                            for name, one in reversed(module._children.items())]

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def apply(self: Own, function: Callable[[Module], Any]) -> Own:
        """Call function(module) for this module and all below it; returns the module."""
        for module in self.modules():
            function(module)
        return self

    @property
    def layer_path(self) -> str:
        """Where it stands, from the outermost module that holds it: "encoder.fc1", "" for that one itself."""
        if not self._parents:
            return ""
        parent, name = self._parents[0]
        return f"{parent.layer_path}.{name}" if parent.layer_path else name

    def describe(self) -> str:
        """Return what it is called in messages."""
        path = self._name or self.layer_path
        return f"{type(self).__name__} {path!r}" if path else type(self).__name__

    def __repr__(self):
        lines = [f"({name}): {module!r}" for name, module in self._children.items()]
        if not lines:
            return f"{type(self).__name__}()"
        return "\n".join([f"{type(self).__name__}(", *("  " + line.replace("\n", "\n  ") for line in lines),
                          ")"])

    # -- settings --------------------------------------------------------------------------------------------
    def _setting(self, name):
        """Return what the nearest module, from this one outwards, was told."""
        module = self
        while name not in module._chosen and module._parents:
            module = module._parents[0][0]
        return module._chosen.get(name, DEFAULTS[name])

    @property
    def seed(self) -> int:
        """What initial values and drops follow from."""
        return self._setting("seed")

    @property
    def dtype(self) -> str:
        """The dtype in which it computes."""
        return self._setting("dtype")

    @property
    def backend(self) -> Backend:
        """The device on which it computes."""
        return get_backend(self._setting("device"), self._setting("precision"))

    def set_seed(self: Own, seed: int) -> Own:
        """Let initial values and drops of this module, and of those below, follow from a seed; returns it.

        Raises ConfigError where values follow from another one already.
        """
        if any(module.is_filled for module in self.modules()) and seed != self.seed:
            raise ConfigError(f"{self.describe()}: its parameters have values already, of seed {self.seed}; "
                              f"call set_seed before they are used")
        self._chosen["seed"] = int(seed)
        return self._renewed()

    def to(self: Own, device: str | None = None, dtype: Any = None, precision: str | None = None) -> Own:
        """Move the module and those below to a device, or let them compute in another dtype; returns it.

        device: "auto", "cpu" or "cuda:N". dtype: "float32" or "float64". precision: what products on a GPU
        round to, see Net. Parameters stay the same objects, without their gradients; move them before an
        optimizer makes arrays of its own. Raises BackendError or ConfigError.
        """
        chosen = {name: value for name, value in (("device", device), ("precision", precision))
                  if value is not None}
        if dtype is not None:
            chosen["dtype"] = getattr(dtype, "__name__", None) or str(dtype)
            if chosen["dtype"] not in DTYPES:
                raise ConfigError(f"unknown dtype {dtype!r}: expected {' or '.join(DTYPES)}")
        backend = get_backend(chosen.get("device", self._setting("device")),
                              chosen.get("precision", self._setting("precision")))
        if chosen.get("dtype", self.dtype) == "float64" and backend.precision != "float32":
            raise ConfigError(f"precision {backend.precision} rounds products of float32 numbers, but dtype "
                              f"is float64; keep one of them")
        self._chosen.update(chosen)
        for module in self.modules():
            if module is not self:
                for name in chosen:
                    module._chosen.pop(name, None)
            module.move_arrays()
        return self._renewed()

    def _renewed(self):
        for module in self.modules():
            module._changed()
        return self

    def check_placed(self, params: Mapping[str, Mapping[str, Parameter]]) -> None:
        """Raise ConfigError where a parameter is not on the device, or in the dtype, that the module has."""
        for layer, own in params.items():
            for name, parameter in own.items():
                if parameter.backend is not self.backend or parameter.dtype != self.dtype:
                    raise ConfigError(f"{layer}: {name} is in {parameter.dtype} on {parameter.backend.name}, "
                                      f"but {self.describe()} computes in {self.dtype} on "
                                      f"{self.backend.name}; call its method `to` once all modules are there")

    # -- training --------------------------------------------------------------------------------------------
    def draw_from(self, iteration: int) -> None:
        """Let the next call in training draw the patterns of this iteration, and count on from it."""
        self.iteration = int(iteration)

    def train(self: Own, mode: bool = True) -> Own:
        """Let drops act, and norms read the batch, in this module and all below; returns it."""
        for module in self.modules():
            vars(module)["training"] = bool(mode)
        return self

    def eval(self: Own) -> Own:
        """Let nothing drop, and norms read their stored statistics, here and below; returns it."""
        return self.train(False)

    def requires_grad_(self: Own, wanted: bool = True) -> Own:
        """Compute the gradients of the parameters, or, to freeze them, do not; returns the module."""
        for parameter in self.parameters():
            parameter.require_grad(wanted)
        return self

    def zero_grad(self) -> None:
        """Clear the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.clear_grad()

    # -- copies ----------------------------------------------------------------------------------------------
    def __deepcopy__(self: Own, memo: dict) -> Own:
        """Return an independent module: parameters, gradients, states and counters are copied."""
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        if not any(id(parent) in memo for parent, _ in self._parents):
            self.fill_known()           # the values must not depend on where the copy stands
            vars(new)["_chosen"] = {name: self._setting(name) for name in DEFAULTS}
        else:
            vars(new)["_chosen"] = dict(self._chosen)
        for name, value in vars(self).items():
            if name not in ("_parents", "_nets", "_chosen", "_children"):
                vars(new)[name] = copy.deepcopy(value, memo)
        for name, child in self._children.items():
            new.add_module(name, copy.deepcopy(child, memo))
        return new

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise SnapshotError("a Module cannot be pickled; save state_dict() with numpy.savez, and load it "
                            "with load_state_dict; within a process copy.deepcopy copies it")


def checked_modules(modules: Iterable[Any], where: str) -> list[Module]:
    """Return modules as a list; raises ConfigError for what is none."""
    found = list(modules)
    for one in found:
        if not isinstance(one, Module):
            raise ConfigError(f"{where}: expected modules, got {type(one).__name__}"
                              + ("; use nn.Lambda for a function" if callable(one) else ""))
    return found
