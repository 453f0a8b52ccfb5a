"""Layer: a module that is one layer of any registered type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from minidrop.autograd import Parameter, Tensor
from minidrop.backend import backend_of
from minidrop.config import LayerParameter, param_fields
from minidrop.config.numbers import truth, whole_number
from minidrop.config.spec import set_layer
from minidrop.errors import ConfigError, MinidropError, ShapeError, nearest
from minidrop.functions.torch_names import KEYWORDS
from minidrop.layers import Context, layer_class
from minidrop.layers import Layer as LayerType
from minidrop.net.parameters import make_parameters
from minidrop.nn.beginning import carries_states
from minidrop.nn.fixed import REMEDY, Settings
from minidrop.nn.module import Module
from minidrop.nn.symbol import TraceError
from minidrop.nn.trace import Trace, current_trace, probe

_MOST_TOPS = 10000        # each has a name
REFUSED = ("bottom", "top", "blobs", "include", "exclude", "phase", "in_place", "ntop")


class Layer(Module):
    """One layer of a net, of any registered type: nn.Layer("LRN", local_size=5)(x).

    type: as in a network file. inputs: the shapes of its inputs, as far as those of its parameters depend on
    them; None: its first call shows them. tops: how many blobs it returns. name: of the layer, in place of
    the path. stateful: whether recurrent states go on from call to call, separately in training and out of
    it; None: where the settings ask for it (`continues`, `cache`). Further settings are those of the type in
    a network file; a filler may be its name, "msra". Raises ConfigError for a type or setting that is
    unknown, and for values that would suit no input, or not `inputs`.
    """

    def __new__(cls, *args: Any, **kwargs: Any):
        self = super().__new__(cls, *args, **kwargs)
        vars(self)["_arguments"] = args, kwargs         # for repr
        return self

    def __init__(self, type: str, *, inputs: Sequence[tuple[int, ...]] | None = None, tops: int = 1,
                 name: str | None = None, stateful: bool | None = None, **settings: Any):
        kind = layer_class(type)
        for field in REFUSED:
            if field in settings:
                raise ConfigError(f"{field} is no setting of a module ({type}): it reads what it is called "
                                  f"with, and load_state_dict gives values")
        whole_number(f"{type}: tops", tops, 1, most=_MOST_TOPS)
        if kind.is_data:
            raise ConfigError(f"{type} feeds a net of its own; a module is called with its data")
        settings = {field: {"type": value} if field.endswith("filler") and isinstance(value, str) else value
                    for field, value in settings.items() if value is not None}
        self.type, self.settings, self.tops = type, Settings(settings, self.describe()), tops
        self.inputs = None if inputs is None else [tuple(shape) for shape in inputs]
        goes_on = bool(settings.get("continues") or settings.get("cache"))
        if stateful and not (goes_on or carries_states(kind, settings)):
            raise ConfigError(f"{type}: stateful=True, but it carries no states from call to call"
                              + " (bidirectional: a call holds whole sequences)"
                              * bool(settings.get("bidirectional")))
        self.stateful = goes_on if stateful is None else truth(f"{type}: stateful", stateful)
        has_none = kind.parameter_specs is LayerType.parameter_specs
        vars(self).update(_name=name, _own={} if has_none else None, _buffers=set(), _ties={}, _carried={})
        self._check(kind)

    def _check(self, kind):
        """Raise ConfigError or ShapeError for settings that suit no input, or not those that are known."""
        message = LayerParameter()
        try:
            set_layer(message, self.type, {"name": self.layer_name} | self.settings)
        except ConfigError as error:
            known = _defaults(self.type)
            hints = [KEYWORDS[name] for name in self.settings if name in KEYWORDS and name not in known]
            raise type(error)(f"{error}{f'; {hints[0]}' if hints else ''}") from None
        if self._own is None and self.inputs is not None:
            self._probe(self.inputs, self.settings)
        elif not kind.needs_handed:
            try:
                kind(message, Context("TRAIN", self.seed, self.dtype, self.backend))
            except MinidropError as error:
                whose = f" ({self.type})" * (self.type not in self.describe())
                raise type(error)(f"{self.describe()}{whose}: {error}") from None

    def forward(self, *inputs: Any) -> Any:
        return self.trace.apply(self, inputs, self.tops)

    @property
    def trace(self) -> Trace:
        """The Trace that runs; raises TraceError outside of any."""
        trace = current_trace()
        if trace is None:
            raise TraceError(f"{self.describe()}: call the module, not its forward")
        return trace

    @property
    def layer_name(self) -> str:
        """The name of its layer: `name`, the path, or the class of one that stands alone."""
        return self._name or self.layer_path or type(self).__name__.lower()

    @property
    def has_own_name(self) -> bool:
        """Whether its layer is called by a `name`."""
        return self._name is not None

    def __repr__(self):
        args, kwargs = self._arguments
        given = [*map(_shown, args), *(f"{name}={_shown(value)}" for name, value in kwargs.items())]
        return f"{type(self).__name__}({', '.join(given)})"

    # -- parameters ------------------------------------------------------------------------------------------
    def __getattr__(self, name: str) -> Any:
        own = vars(self).get("_own", {})
        if own is None and self.inputs is not None:
            own = self._probe(self.inputs, self.settings)[2]
        if name not in (own or ()):
            return super().__getattr__(name)
        return self.own_parameters()[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            raise ConfigError(f"{self.describe()}: to share a parameter with another layer, call "
                              f"tie({name!r}, that layer); to change its values, write to {name}.data")
        if name not in vars(self) or name == "settings":
            self._refuse_lost(name, value)
        super().__setattr__(name, value)

    def _refuse_lost(self, name, value):
        """Raise ConfigError for an attribute that would hide a parameter or a setting, and change nothing."""
        is_array = value is None or isinstance(value, list | np.ndarray | Tensor)
        if is_array and isinstance(getattr(self, name, None), Parameter):
            raise ConfigError(f"{self.describe()}: {name} is a parameter: to change its values, write to "
                              f"{name}.data; whether there is one is said where the module is made")
        if name == "settings" and name in vars(self):
            raise ConfigError(f"{self.describe()}: settings are {REMEDY}")
        field = {"p": "dropout_ratio", "rate": "dropout_ratio"}.get(name, name)
        known = _defaults(self.type) if "settings" in vars(self) else {}
        if field in known and not np.array_equal(value, self.settings.get(field, known[field])):
            raise ConfigError(f"{self.describe()}: {name} is a setting, {REMEDY}")

    def tie(self, name: str, other: Layer, other_name: str = "weight") -> None:
        """Use the parameter of another layer as its own `name`, as a language model does with its embedding.

        The shapes must be equal; ShapeError, when values are first needed, says if they are not. Raises
        ConfigError if its parameters have values already.
        """
        if self.is_filled:
            raise ConfigError(f"{self.describe()}: its parameters have values already; tie them before")
        self._ties[name] = (other, other_name)
        self._changed()

    @property
    def is_filled(self) -> bool:
        """Whether its parameters have values."""
        return bool(self._own)

    @property
    def knows_shapes(self) -> bool:
        """Whether the shapes of its parameters are known, by `inputs` or by a call."""
        return self._own is not None or self.inputs is not None

    def own_parameters(self) -> dict[str, Parameter]:
        """Return {name: Parameter}, made now if need be; raises ConfigError if it knows no shapes yet."""
        if self._own is None:
            if self.inputs is None:
                raise ConfigError(f"{self.describe()} ({self.type}) knows the shapes of its parameters only "
                                  f"from the shape of its input: call the model once, or give `inputs`, such "
                                  f"as inputs=[(1, 64)]")
            self._fill(self.inputs, self.settings)
        return self._own

    def own_buffers(self) -> set[str]:
        return self._buffers

    def parameters_for(self, shapes: Sequence[tuple[int, ...]],
                       settings: Mapping[str, Any]) -> dict[str, Parameter]:
        """Return its parameters, which are made for these inputs if its own `inputs` are not known."""
        if self.inputs is None and not self._own:
            self._fill(shapes, settings)
        return self.own_parameters()

    def note_no_parameters(self) -> None:
        """Record that it has none for the inputs of a call, as a Position of sines and cosines."""
        if self._own is None:
            vars(self)["_own"] = {}

    def _fill(self, shapes, settings):
        name, backend = self.layer_name, self.backend
        config, graph, specs = self._probe(shapes, settings)
        tied = {}
        for own, (other, others) in self._ties.items():
            theirs = other.own_parameters()
            for wanted, known, whose in ((own, specs, self), (others, theirs, other)):
                if wanted not in known:
                    raise ConfigError(f"{whose.describe()} has no parameter {wanted!r} to tie"
                                      f"{nearest(wanted, known)}")
            if tuple(specs[own].shape) != theirs[others].shape:
                raise ShapeError(f"{self.describe()}: its {own} of shape {tuple(specs[own].shape)} is tied "
                                 f"to {others} of {other.describe()}, of shape {theirs[others].shape}")
            tied[own] = theirs[others]
        with backend.active():
            made = make_parameters(graph, config, backend, self.dtype, self.seed, {name: tied})
        vars(self)["_own"] = made.get(name, {})
        vars(self)["_buffers"] = {own for own, spec in specs.items() if not spec.trained}

    def _probe(self, shapes, settings):
        """Return (NetConfig, Graph, {name: ParameterSpec}) of the layer alone, for inputs of these shapes."""
        blobs = {f"input{i}": shape for i, shape in enumerate(shapes)}
        message = LayerParameter()
        set_layer(message, self.type, {"name": self.layer_name, "bottom": list(blobs), "top": [
            f"output{i}" for i in range(self.tops)]} | settings)
        context = Context("TEST", self.seed, self.dtype, self.backend)
        config, graph = probe(message, blobs, context, self.describe())
        return config, graph, {spec.name: spec for spec in graph.nodes[-1].layer.parameter_specs()}

    def move_arrays(self) -> None:
        backend = self.backend
        with backend.active():
            for parameter in (self._own or {}).values():
                if parameter.backend is not backend or parameter.dtype != self.dtype:
                    parameter.move_to(backend, self.dtype)
            # A state was on the device that the module was on; a host array serves every device.
            self.set_carried({name: backend.asarray(backend_of(array).to_host(array), self.dtype)
                              for name, array in self.carried_states().items()})

    # -- states ----------------------------------------------------------------------------------------------
    def carry(self, place: tuple[bool, int], states: Mapping[str, Any]) -> None:
        """Remember the states after a call; place: (in training, which of the uses in one net)."""
        self._carried[place] = dict(states)

    def carried(self, place: tuple[bool, int]) -> dict[str, Any]:
        """Return what `carry` remembered for a place, {} for nothing."""
        return self._carried.get(place, {})

    def carried_states(self) -> dict[str, Any]:
        return {f"state:{'train' if training else 'eval'}:{use}:{name}": array
                for (training, use), states in self._carried.items() for name, array in states.items()}

    def set_carried(self, states: Mapping[str, Any]) -> None:
        self._carried.clear()
        for key, array in states.items():
            _, mode, use, name = key.split(":")
            self._carried.setdefault((mode == "train", int(use)), {})[name] = array


class Lambda(Layer):
    """A Python function of Tensors, run anew in every pass: nn.Lambda(lambda x: x * md.functions.sigmoid(x)).

    It may use minidrop.functions, operators of Tensors, and values; it returns a Tensor or a tuple of them.
    Their shapes are found by running it on zeros when a net is built, so they must not depend on values.
    Gradients flow through it; no product around it leaves anything out because of it. A module that it calls
    is a net of its own; hold it as an attribute too, so that its parameters are found.
    Raises ConfigError for what cannot be called.
    """

    def __init__(self, function: Callable[..., Any], name: str | None = None):
        if not callable(function):
            raise ConfigError(f"nn.Lambda takes a function, got {type(function).__name__}")
        super().__init__("Lambda", name=name)
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.trace.add_function(self.function, inputs, self._name or self.layer_path)

    def __repr__(self):
        return f"Lambda({getattr(self.function, '__name__', self.function)})"


class Weight(Layer):
    """A learned array of its own shape: x * self.gain, or self.queries() for its Symbol.

    filler: how it begins, as for any weight; zeros unless given.
    """

    def __init__(self, *shape: int, filler: Any = None, name: str | None = None):
        super().__init__("Parameter", inputs=[], shape={"dim": list(shape)}, filler=filler, name=name)

    def as_symbol(self) -> Any:
        """Return its Symbol in the net that is being traced."""
        return self()


def _shown(value):
    """Return the repr of an argument, its class where it has none, as of a list that is nested too deeply."""
    try:
        return repr(value)
    except Exception:
        return type(value).__name__


@cache
def _defaults(kind):
    """Return {setting: its default} of the messages that a type reads."""
    fields = LayerParameter.DESCRIPTOR.fields_by_name
    return {field.name: None if field.is_repeated or field.message_type else field.default_value
            for param in param_fields(kind) for field in fields[param].message_type.fields}
