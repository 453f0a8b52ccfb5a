"""Built: the net of one signature of a module, and how it runs."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop import functions
from minidrop.autograd import Tensor
from minidrop.backend import backend_of
from minidrop.config import NetConfig
from minidrop.errors import ConfigError, DataError, ShapeError
from minidrop.layers import Context
from minidrop.layers.numbers import as_numbers
from minidrop.net import BlobRef, Net
from minidrop.net.lifetime import OneThread
from minidrop.nn.structure import put_together, take_apart
from minidrop.nn.symbol import Symbol, TraceError
from minidrop.nn.trace import Trace

if TYPE_CHECKING:
    from minidrop.backend import Backend
    from minidrop.nn.layer import Layer
    from minidrop.nn.module import Module

MOST_NETS = 32      # that a module keeps


class Built:
    """The Net of a module for inputs of some shapes, in training or not."""

    def __init__(self, module: Module, rest: tuple, shapes: Sequence[tuple[int, ...]], names: list[str]):
        backend, dtype = module.backend, module.dtype
        phase = "TRAIN" if module.training else "TEST"
        trace = Trace(module, Context(phase, module.seed, dtype, backend))
        with trace.active():
            args, kwargs = put_together(rest, [trace.input(name, shape)
                                               for name, shape in zip(names, shapes, strict=True)])
            result = trace.run(module, args, kwargs)
            found: list = []
            self.rest = take_apart(result, lambda value: isinstance(value, Symbol) or hasattr(value, "dtype"),
                                   found, f"what the forward of {module.describe()} returns")
            if wrong := [value for value in found if not isinstance(value, Symbol)]:
                raise TraceError(f"the forward of {module.describe()} returns a {type(wrong[0]).__name__} "
                                 f"that no layer computes; its values would be frozen in the net")
            outputs = trace.finish(found)
        module.check_placed(trace.params)
        self.net = Net(NetConfig.of(trace.message, trace.message.name), phase, backend, dtype, module.seed,
                       share=trace.params, handed=trace.handed)
        for layer, own in trace.params.items():
            for name, parameter in own.items():
                if self.net.params[layer][name] is not parameter:
                    raise ConfigError(f"layer {layer!r} is to share its {name} with another by "
                                      f"`param {{ name }}`; call the module's method `tie` for that")
        # Out of training a part may be in training all the same, as the drops are for Monte-Carlo dropout.
        self.draws = module.training or self.net.drops.is_random()
        if not self.draws:
            self.net.draw_patterns(0)       # nothing is dropped, so never again
        self.inputs = trace.inputs
        self.outputs = [BlobRef(blob, 0) for blob in outputs]
        self.training = module.training
        self.fresh = self.net.states
        self.stateful = [(name, layer, use) for name, layer, use in trace.applied
                         if layer.stateful and self.net.layers[name].state]

    def run(self, tensors: Sequence[Tensor], iteration: int) -> Any:
        """Run a pass, with the patterns of an iteration if it `draws`, and return what forward returns.

        Raises ConfigError where a drop asks for a reshuffle: nobody would permute what the updates remember.
        """
        net = self.net
        if net.reshuffles:
            raise ConfigError(f"{net.reshuffles[0].drop}: reshuffle_interval permutes weights and the "
                              f"history of their updates, which a Solver does and a loop by hand cannot; "
                              f"train with Solver.of, or remove it")
        if self.fresh:
            net.set_states(self.fresh | states_between(self.stateful, self.training, self.fresh))
        if self.draws:
            net.draw_patterns(iteration)
        net.forward(**dict(zip(self.inputs, tensors, strict=True)))
        for name, layer, use in self.stateful:
            layer.carry((self.training, use), dict(net.layers[name].state))
        return put_together(self.rest, [functions.expand(net.tensor(ref)) for ref in self.outputs])

    def zeros(self) -> Any:
        """Return what forward returns, as zeros, without a pass."""
        net = self.net
        return put_together(self.rest, [Tensor(net.backend.zeros(net.graph.shapes[ref], net.dtype),
                                               backend=net.backend) for ref in self.outputs])


def states_between(stateful: Sequence[tuple[str, Layer, int]], training: bool,
                   fresh: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    """Return {(layer, name): array} of the states that modules carry on from the call before.

    stateful: [(layer name, module, which of its uses)]. fresh: the states that a net begins with. Raises
    ShapeError where those that are carried have other names or shapes.
    """
    found = {}
    for name, layer, use in stateful:
        for key, array in layer.carried((training, use)).items():
            if (name, key) not in fresh:
                raise ShapeError(f"{layer.describe()} carries a state {key!r} on, which it does not have; "
                                 f"call reset_states() first")
            begun = fresh[name, key]
            if array.shape != begun.shape:
                raise ShapeError(f"{layer.describe()} carries its state {key} of shape {array.shape} on, "
                                 f"but this batch needs {begun.shape}; call reset_states() first")
            found[name, key] = array
    return found


class Nets:
    """The nets of one module, those used last; `last` ran last."""

    def __init__(self) -> None:
        self.built: OrderedDict[tuple, Built] = OrderedDict()
        self.last: Built | None = None
        self._guard = OneThread("another thread runs this module: a module serves one thread at a time; give "
                                "each thread a copy of its own (copy.deepcopy)")

    def find(self, module: Module, args: tuple, kwargs: dict[str, Any]) -> tuple[Built, list[Tensor]]:
        """Return the Built for these arguments, made if need be, and their Tensors."""
        leaves: list = []
        where = f"the arguments of {module.describe()}"
        rest = take_apart((args, kwargs), is_array, leaves, where)
        backend, dtype = module.backend, module.dtype
        with backend.active():
            tensors = [as_tensor(leaf, backend, dtype, where) for leaf in leaves]
        shapes = [tuple(tensor.shape) for tensor in tensors]
        key = rest, tuple(shapes), tuple(one.training for one in module.modules())
        built = self.built.get(key)
        if built is None:
            built = Built(module, rest, shapes, names_of(module, args, kwargs))
            self.built[key] = built
            while len(self.built) > MOST_NETS:
                self.built.popitem(last=False)[1].net.close()
        self.built.move_to_end(key)
        return built, tensors

    def run(self, module: Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run the net for these arguments, and count the iterations of the module; see `Built.run`."""
        with self._guard():
            built, tensors = self.find(module, args, kwargs)
            if self.last is not built:
                if self.last is not None:
                    self.last.net.forget_pass()     # or it would take memory until this net runs again
                self.last = built
            result = built.run(tensors, module.iteration)
            if built.draws:
                module.iteration += 1
            return result


