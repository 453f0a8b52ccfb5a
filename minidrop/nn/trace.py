"""Trace: one forward of a module on Symbols, and the net that it describes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from minidrop.config import NetConfig, NetParameter, decimal
from minidrop.config.check import FLOAT32_END
from minidrop.config.spec import set_layer
from minidrop.errors import ConfigError, ShapeError, kind_of
from minidrop.layers.lambda_function import measured
from minidrop.net import build_graph
from minidrop.nn.beginning import beginning, check_begins
from minidrop.nn.structure import leaves_of
from minidrop.nn.symbol import REMEDY, Symbol, TraceError

if TYPE_CHECKING:
    from minidrop.autograd import Parameter
    from minidrop.data import LoaderBatches
    from minidrop.layers import Context
    from minidrop.net.graph import Graph
    from minidrop.nn.layer import Layer
    from minidrop.nn.module import Module


FUSED = ("ReLU", "Sigmoid", "TanH", "ApproxDropout", "Scale")  # what the layer above may apply itself


class _Current(threading.local):
    trace: Trace | None = None
    measuring = False


_current = _Current()


@contextmanager
def _entered(trace, measuring=False):
    """Within this context the current trace is this one, or none."""
    before = _current.trace, _current.measuring
    _current.trace, _current.measuring = trace, measuring
    try:
        yield
    finally:
        _current.trace, _current.measuring = before


def current_trace() -> Trace | None:
    """Return the Trace that this thread is in, None outside of any."""
    return _current.trace


def is_measuring() -> bool:
    """Whether a function runs for the shapes of its results alone: modules that it calls must not change."""
    return _current.measuring


class Trace:
    """The net that a module's forward describes, one layer after the other.

    message: the NetParameter. inputs: the blobs of the arguments. handed:
    {layer: Measured} of its Lambdas, {layer: batches} of what reads a loader.
    params: {layer: {name: Parameter}}. states: {layer: {name: shape}}. shapes: of the blobs.
    applied: [(layer name, module, which of its uses)].

    besides: further modules that add to the net, such as a loss. carries: whether the net carries recurrent
    states on from pass to pass, as that of a Solver; what is not `stateful` is then told to begin anew.
    """

    def __init__(self, root: Module, context: Context, besides: Sequence[Module] = (), carries: bool = False):
        self.root, self.context = root, context
        self.message = NetParameter(name=type(root).__name__)
        self.inputs: list[str] = []
        self.handed: dict[str, Any] = {}
        self.carries = carries
        self.params: dict[str, dict[str, Parameter]] = {}
        self.states: dict[str, dict[str, tuple[int, ...]]] = {}
        self.applied: list[tuple[str, Layer, int]] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._read: dict[str, bool] = {}                # {blob: whether a layer reads it}
        self._layers: set[str] = set()                  # the names of layers
        self._names: dict[str, Layer] = {}              # {name: the module whose name it is}
        self._uses: dict[int, list] = {}                # {id(Parameter): [(message, place, shared name)]}
        self._scopes: list[Module] = []
        modules = [module for one in (root, *besides) for module in one.modules()]
        self._inside = {id(module) for module in modules}
        # What is no module takes none of these names: or those in files would change with a function.
        self._reserved = {module.layer_name for module in modules if hasattr(module, "layer_name")}

    # -- modules ---------------------------------------------------------------------------------------------
    @contextmanager
    def active(self) -> Iterator[None]:
        """Within this context modules that are called add to this trace."""
        with _entered(self):
            yield

    def has_part(self, module: Module) -> bool:
        """Whether a module is the one that is traced, or below it."""
        return id(module) in self._inside

    def run(self, module: Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return what the forward of a module returns for Symbols. Raises TraceError."""
        where = module.describe()
        if not module.traced:
            raise TraceError(f"{where} has traced = False, but is called in the traced forward of "
                             f"{self._scopes[-1].describe()}; set traced = False there too")
        for value in leaves_of((args, kwargs)):
            self._check_value(value, where)
        self._scopes.append(module)
        try:
            return module.forward(*args, **kwargs)
        finally:
            self._scopes.pop()

    def _check_value(self, value, where):
        if isinstance(value, Symbol):
            self.checked(value)
        elif hasattr(value, "dtype"):
            raise TraceError(f"{where} is given an array inside a traced forward: its values would be frozen "
                             f"in the net. Make it an input of {self.root.describe()} or an nn.Weight; "
                             f"{REMEDY}")

    def checked(self, symbol: Symbol) -> Symbol:
        """Return a Symbol; raises TraceError if it is of another trace."""
        if not isinstance(symbol, Symbol):
            raise TraceError(f"a module reads arrays and Tensors, and Symbols in a traced forward, got "
                             f"{kind_of(symbol)}; give an array, as of numpy.asarray")
        if symbol.trace is not self:
            raise TraceError(f"{symbol!r} is left over from another call; do not store what a traced forward "
                             f"computes")
        return symbol

    def apply(self, module: Layer, bottoms: Sequence[Symbol], tops: int = 1,
              **settings: Any) -> Symbol | tuple[Symbol, ...]:
        """Add the layer of a module; returns its top, or a tuple of them."""
        inside = self.has_part(module)
        name = self._name_of(module, inside)
        training = next((one for one in reversed(self._scopes) if self.has_part(one)), module).training
        if training != (self.context.phase == "TRAIN"):
            settings["phase"] = "TRAIN" if training else "TEST"
        settings = module.settings | settings
        if not module.stateful:
            bottoms = beginning(self, module, bottoms, settings)
        symbols, message, graph = self._added(module.type, name, bottoms, tops, settings)
        self.states[name] = graph.nodes[-1].layer.state_shapes()
        if self.carries:
            check_begins(module, graph.nodes[-1].layer)
        specs = graph.nodes[-1].layer.parameter_specs()
        if not specs:
            module.note_no_parameters()
        else:
            if not inside:
                raise TraceError(f"{module.describe()} has parameters, but is no part of "
                                 f"{self.root.describe()}: set it as an attribute in __init__")
            own = module.parameters_for([bottom.shape for bottom in bottoms], settings)
            for spec in specs:
                have = own[spec.name].shape if spec.name in own else None
                if have != tuple(spec.shape):
                    given = ", ".join(str(bottom.shape) for bottom in bottoms)
                    raise ShapeError(f"{module.describe()}: its {spec.name} has shape {have}, but inputs of "
                                     f"shape {given} need {tuple(spec.shape)}")
            self.params[name] = own
            for place, spec in enumerate(specs):
                self._uses.setdefault(id(own[spec.name]), []).append((message, place, f"{name}.{spec.name}"))
        use = sum(other is module for _, other, _ in self.applied)
        self.applied.append((name, module, use))
        return symbols

    def _name_of(self, module, inside):
        """Return a free name for the layer of a module; inside: of the module that is traced."""
        if not inside and not module.has_own_name:
            return self._free(self._scoped(type(module).__name__.lower()), self._reserved)
        name = module.layer_name
        first = self._names.setdefault(name, module)
        if first is not module and (module.has_own_name or first.has_own_name):
            raise TraceError(f"two modules are called {name!r}; their initial values and patterns would be "
                             f"the same: give them different names")
        return self._free(name)

    # -- layers ----------------------------------------------------------------------------------------------
    def add(self, type: str, bottoms: Sequence[Symbol], tops: int = 1, name: str = "",
            **settings: Any) -> Any:
        """Add a layer without parameters, called `name` or like its type; returns its top, or a tuple."""
        name = self._free(self._scoped(name or type.lower()), self._reserved)
        return self._added(type, name, bottoms, tops, settings)[0]

    def add_function(self, function: Callable, bottoms: Sequence[Symbol], name: str = "",
                     kind: str = "lambda") -> Any:
        """Add a Lambda that runs `function` in every pass, called `name` or after its kind.

        Returns its top, or a tuple of them if the function does, which may be one of a single top.
        """
        name = self._free(name) if name else self._free(self._scoped(kind), self._reserved)
        context, shapes = self.context, [self.checked(bottom).shape for bottom in bottoms]
        with _entered(None, measuring=True):
            found = measured(function, shapes, context.backend, context.dtype)
        self.handed[name] = found
        symbols = self._added("Lambda", name, bottoms, len(found.tops), {})[0]
        return (symbols,) if found.gives_tuple and len(found.tops) == 1 else symbols

    def input(self, name: str, shape: Sequence[int]) -> Symbol:
        """Add an input."""
        blob = _free(name, self._read)
        self.inputs.append(blob)
        return self._input(blob, shape)

    def data(self, name: str, blobs: Sequence[str], batches: LoaderBatches,
             shapes: Sequence[tuple[int, ...]]) -> list[Symbol]:
        """Add the layer that reads the batches of a loader; returns a Symbol of each array."""
        name = self._free(name)
        self.handed[name] = batches
        found = []
        for blob, shape in zip(blobs, shapes, strict=True):
            blob = _free(blob, self._read)
            found.append(self._symbol(blob, shape))
        set_layer(self.message.layer.add(), "LoaderData", {"name": name, "top": [one.blob for one in found]})
        return found

    def _input(self, blob, shape):
        shape = tuple(int(length) for length in shape)
        set_layer(self.message.layer.add(), "Input", {"name": self._free(f"{blob}/input"), "top": [blob],
                                                      "shape": {"dim": shape}})
        return self._symbol(blob, shape)

    def _symbol(self, blob, shape):
        self._read[blob], self.shapes[blob] = False, shape
        return Symbol(self, blob, shape)

    def is_exact(self, number: float) -> bool:
        """Whether a setting holds a number as exactly as the net computes."""
        fits = abs(number) < FLOAT32_END        # no NaN does
        return fits and (self.context.dtype == "float32" or decimal(number) == number)

    def _added(self, type, name, bottoms, tops, settings):
        blobs = [self.checked(bottom).blob for bottom in bottoms]
        names = [name] + [f"{name}/{i}" for i in range(1, tops)]
        names = [_free(blob, self._read) for blob in names]
        message = self.message.layer.add()
        set_layer(message, type, {"name": name, "bottom": blobs, "top": names} | settings)
        graph = probe(message, {bottom.blob: bottom.shape for bottom in bottoms},
                      replace(self.context, handed=self.handed), self.message.name)[1]
        self._read.update(dict.fromkeys(blobs, True))
        symbols = tuple(self._symbol(ref.name, graph.shapes[ref]) for ref in graph.nodes[-1].tops)
        return symbols[0] if tops == 1 else symbols, message, graph

    def is_alike(self, message: Any, other: Any) -> bool:
        """Whether a layer of this trace does what one of another trace, for other shapes, does in that."""
        if message == other or not message.type == other.type == "Reshape" or message.top != other.top:
            return bool(message == other)
        try:
            graph = probe(other, {blob: self.shapes[blob] for blob in message.bottom}, self.context, "")[1]
        except ConfigError:
            return False
        tops = [tuple(graph.shapes[ref]) for ref in graph.nodes[-1].tops]
        return tops == [tuple(self.shapes[top]) for top in message.top]

    def _scoped(self, name):
        path = self._scopes[-1].layer_path if self._scopes else ""
        return f"{path}.{name}" if path else name

    def _free(self, name, besides=frozenset()):
        """Return a name that no layer has, nor is one of others, and take it."""
        free = _free(name, self._layers | besides)
        self._layers.add(free)
        return free

    # -- the end ---------------------------------------------------------------------------------------------
    def finish(self, outputs: Sequence[Symbol]) -> list[str]:
        """Return the blobs of the net's outputs, once what else nobody reads is silenced.

        A blob that is both an output and read gets a second name: the layers that read it may need only a
        part.
        """
        found: dict[str, str] = {}
        for symbol in map(self.checked, outputs):
            if symbol.blob not in found:
                found[symbol.blob] = (self.add("Split", [symbol]).blob if self._read[symbol.blob]
                                      else symbol.blob)
        kept = set(found.values())
        if unread := [blob for blob, read in self._read.items() if not read and blob not in kept]:
            set_layer(self.message.layer.add(), "Silence", {"name": self._free("silence"), "bottom": unread})
        for uses in self._uses.values():
            for message, place, _ in uses if len(uses) > 1 else ():
                while len(message.param) <= place:
                    message.param.add()
                message.param[place].name = uses[0][2]
        self._work_in_place(kept)
        return [found[symbol.blob] for symbol in outputs]

    def _work_in_place(self, outputs):
        """Let activations, drops and learned scales overwrite a blob that nobody else reads.

        Most files do, and the planner lets a product or a normalization apply what works in place behind it.
        Outputs keep their layers' names.
        """
        readers = Counter(blob for layer in self.message.layer for blob in layer.bottom)
        fixed, changed = {*outputs, *self.inputs}, {}
        for layer in self.message.layer:
            layer.bottom[:] = [changed.get(blob, blob) for blob in layer.bottom]
            if (layer.type in FUSED and len(layer.bottom) == 1 and readers[layer.bottom[0]] == 1
                    and not fixed & {*layer.bottom, *layer.top}):
                changed[layer.top[0]] = layer.bottom[0]
                readers[layer.bottom[0]] = readers[layer.top[0]]
                layer.top[:] = layer.bottom

    def rename(self, blob: str, name: str) -> dict[str, str]:
        """Call a blob by a name; returns {old: new name} of it, and of another one that had the name."""
        changed = {blob: name}
        if name != blob and name in self._read:
            changed[name] = _free(name, self._read)
            self._rename(name, changed[name])
        self._rename(blob, name)
        return changed

    def _rename(self, blob, name):
        self._read[name], self.shapes[name] = self._read.pop(blob), self.shapes.pop(blob)
        for layer in self.message.layer:
            for blobs in (layer.bottom, layer.top):
                blobs[:] = [name if one == blob else one for one in blobs]


def _free(name, taken):
    """Return a name that is not taken: this one, or the first of NAME_2, NAME_3, ..."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def probe(message: Any, shapes: Mapping[str, tuple[int, ...]], context: Context,
          where: str) -> tuple[NetConfig, Graph]:
    """Return (NetConfig, Graph) of a net of one layer alone, for bottoms of these shapes.

    Raises ConfigError with every mistake of the layer; allocates nothing.
    """
    net = NetParameter()
    for blob, shape in shapes.items():
        set_layer(net.layer.add(), "Input", {"name": f"{message.name}/{blob}", "top": [blob],
                                             "shape": {"dim": list(shape)}})
    net.layer.add().CopyFrom(message)
    config = NetConfig.of(net, where)
    return config, build_graph(config, context)
