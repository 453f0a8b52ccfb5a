"""Layer: what a config file names. One type per file; `register_layer` makes it known.

A layer has shapes and parameters and calls `functions` for its maths. It never imports another layer and
never looks at its neighbours: what it may do with kept sets it only declares, and the planner decides. What
several types share stands here (`ProductLayer`, `RandomDrop`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import Message

from minidrop.config import decimal, param_fields
from minidrop.config import layer_types as _types
from minidrop.errors import ConfigError, DataError, ShapeError, nearest
from minidrop.layers.flow import Drops, Pass, Product
from minidrop.layers.given import NodeDraw, NodePlan
from minidrop.rng import stream_key

if TYPE_CHECKING:
    from minidrop.config import LayerParameter


@dataclass(frozen=True)
class Context:
    """What a layer may know of the net it is built for."""

    phase: str                     # "TRAIN" or "TEST"
    seed: int
    dtype: str
    backend: object
    config_path: str | None = None   # the network file, for sources that stand beside it
    rank: int = 0                  # of several that train together: their noise must differ


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter that a layer needs: its name, shape and FillerParameter."""

    name: str
    shape: tuple
    filler: object


class Layer:
    """One layer of a net.

    `bottoms` and `tops` are the least and the greatest count (None: any). `setup` gets the logical shapes of
    the bottoms and returns those of the tops, raising ShapeError or ConfigError; it allocates nothing. `flow`
    says how entries pass through, `forward` gets Tensors and heeds `plan` and `drawn`, which the net gives.
    """

    type: str = ""
    bottoms: tuple[int, int | None] = (1, 1)
    tops: tuple[int, int | None] = (1, 1)
    is_data = False            # feeds the net, reads no bottom
    is_loss = False            # its first top has loss_weight 1 by default
    averages = "arithmetic"    # the mean of its tops over test batches; "geometric": exp of mean logarithm
    batch_weight: float = 1    # of the last batch, in that mean
    stream: str | None = None  # the name of its random numbers, if forward draws any: keeps types apart
    # forward does the same work in every pass, but for what `drawn` holds; a subclass has to say so again
    capturable = False
    plan = NodePlan()          # given once a mode
    drawn = NodeDraw()         # given for every iteration

    def __init__(self, config: LayerParameter, context: Context):
        self.config = config
        self.name = config.name
        self.context = context
        self.params = {}
        self.state = {}            # {name: array}; every forward pass makes new ones

    def weight_of(self, top: int) -> Any:
        """What the last batch weighs in the mean of a top: `batch_weight`, or an array like the top."""
        return self.batch_weight

    @property
    def settings(self) -> Message:
        """The layer's own *_param message; its defaults where the file has none."""
        return getattr(self.config, param_fields(self.type)[0])

    def options(self, **defaults: Any) -> Any:
        """Return the settings in `param_str`, for layers of a user's own: {name: value} with these names and
        defaults.

        A default that is a type asks for a value of it. Raises ConfigError: no JSON object, an unknown name,
        a missing one, a value of another type than the default.
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
        return self.context.phase == "TRAIN"

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Return the shapes of the tops. Default: one top like the first bottom."""
        return [shapes[0]]

    def flow(self, shapes: list[tuple[int, ...]]) -> list:
        """Return the facts (see layers.flow) of how entries flow through; called after `setup`, with the same
        shapes.

        Default: none, every entry of a top may depend on every entry of a bottom.
        """
        return []

    def state_shapes(self) -> dict:
        """Return {name: shape} of the arrays that the layer carries from batch to batch in its `state`, zeros
        at first."""
        return {}

    def parameter_specs(self) -> list:
        """Return the ParameterSpecs; called after `setup`."""
        return []

    def forward(self, *bottoms: Any) -> Any:
        """Return the top Tensor, or a tuple of them."""
        raise NotImplementedError

    def key(self, iteration: int) -> int:
        """Return the key of an iteration's random numbers: no two layers, iterations or ranks share one."""
        rank = (self.context.rank,) if self.context.rank else ()
        return stream_key(self.context.seed, self.stream, self.name, iteration, *rank)

    def adopt(self, other: Any) -> None:
        """Take over what the caller has given `other`, the same layer of a net built before."""

    def close(self) -> None:
        """Release threads and files."""