def is_array(value: Any) -> bool:
    """Whether a value is an array or a Tensor."""
    return isinstance(value, Tensor) or (hasattr(value, "dtype") and hasattr(value, "shape"))


def with_tensors(module: Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Return the arguments of a call with a Tensor for each array, for a forward that is plain Python.

    They are on the module's device. Floating-point arrays take its dtype, as in a traced call; whole numbers
    and truth values, such as labels and masks, keep theirs. All else is handed on as it is, lists and dicts
    with arrays too: forward may write into them. Raises DataError.
    """
    def given(value):
        if not _is_bare(value):
            return value
        if value.dtype.kind == "f":
            return as_tensor(value, backend, module.dtype, where)
        return Tensor(backend.asarray(Tensor(value).numpy(), None), backend=backend)

    if not any(map(_is_bare, (*args, *kwargs.values()))):
        return args, kwargs
    where, backend = f"the arguments of {module.describe()}", module.backend
    with backend.active():
        return tuple(map(given, args)), {name: given(value) for name, value in kwargs.items()}


def _is_bare(value):
    """Whether a value is an array of real numbers, but neither a Tensor nor a single number of NumPy's."""
    return is_array(value) and not isinstance(value, Tensor | np.generic) and (
        getattr(value.dtype, "kind", "") in ("b", "i", "u", "f"))


def as_tensor(value: Any, backend: Backend, dtype: str, where: str) -> Tensor:
    """Return an array or Tensor as a dense Tensor of a device and dtype; its gradient still reaches it.

    Raises DataError for what is no array of real numbers, or would lose its gradient.
    """
    if isinstance(value, Tensor):
        if value.backend is backend and value.dtype == dtype:
            return functions.expand(value)
        if value.requires_grad:
            have, wanted = ((one.name, of, one.precision) for one, of in ((value.backend, value.dtype),
                                                                        (backend, dtype)))
            raise DataError(f"{where}: a Tensor with a gradient is on {have[0]} in {have[1]} (products in "
                            f"{have[2]}), but the module computes on {wanted[0]} in {wanted[1]} (products in "
                            f"{wanted[2]}); move one of them (Module.to)")
        value = value.backend.to_host(functions.expand(value).data)
    source = backend_of(value)
    try:
        array = as_numbers(value, np.asarray if source.name == "cpu" else lambda array: array, dtype)
    except DataError as error:
        raise DataError(f"{where}: an array {error}") from None
    if source.name not in ("cpu", backend.name):
        array = source.to_host(array)
    return Tensor(backend.asarray(array, dtype), backend=backend)


def names_of(module: Module, args: tuple, kwargs: dict[str, Any]) -> list[str]:
    """Return a name for every array among the arguments, from the parameters of forward."""
    signature = inspect.signature(module.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no arguments"
        raise TypeError(f"{module.describe()}: {error}; its forward takes {takes}") from None
    given = list(signature.bind_partial(*args).arguments.items()) + list(kwargs.items())
    names = []
    for name, value in given:
        leaves: list = []
        take_apart(value, is_array, leaves, name)
        many = len(leaves) > 1 or (name in signature.parameters
                                   and signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL)
        names += [f"{name}_{i}" if many else name for i in range(len(leaves))]
    return names
