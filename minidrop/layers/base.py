"""Layer: what a config file names. One type per file; `register_layer` makes it known.

A layer has shapes and parameters and calls `functions` for its maths. It never imports another layer and never looks at its
neighbours: what it may do with kept sets it only declares, and the planner decides. What several types share stands here
(`ProductLayer`, `RandomDrop`).
"""

import math
from dataclasses import dataclass

from minidrop.config import decimal, param_fields
from minidrop.errors import ConfigError, ShapeError
from minidrop.registry import Registry
from minidrop.rng import stream_key

_types = Registry("layer type", "type")


@dataclass(frozen=True)
class Context:
    """What a layer may know of the net it is built for."""

    phase: str                     # "TRAIN" or "TEST"
    seed: int
    dtype: str
    backend: object
    config_path: str | None = None   # the network file, for sources that stand beside it


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter that a layer needs: its name, shape and FillerParameter."""

    name: str
    shape: tuple
    filler: object


class Layer:
    """One layer of a net.

    `bottoms` and `tops` are the least and the greatest count (None: any). `setup` gets the logical shapes of the bottoms
    and returns those of the tops, raising ShapeError or ConfigError; it allocates nothing. `forward` gets Tensors.
    """

    type = ""
    bottoms = (1, 1)
    tops = (1, 1)

    # What the planner asks.
    elementwise = False        # y_i depends on x_i alone: a drop's demand may pass upward through it
    has_poles = False          # elementwise, but infinite or undefined somewhere: where x was not computed, 0 * y may be NaN
    zero_preserving = False    # and f(0) = 0: a dropped unit stays dropped, so a kept set may pass downward
    reads_kept = False         # computes correctly from compact inputs by itself
    computes_subset = False    # can leave out outputs, weights or blocks: `out_site`, lent by the planner, says which
    subset_kinds = ("units", "weights", "blocks")     # what of these, where it can
    out_site = None
    in_site = None             # lent by the planner: the blocks of the first bottom that its drop keeps

    # What a product may do for the layers below it. Subclasses do not inherit these promises: they may have another `forward`.
    applies_epilogue = False   # of a product: applies `epilogue`, and the scale of an `out_site` that is `scaled`
    as_epilogue = None         # of an activation: its name in Backend.activate; it returns its bottom where it `passes_on`
    leaves_scale = False       # of a drop: where its site is `scaled`, it does not scale what comes with the kept set
    epilogue = "none"          # lent by the planner: the activation to apply
    passes_on = False          # set by the planner: the product above applies this activation

    is_data = False            # feeds the net, reads no bottom
    keeps_units = False        # entry i of the bottom is entry i of every top, though not `elementwise`
    reshuffle_interval = 0     # the units above get other places every so many iterations (see reshuffle); 0: never
    is_loss = False            # its first top has loss_weight 1 by default
    saves_nothing_because = ""  # a drop that makes no product smaller says why, for `minidrop check`
    averages = "arithmetic"    # the mean of its tops over test batches; "geometric": exp of the mean of the logarithms
    batch_weight = 1           # of the batch last seen, in that mean
    site = None                # of a layer that drops by patterns: its DropSite
    drops_own_units = False    # and what it drops are units that it computes itself: nobody has to lend or to gather
    skips_steps = False        # set by the planner: where each step has a pattern, it skips products instead of masking
    capturable = False         # forward gives the device the same work in every pass, but for what it gets by `draw`
    stream = None              # the name of its random numbers, if forward draws any: keeps those of different types apart
    key_at = None              # lent by a captured step: where the device finds `key()`
    counter = 0                # of the iteration, as `draw` was told
    drops = False              # a drop layer: random where `dropping` is True, the same in every pass where it is False

    def __init__(self, config, context):
        self.config = config
        self.name = config.name
        self.context = context
        self.params = {}
        self.state = {}            # {name: array}; every forward pass makes new ones
        self.dropping = self.training

    @property
    def settings(self):
        """The layer's own *_param message; its defaults where the file has none."""
        return getattr(self.config, param_fields(self.type)[0])

    @property
    def training(self):
        return self.context.phase == "TRAIN"

    @property
    def dropping(self):
        """Whether its drops act: in phase TRAIN, unless Net.set_dropping has switched them."""
        return self._dropping if self.site is None else self.site.active

    @dropping.setter
    def dropping(self, on):
        if self.site is None:
            self._dropping = on
        else:
            self.site.active = on

    def setup(self, *shapes):
        """Return the shapes of the tops. Default: one top like the first bottom."""
        return [shapes[0]]

    def state_shapes(self):
        """Return {name: shape} of the arrays that the layer carries from batch to batch in its `state`, zeros at first."""
        return {}

    def parameter_specs(self):
        """Return the ParameterSpecs; called after `setup`."""
        return []

    def output_axes(self):
        """Return {parameter: its axis that counts the entries of the top's last axis}; {} if no parameter is theirs alone."""
        return {}

    def input_axes(self):
        """Return {parameter: its axis that counts the entries of the first bottom's last axis}; {} if it is not read so."""
        return {}

    def forward(self, *bottoms):
        """Return the top Tensor, or a tuple of them."""
        raise NotImplementedError

    def gemms(self, *shapes):
        """Return the products of one forward pass as (rows, inputs, outputs), for FLOP counts."""
        return []

    def state_gemms(self):
        """Return the products of a recurrent layer's state, as `gemms`."""
        return []

    def draw(self, counter):
        """Start iteration `counter`: everything random in it follows from the seed and this number."""
        self.counter = counter

    def key(self):
        """Return the key of this iteration's random numbers: an integer, or an array of it on the device."""
        if self.key_at is not None:
            return self.key_at
        return stream_key(self.context.seed, self.stream, self.name, self.counter)

    def close(self):
        """Release threads and files."""


