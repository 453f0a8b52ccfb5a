"""Module: a part of a net, described in Python, which owns parameters and runs as a planned Net."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from minidrop.backend import PRECISIONS, get_backend
from minidrop.config.numbers import truth, whole_number
from minidrop.errors import ConfigError, SnapshotError, in_short
from minidrop.functions.explained import says_arguments
from minidrop.net import Net
from minidrop.net.costs import costs
from minidrop.net.net import DTYPES
from minidrop.nn.built import Nets, with_tensors
from minidrop.nn.fixed import given_to, refuse_argument
from minidrop.nn.state import State
from minidrop.nn.trace import current_trace, is_measuring
from minidrop.nn.tree import Tree

if TYPE_CHECKING:
    from minidrop.autograd import Parameter
    from minidrop.backend import Backend

Own = TypeVar("Own", bound="Module")
DEFAULTS = {"seed": 0, "device": "auto", "dtype": "float32", "precision": "float32"}


class Module(Tree, State):
    """A part of a net: other modules as attributes, and `forward`, which says how they are connected.

        class Classifier(nn.Module):
            def __init__(self):
                self.hidden = nn.Sequential(nn.Linear(784, 2048), nn.ReLU(), nn.ApproxDropout(0.5))
                self.scores = nn.Linear(2048, 10)

            def forward(self, x):
                return self.scores(self.hidden(x))

    Calling a module runs it on arrays or Tensors and returns Tensors, whose `backward` fills the gradients of
    `parameters()`, and of inputs that require one. The first call for inputs of some shapes, in training or
    not, runs `forward` on Symbols: every layer adds itself to the description of a Net, which is planned as
    that of a file is, so that products leave out what drops drop. Later calls of this kind run that Net
    alone; the nets of the last 32 kinds are kept. So `forward` cannot look at values, and must describe the
    same net whenever it runs. Code that needs values is an nn.Lambda, a function of Tensors that runs in
    every pass, or a module with

        traced = False

    whose forward runs on Tensors in every call, as plain Python: loops that depend on values, two nets that
    train each other. Each module that it calls is then a net of its own, and a drop at its border saves less.

    Setting an attribute of a module discards the nets it is part of; what a list holds is not watched. Lists
    of modules are nn.ModuleLists. A module's path comes from the first module that holds it. A subclass need
    not call super().__init__().

    Layers are called by their paths, as "encoder.fc1", or by their `name`. With the same names and seed
    (`set_seed`) a module equals the net of a file to the last bit. `iteration` counts the calls in training,
    and those out of it in which a part that is in training drops: the next one draws the patterns of that
    iteration, as a Solver does. Recurrent states begin anew in every
    call, except those of `stateful` layers.
    """

    traced = True
    stateful = False

    def __new__(cls, *args: Any, **kwargs: Any):
        self = super().__new__(cls)
        vars(self).update(_chosen={}, _nets=Nets(), iteration=0, training=True,
                          _given=given_to(self, args, kwargs))
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_argument(self, name, value)
        super().__setattr__(name, value)

    def forward(self, *inputs: Any) -> Any:
        """Return the outputs for Symbols, or with `traced = False` for Tensors; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} needs a method forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trace = current_trace()
        if trace is not None:
            return trace.run(self, args, kwargs)
        if not self.traced:
            args, kwargs = with_tensors(self, args, kwargs)
            return self.forward(*args, **kwargs)
        if is_measuring():
            return self._nets.find(self, args, kwargs)[0].zeros()
        return self._nets.run(self, args, kwargs)

    def net_for(self, *args: Any, **kwargs: Any) -> Net:
        """Return the Net that a call with these arguments runs: its `plan`, its description `config.message`.

        It shares the module's parameters. Raises ConfigError for a module with traced = False.
        """
        if not self.traced:
            raise ConfigError(f"{self.describe()} has traced = False: it is no net, its modules are")
        return self._nets.find(self, args, kwargs)[0].net

    def operations(self, *args: Any, **kwargs: Any) -> tuple[float, float]:
        """Return the operations in products of a call with these arguments: of the dense net, and with drops.

        Forward, and in training the gradients as well; a multiply-add counts as 2. With drops it is the mean
        over their patterns. Raises ConfigError for a module with traced = False.
        """
        rows = costs(self.net_for(*args, **kwargs), loss_outside=True)
        return sum(row.dense for row in rows), sum(row.expected for row in rows)

    def forget_nets(self) -> None:
        vars(self)["_nets"] = Nets()

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
        """Let the initial values here and below, and the drops of this module's nets, follow from a seed.

        Without one it is 0. Modules of equal names and seeds begin with equal values. A module below that was
        given a seed of its own keeps it for its values. Returns the module. Raises ConfigError for what is no
        whole number, and where there are values already, of another seed.
        """
        before, filled = dict(self._chosen), [module for module in self.modules() if module.is_filled]
        seeds = [module.seed for module in filled]
        self._chosen["seed"] = whole_number("set_seed", seed)
        if seeds != [module.seed for module in filled]:
            vars(self)["_chosen"] = before
            raise ConfigError(f"{self.describe()}: its parameters have values already, of seed {self.seed}; "
                              f"call set_seed before they are used")
        return self._renewed()

    def to(self: Own, device: str | Backend | None = None, dtype: Any = None,
           precision: str | None = None) -> Own:
        """Move the module and those below to a device, or let them compute in another dtype; returns it.

        device: "auto", "cpu", "cuda:N" or a Backend, or the dtype. dtype: "float32" or "float64". precision:
        what products on a GPU round to, see Net. Parameters stay the same objects, without their gradients;
        move them before an optimizer makes arrays of its own. Raises BackendError or ConfigError.
        """
        if dtype is None and (isinstance(device, type | np.dtype)
                              or isinstance(device, str) and device in (*DTYPES, *PRECISIONS)):
            device, dtype = None, device
        chosen = {name: value for name, value in (("device", device), ("precision", precision))
                  if value is not None}
        if dtype is not None:
            chosen["dtype"] = getattr(dtype, "__name__", None) or str(dtype)
            if chosen["dtype"] not in DTYPES:
                rounds = f"; precision={chosen['dtype']!r} is what products on a GPU round to"
                raise ConfigError(f"unknown dtype {in_short(dtype)}: expected {' or '.join(DTYPES)}"
                                  + rounds * (chosen["dtype"] in PRECISIONS))
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
        """Let the next call in training draw the patterns of this iteration, and count on from it.

        Raises ConfigError for what is no whole number of 0 or more.
        """
        self.iteration = whole_number(f"{self.describe()}: draw_from", iteration, 0)

    def train(self: Own, mode: bool = True) -> Own:
        """Let drops act, and norms read the batch, in this module and all below; returns it.

        Raises ConfigError for a mode that is neither True nor False.
        """
        mode = truth(f"{self.describe()}: train", mode)
        for module in self.modules():
            vars(module)["training"] = mode
        return self

    def eval(self: Own) -> Own:
        """Let nothing drop, and norms read their stored statistics, here and below; returns it."""
        return self.train(False)

    def requires_grad_(self: Own, wanted: bool = True) -> Own:
        """Compute the gradients of the parameters, or, to freeze them, do not; returns the module."""
        for parameter in self.parameters():
            parameter.require_grad(wanted)
        return self

    @says_arguments
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

    def __copy__(self) -> NoReturn:
        raise ConfigError(f"copy.copy of {self.describe()} would share what it holds; copy.deepcopy makes a "
                          f"module of its own")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise SnapshotError("a Module cannot be pickled; save state_dict() with numpy.savez, and load it "
                            "with load_state_dict; within a process copy.deepcopy copies it")


Module.reserved = frozenset(dir(Module)) - {"forward", "stateful", "traced"}
