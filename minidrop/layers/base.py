"""Layer: the base class of the layer types that a network file names, one per file.

A layer has shapes and parameters and calls `functions` for its maths. It never imports another layer and
never looks at its neighbours: it only declares what it can do with kept sets, and the planner decides. Code
that several types share is here (`ProductLayer`, `RandomDrop`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import Message

from minidrop.config import decimal, param_fields
from minidrop.config import layer_types as _types
from minidrop.errors import ConfigError, ShapeError, nearest
from minidrop.layers.flow import Drops, Pass, Product
from minidrop.layers.given import NodeDraw, NodePlan
from minidrop.rng import stream_key

if TYPE_CHECKING:
    from minidrop.autograd import Parameter
    from minidrop.backend import Backend
    from minidrop.config import LayerParameter


@dataclass(frozen=True)
class Context:
    """What a layer knows of the net it is built for."""

    phase: str                     # "TRAIN" or "TEST"
    seed: int
    dtype: str
    backend: Backend
    config_path: str | None = None   # the network file: data sources are looked up beside it
    rank: int = 0                  # among `ranks` that train together, each on a part of every batch
    ranks: int = 1
    handed: Mapping[str, Any] = field(default_factory=dict)     # {layer: what it hands on to this net}


@dataclass(frozen=True)
class ParameterSpec:
    """The name, shape and FillerParameter of a parameter that a layer needs.

    setting: the field of the layer's settings that holds the filler; "": NAME_filler. trained: False for what
    the layer itself keeps up to date, such as statistics: its multipliers are 0 whatever the file says.
    initial: an array with which it begins in place of what the filler makes.
    """

    name: str
    shape: tuple
    filler: object
    setting: str = ""
    trained: bool = True
    initial: Any = None


class Layer:
    """One layer of a net.

    `bottoms` and `tops` are the least and the greatest number of each (None: no limit). `setup` takes the
    logical shapes of the bottoms and returns those of the tops; it raises ShapeError or ConfigError, and
    allocates nothing. `flow` describes how entries pass through. `forward` takes Tensors and follows `plan`
    and `drawn`, which the net sets.
    """

    type: str = ""
    bottoms: tuple[int, int | None] = (1, 1)
    tops: tuple[int, int | None] = (1, 1)
    is_data = False            # feeds the net and has no bottoms
    is_loss = False            # its first top has loss_weight 1 by default
    learnable_tops: int | None = None       # only so many of its tops, the first, have a gradient (None: all)
    averages = "arithmetic"    # mean of its tops over test batches; "geometric": exp of the mean logarithm
    reads_loss_param: tuple[str, ...] = ()     # which fields of loss_param apply
    stream: str | None = None  # names the random numbers that forward draws, if any; differs between types
    # Whether forward does the same work in every pass, apart from what `drawn` holds. Not inherited: a
    # subclass has to set it again.
    capturable = False
    # Whether the numbers that forward draws are those of the places in the whole batch, see NodeDraw.part;
    # otherwise each rank draws others.
    draws_by_place = False
    along: int | None = None   # the axis of the first bottom that it works along, from entry to entry
    needs_handed = False       # whether only what `hands_on` returns can build it again, not its description
    plan = NodePlan()          # set once per mode
    drawn = NodeDraw()         # set for every iteration

    def __init__(self, config: LayerParameter, context: Context):
        self.config, self.name, self.context = config, config.name, context
        self.params: dict[str, Parameter] = {}
        self.state: dict[str, np.ndarray] = {}     # replaced in every forward pass
        given = {setting.name for setting, _ in config.loss_param.ListFields()} - {*self.reads_loss_param}
        for name in sorted(given & {"label_smoothing", "class_weight"}):
            raise ConfigError(f"loss_param: {name} is a setting of SoftmaxWithLoss; {self.type} has none, "
                              f"remove it")
        self.read_settings()

    def read_settings(self) -> None:
        """Store what the settings say by themselves; raises ConfigError for what would suit no bottom.

        Called once, when the layer is made: a module refuses then what a net refuses when it is built.
        """

    @property
    def batch_weight(self) -> float | None:
        """The last batch's weight in means, 1 for one of full size; None: that of its records."""
        return None

    def weight_of(self, top: int) -> Any:
        """What the last batch weighs in the mean of a top: `batch_weight`, or an array like the top.

        None: as much as its records, see `Run.weight_of`.
        """
        return self.batch_weight

    @property
    def settings(self) -> Message:
        """The layer's own *_param message, with default values where the file has none."""
        return getattr(self.config, param_fields(self.type)[0])

    def options(self, **defaults: Any) -> Any:
        """Return the settings in the `param_str` of a user-defined layer, as {name: value}.

        `defaults` gives their names and default values; a default that is a type makes the setting mandatory,
        with a value of that type. Raises ConfigError if param_str is not a JSON object, or if a setting is
        unknown, missing, or of another type than its default.
        """
        text = self.config.param_str or "{}"
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"param_str is no JSON: {error}; got {text[:80]!r}") from None
        if not isinstance(given, dict):
            raise ConfigError(f'param_str must be a JSON object such as {{"num_output": 32}}, got '
                              f'{text[:80]!r}')
        for name in given:
            if name not in defaults:
                raise ConfigError(f"param_str: {self.type} has no setting {name!r}{nearest(name, defaults)} "
                                  f"(it has: {', '.join(defaults) or 'none'})")
        found = {}
        for name, default in defaults.items():
            kind = default if isinstance(default, type) else type(default)
            if name not in given and isinstance(default, type):
                raise ConfigError(f"param_str: {self.type} needs {name}, of type {kind.__name__}")
            value = given.get(name, default)
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is not kind:
                raise ConfigError(f"param_str: {name} must be of type {kind.__name__}, got {value!r}")
            found[name] = value
        return found

    @property
    def training(self) -> bool:
        """Whether its net is one of phase TRAIN."""
        return self.context.phase == "TRAIN"

    def setup(self, *shapes: Any) -> list[tuple[int, ...]]:
        """Return the shapes of the tops; by default one top shaped like the first bottom."""
        return [shapes[0]]

    def take_part(self, shapes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the shapes of the tops on one of several ranks, from those of the whole batch.

        Called after `setup` of layers that feed the net. Raises ConfigError if the layer reads no parts.
        """
        raise ConfigError(f"{self.type} is fed by the caller, who cannot be asked for a part of a batch; of "
                          f"several ranks each needs a layer that reads data, such as HDF5Data or MemoryData")

    def flow(self, shapes: list[tuple[int, ...]]) -> list:
        """Return the flow facts of the layer (see layers.flow); called after `setup`, with the same shapes.

        By default there are none: every entry of a top may depend on every entry of a bottom.
        """
        return []

    def state_shapes(self) -> dict:
        """Return {name: shape} of the arrays carried from batch to batch in `state`; they start as zeros."""
        return {}

    def parameter_specs(self) -> list:
        """Return the list of ParameterSpecs; called after `setup`."""
        return []

    def forward(self, *bottoms: Any) -> Any:
        """Return the top Tensor, or a tuple of them."""
        raise NotImplementedError

    def key(self, iteration: int) -> int:
        """Return the key of an iteration's random numbers, different for each layer and iteration.

        Also for each rank, unless the layer draws by place.
        """
        rank = (self.context.rank,) if self.context.rank and not self.draws_by_place else ()
        return stream_key(self.context.seed, self.stream, self.name, iteration, *rank)

    def hands_on(self) -> Any:
        """Return what the same layer of a net in other shapes finds in its context, None for nothing."""
        return None

    def adopt(self, other: Any) -> None:
        """Take over what the caller has set on `other`, the same layer of an earlier net."""

    def close(self) -> None:
        """Stop threads and close files."""

    def __repr__(self):
        """Type, name, blobs and parameters; a layer that is not whole yet shows what it has."""
        config, params = getattr(self, "config", None), getattr(self, "params", {})
        flow = (f"{', '.join(config.bottom)} -> {', '.join(config.top)}".strip() if config is not None
                else "not built")
        shown = "".join(f"; {name} {'x'.join(map(str, p.shape))}" for name, p in params.items())
        return f"{self.type or type(self).__name__}({getattr(self, 'name', '')!r}: {flow}{shown})"


class ProductLayer(Layer):
    """Base class of layers that compute y = x W^T + b, with inner_product_param as settings.

    x is flattened from `axis` on; W has shape (num_output, inputs) as in Caffe, or is its transpose.
    """

    def setup(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.settings
        if not settings.num_output:
            raise ConfigError("inner_product_param needs num_output, at least 1")
        self.axis = checked_axis(settings.axis, len(shape))
        if self.axis == 0:
            raise ConfigError("axis 0 is the batch; expected 1 or more")
        self.inputs = math.prod(shape[self.axis:])
        if not self.inputs:
            raise ShapeError(f"bottom of shape {tuple(shape)} has no features from axis {self.axis} on")
        self.outputs, self.transpose = settings.num_output, settings.transpose
        self.flattens = len(shape) != self.axis + 1
        return [tuple(shape[:self.axis]) + (self.outputs,)]

    def parameter_specs(self) -> list[ParameterSpec]:
        settings = self.settings
        shape = (self.inputs, self.outputs) if settings.transpose else (self.outputs, self.inputs)
        specs = [ParameterSpec("weight", shape, settings.weight_filler)]
        if settings.bias_term:
            specs.append(ParameterSpec("bias", (self.outputs,), settings.bias_filler))
        return specs

    def product(self, shape: Any, kinds: Any = ()) -> Product:
        """Return the Product of this layer; `kinds` says what it can leave out."""
        flat = shape[self.axis:]
        return Product("weight", math.prod(shape[:self.axis]), self.inputs, self.outputs, in_axis=self.axis,
                       out_axis=self.axis, kinds=kinds, in_spread=math.prod(flat[1:]),
                       weight_axes=(1, 0) if self.transpose else (0, 1),
                       biases=("bias",) * self.settings.bias_term, epilogue=True)


class RandomDrop(Layer):
    """Base class of layers that draw a random number per entry: dropout_ratio, and a key per iteration.

    The numbers are a function of (seed, layer, iteration, entry), the same on every device.
    """

    reads_axes = False         # whether `axes` and `shared` apply
    reason = ""                # why no product becomes smaller

    def read_settings(self) -> None:
        settings = self.config.dropout_param
        self.rate = decimal(settings.dropout_ratio)
        if not 0 <= self.rate < 1:
            raise ConfigError(f"dropout_ratio must lie in [0, 1), got {self.rate:g}")
        if not self.reads_axes and (settings.axes or settings.shared):
            raise ConfigError(f"axes and shared are settings of Dropout; {self.type} has no use for them")
        super().read_settings()

    def flow(self, shapes: list[tuple[int, ...]]) -> list:
        return [Pass(keeps_zero=True, compact=False), Drops(reason=self.reason)]


def register_layer(name: str) -> Callable:
    """Return a class decorator that registers a Layer under its type name."""
    return _types.register(name)


def known_layers() -> list[str]:
    """Return the registered type names, sorted."""
    return _types.names()


def layer_class(type_name: str) -> type[Layer]:
    """Return the Layer class of a type; raises ConfigError, with the nearest names, for an unknown one."""
    return _types.get(type_name)


def checked_axis(axis: int, ndim: int, what: str = "axis") -> int:
    """Return `axis` as a non-negative number; raises ConfigError if the bottom has no such axis."""
    if not -ndim <= axis < ndim:
        raise ConfigError(f"{what} {axis} does not exist: the bottom has {ndim} axes")
    return axis % ndim


def base_of_logarithm(base: float) -> float | None:
    """Return the `base` of a message (Exp, Log), None for e, which -1 stands for; ConfigError for no base."""
    if base == -1:
        return None
    if not 0 < base < math.inf:
        raise ConfigError(f"base must be above 0, or -1 for e, got {base:g}")
    return decimal(base)


def check_label_shape(scores: tuple[int, ...], labels: Any, axis: int) -> None:
    """Raise ShapeError unless there is one label for every position of `scores` apart from `axis`."""
    places = math.prod(scores[:axis]) * math.prod(scores[axis + 1:])
    if math.prod(labels) != places:
        raise ShapeError(f"scores of shape {tuple(scores)} (classes on axis {axis}) need {places} labels, "
                         f"but the label blob has shape {tuple(labels)}")


def check_record_labels(scores: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Raise ShapeError unless there is one label for each record of `scores` (N, ...)."""
    if not scores or math.prod(labels) != scores[0]:
        raise ShapeError(f"a first bottom of shape {tuple(scores)} needs one label for each record, but the "
                         f"label blob has shape {tuple(labels)}")
