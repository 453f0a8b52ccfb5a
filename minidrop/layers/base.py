"""Layer: what a config file names. One type per file; `register_layer` makes it known.

A layer has shapes and parameters and calls `functions` for its maths. It never imports another layer and never looks at its
neighbours: what it may do with kept sets it only declares, and the planner decides.
"""

import math
from dataclasses import dataclass

from minidrop.config import param_fields
from minidrop.errors import ConfigError, ShapeError, nearest

_types = {}


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
    zero_preserving = False    # and f(0) = 0: a dropped unit stays dropped, so a kept set may pass downward
    reads_kept = False         # computes correctly from compact inputs by itself
    computes_subset = False    # can leave outputs out: `out_site`, lent by the planner, says which
    out_site = None
    is_data = False            # feeds the net, reads no bottom
    is_loss = False            # its first top has loss_weight 1 by default

    def __init__(self, config, context):
        self.config = config
        self.name = config.name
        self.context = context
        self.params = {}

    @property
    def settings(self):
        """The layer's own *_param message; its defaults where the file has none."""
        return getattr(self.config, param_fields(self.type)[0])

    @property
    def training(self):
        return self.context.phase == "TRAIN"

    def setup(self, *shapes):
        """Return the shapes of the tops. Default: one top like the first bottom."""
        return [shapes[0]]

    def parameter_specs(self):
        """Return the ParameterSpecs; called after `setup`."""
        return []

    def forward(self, *bottoms):
        """Return the top Tensor, or a tuple of them."""
        raise NotImplementedError

    def gemms(self, *shapes):
        """Return the products of one forward pass as (rows, inputs, outputs), for FLOP counts."""
        return []

    def draw(self, counter):
        """Start iteration `counter`: everything random in it follows from the seed and this number."""

    def close(self):
        """Release threads and files."""


def register_layer(name):
    """Return a class decorator that makes a Layer known by its type name."""
    def register(layer):
        if name in _types:
            raise ValueError(f"layer type {name!r} is registered twice")
        layer.type = name
        _types[name] = layer
        return layer
    return register


def known_layers():
    """Return the registered type names, sorted."""
    return sorted(_types)


def layer_class(type_name):
    """Return the Layer class of a type; ConfigError with the nearest names where it is unknown."""
    if type_name not in _types:
        raise ConfigError(f"unknown layer type {type_name!r}{nearest(type_name, _types)} "
                          f"(known types: {', '.join(known_layers())})")
    return _types[type_name]


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