class ProductLayer(Layer):
    """What layers that compute y = x W^T + b have in common: inner_product_param, the shapes, weight and bias.

    x is flattened from `axis` on; W is (num_output, inputs) as in Caffe, or its transpose.
    """

    def setup(self, shape):
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

    def parameter_specs(self):
        settings = self.settings
        shape = (self.inputs, self.outputs) if settings.transpose else (self.outputs, self.inputs)
        specs = [ParameterSpec("weight", shape, settings.weight_filler)]
        if settings.bias_term:
            specs.append(ParameterSpec("bias", (self.outputs,), settings.bias_filler))
        return specs

    def output_axes(self):
        axes = {"weight": 1 if self.transpose else 0}
        return {**axes, "bias": 0} if self.settings.bias_term else axes

    def input_axes(self):
        return {} if self.flattens else {"weight": 0 if self.transpose else 1}

    def gemms(self, shape):
        return [(math.prod(shape[:self.axis]), self.inputs, self.outputs)]


class RandomDrop(Layer):
    """What layers with random numbers for single entries have in common: dropout_ratio, and a key for every iteration.

    What they draw is a function of (seed, layer, iteration, entry), the same on every device.
    """

    drops = True
    reads_axes = False         # has a use for `axes` and `shared`

    def setup(self, *shapes):
        settings = self.config.dropout_param
        self.rate = decimal(settings.dropout_ratio)
        if not 0 <= self.rate < 1:
            raise ConfigError(f"dropout_ratio must lie in [0, 1), got {self.rate:g}")
        if not self.reads_axes and (settings.axes or settings.shared):
            raise ConfigError(f"axes and shared are settings of Dropout; {self.type} has no use for them")
        return super().setup(*shapes)


def register_layer(name):
    """Return a class decorator that makes a Layer known by its type name."""
    return _types.register(name)


def known_layers():
    """Return the registered type names, sorted."""
    return _types.names()


def layer_class(type_name):
    """Return the Layer class of a type; ConfigError with the nearest names where it is unknown."""
    return _types.get(type_name)


def checked_axis(axis, ndim, what="axis"):
    """Return `axis` as a non-negative number; ConfigError where the blob has no such axis."""
    if not -ndim <= axis < ndim:
        raise ConfigError(f"{what} {axis} does not exist: the bottom has {ndim} axes")
    return axis % ndim


def axis_with_alias(settings, old_name, ndim):
    """Return the axis of a message (Concat, Slice) that has an older name for it too."""
    if settings.HasField(old_name):
        if settings.HasField("axis"):
            raise ConfigError(f"axis and {old_name} are both given; keep axis")
        return checked_axis(getattr(settings, old_name), ndim, old_name)
    return checked_axis(settings.axis, ndim)


def check_label_shape(scores, labels, axis):
    """Raise ShapeError unless there is one label for every place of `scores` without `axis`."""
    places = math.prod(scores[:axis]) * math.prod(scores[axis + 1:])
    if math.prod(labels) != places:
        raise ShapeError(f"scores of shape {tuple(scores)} (classes on axis {axis}) need {places} labels, "
                         f"but the label blob has shape {tuple(labels)}")


def loss_settings(config, default="VALID"):
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