class ProductLayer(Layer):
    """What layers that compute y = x W^T + b have in common: inner_product_param, the shapes, weight and
    bias.

    x is flattened from `axis` on; W is (num_output, inputs) as in Caffe, or its transpose.
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
        """Return the Product of this layer, which can leave out what `kinds` names."""
        flat = shape[self.axis:]
        return Product("weight", math.prod(shape[:self.axis]), self.inputs, self.outputs, in_axis=self.axis,
                       out_axis=self.axis, kinds=kinds, in_spread=math.prod(flat[1:]),
                       weight_axes=(1, 0) if self.transpose else (0, 1),
                       biases=("bias",) * self.settings.bias_term, epilogue=True)


class RandomDrop(Layer):
    """What layers with random numbers for single entries have in common: dropout_ratio, and a key for every
    iteration.

    What they draw is a function of (seed, layer, iteration, entry), the same on every device.
    """

    reads_axes = False         # has a use for `axes` and `shared`
    reason = ""                # why it makes no product smaller

    def setup(self, *shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
        settings = self.config.dropout_param
        self.rate = decimal(settings.dropout_ratio)
        if not 0 <= self.rate < 1:
            raise ConfigError(f"dropout_ratio must lie in [0, 1), got {self.rate:g}")
        if not self.reads_axes and (settings.axes or settings.shared):
            raise ConfigError(f"axes and shared are settings of Dropout; {self.type} has no use for them")
        return super().setup(*shapes)

    def flow(self, shapes: list[tuple[int, ...]]) -> list[Drops | Pass]:
        return [Pass(keeps_zero=True, compact=False), Drops(reason=self.reason)]


def register_layer(name: str) -> Callable:
    """Return a class decorator that makes a Layer known by its type name."""
    return _types.register(name)


def known_layers() -> list[str]:
    """Return the registered type names, sorted."""
    return _types.names()


def layer_class(type_name: str) -> type:
    """Return the Layer class of a type; ConfigError with the nearest names where it is unknown."""
    return _types.get(type_name)


def checked_axis(axis: int, ndim: int, what: str = "axis") -> int:
    """Return `axis` as a non-negative number; ConfigError where the blob has no such axis."""
    if not -ndim <= axis < ndim:
        raise ConfigError(f"{what} {axis} does not exist: the bottom has {ndim} axes")
    return axis % ndim


def axis_with_alias(settings: Message, old_name: str, ndim: int) -> int:
    """Return the axis of a message (Concat, Slice) that has an older name for it too."""
    if settings.HasField(old_name):
        if settings.HasField("axis"):
            raise ConfigError(f"axis and {old_name} are both given; keep axis")
        return checked_axis(getattr(settings, old_name), ndim, old_name)
    return checked_axis(settings.axis, ndim)


MOST_COUNTED = {"float32": 2**24, "float64": 2**53}     # whole numbers that a dtype tells apart


def check_countable(count: int, dtype: str, what: str) -> None:
    """Raise ConfigError where indices of 0 .. count - 1, which travel as numbers of `dtype`, run together."""
    if count > MOST_COUNTED[dtype]:
        raise ConfigError(f"{what} is {count}, but {dtype} tells indices apart only up to "
                          f"{MOST_COUNTED[dtype]}; use dtype float64 (--dtype float64)")


def check_label_shape(scores: tuple[int, ...], labels: Any, axis: int) -> None:
    """Raise ShapeError unless there is one label for every place of `scores` without `axis`."""
    places = math.prod(scores[:axis]) * math.prod(scores[axis + 1:])
    if math.prod(labels) != places:
        raise ShapeError(f"scores of shape {tuple(scores)} (classes on axis {axis}) need {places} labels, "
                         f"but the label blob has shape {tuple(labels)}")


def labels_that_count(label: Any, ignore_label: int | None) -> float:
    """Return the share of labels that are not `ignore_label`: the weight of a batch in means over batches."""
    return 1 if ignore_label is None or not label.size else float((label != ignore_label).mean())


def as_numbers(value: Any, convert: Callable[[Any], Any] = np.asarray) -> Any:
    """Return convert(value), an array of what a caller gives. Raises DataError where it is none of real
    numbers, or hides some behind a mask, which would be lost."""
    try:
        array = convert(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"is no array of numbers ({error})") from None
    if np.ma.is_masked(value):
        raise DataError("is no array of numbers (entries are masked; fill them first)")
    if array.dtype.kind not in "biuf":
        raise DataError(f"is no array of numbers (its dtype is {array.dtype}; convert it)")
    return array


def loss_settings(config: LayerParameter, default: str = "VALID") -> tuple[int | None, str]:
    """Return (ignore_label or None, normalization mode) of a layer's loss_param.

    The old field `normalize` counts where the new one is absent.
    """
    loss = config.loss_param
    mode = default
    if loss.HasField("normalization"):
        mode = loss.NormalizationMode.Name(loss.normalization)
    elif loss.HasField("normalize"):
        mode = "VALID" if loss.normalize else "BATCH_SIZE"
    return loss.ignore_label if loss.HasField("ignore_label") else None, mode
