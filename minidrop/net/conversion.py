"""Converts the drop layers of a net to another kind without editing its file: --dropout."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

from minidrop.backend import get_backend
from minidrop.config import apply_overrides, decimal, minidrop_pb2, param_fields
from minidrop.config.load import NetConfig
from minidrop.config.minidrop_pb2 import RecurrentParameter
from minidrop.errors import ConfigError
from minidrop.layers import Context
from minidrop.net.graph import build_graph
from minidrop.net.problems import Problems
from minidrop.patterns.base import OWN_SETTINGS, find_family

if TYPE_CHECKING:
    from minidrop.config import NetParameter

log = logging.getLogger(__name__)

Shapes = Callable[[int], "Sequence[tuple[int, ...]] | None"]


def dropout_kind(kind: str, option: str = "--dropout") -> str:
    """Return a kind for `convert_dropout`, its family spelt as registered.

    option: what it was given with. Raises ConfigError, which names that, if it is unknown.
    """
    return _parsed(kind, option)[0]


def prepare_nets(configs: list[NetConfig], kind: str | None, overrides: Sequence[str]) -> None:
    """Convert the drop layers of NetConfigs to a kind (None: leave them), then apply overrides, in place.

    The overrides refer to the new types. A hidden_dropout that an override adds is converted too, unless
    hidden_dropout_type is given with it.
    """
    for config in configs:
        if kind:
            convert_dropout(config.message, kind, partial(_shapes_of_data, config))
    layers = [layer for config in configs for layer in config.message.layer]
    without = [not _recurrent(layer).HasField("hidden_dropout") for layer in layers]
    apply_overrides(configs, overrides)
    for layer, is_new in zip(layers, without, strict=True):
        settings = _recurrent(layer)
        if (kind and kind != "none" and is_new and settings.HasField("hidden_dropout")
                and not settings.HasField("hidden_dropout_type")):
            _convert_hidden(layer, *_parsed(kind))
    # With "none" a net without drops is what was asked for.
    if kind and kind != "none" and configs and not any(
            layer.type in ("Dropout", "ApproxDropout") or _recurrent(layer).HasField("hidden_dropout")
            for layer in layers):
        log.warning("--dropout %s has no effect: there is no layer of type Dropout or ApproxDropout and no "
                    "hidden_dropout", kind)


def convert_dropout(message: NetParameter, kind: str, shapes: Shapes | None = None) -> None:
    """Convert the drop layers of a NetParameter to one kind, in place; each keeps its dropout_ratio.

    "none" sets every dropout_ratio to 0, those inside other layers included. "conventional" makes every
    ApproxDropout a Dropout; "approx" does the reverse; "approx:FAMILY" also gives all of them that family of
    patterns, its name in any case. Settings that the new type lacks are dropped: patterns one way, `axes`
    and `shared` the other. Behind images an ApproxDropout drops whole channels:
    it becomes a Dropout whose axes are the others, 2 and 3, and only such a Dropout becomes an
    ApproxDropout there; one that drops single values stays, which is logged. Settings of the old family
    that FAMILY does not read are dropped and logged. DropConnect and GaussianDropout stay as they are.
    shapes: function(number of a layer) -> shapes of its tops, None where they are not known; it is asked of
    layers that feed the net. By default what files hold is not known, and not taken for images.
    The hidden_dropout of a recurrent layer is converted likewise, but if FAMILY does not drop units it
    keeps its family, which is logged.
    Raises ConfigError for another kind.
    """
    kind, family = _parsed(kind)
    if kind == "none":
        _drop_nothing(message)
        return
    shapes = cache(shapes or partial(_shapes_without_files, message))
    for number, layer in enumerate(message.layer):
        if _recurrent(layer).HasField("hidden_dropout"):
            _convert_hidden(layer, kind, family)
        if kind == "conventional" and layer.type == "ApproxDropout":
            settings, axes = layer.approx_dropout_param, _axes_of_images(message, number, shapes)
            _move_ratio(settings, layer.dropout_param)
            if axes is not None:
                own = settings.axis % axes if settings.HasField("axis") else _usual_axis(axes)
                layer.dropout_param.axes.extend(axis for axis in range(1, axes) if axis != own)
            layer.type = "Dropout"
            layer.ClearField("approx_dropout_param")
        elif kind != "conventional" and layer.type == "Dropout":
            axes = _axes_of_images(message, number, shapes)
            own = None if axes is None else _dropped_axis(layer.dropout_param, axes)
            if axes is not None and own is None:
                log.info("layer %s: Dropout stays: it drops single values of images, and an ApproxDropout "
                         "would drop whole channels; write one if that is meant", layer.name)
                continue
            _move_ratio(layer.dropout_param, layer.approx_dropout_param)
            if axes is not None and own != _usual_axis(axes):
                layer.approx_dropout_param.axis = own
            layer.type = "ApproxDropout"
            layer.ClearField("dropout_param")
        if family is not None and layer.type == "ApproxDropout":
            _set_family(f"layer {layer.name}", layer.approx_dropout_param, family)


def _drop_nothing(message):
    """Set every dropout_ratio of the layers to 0."""
    for layer in message.layer:
        if _recurrent(layer).HasField("hidden_dropout"):
            _recurrent(layer).hidden_dropout.dropout_ratio = 0
        for settings in [getattr(layer, name) for name in param_fields(layer.type)]:
            if "dropout_ratio" in settings.DESCRIPTOR.fields_by_name:
                settings.dropout_ratio = 0


# The types whose tops are images, and those whose tops are vectors; the others keep what their bottom is.
_MAKE_IMAGES = frozenset(("Convolution", "Deconvolution", "Im2col", "Pooling"))
_MAKE_VECTORS = frozenset(("ArgMax", "AttentionDecoder", "Embed", "Flatten", "GRU", "InnerProduct", "LSTM",
                           "LastState", "ParallelTextData", "Patches", "RNN", "Reduction", "SPP", "TextData"))


def _axes_of_images(message, number, shapes):
    """Return the number of axes of the images that a layer reads, None if it is not known to read any.

    shapes: as for `convert_dropout`. What stands behind a global pooling, or is fed with one place a channel,
    counts as vectors.
    """
    blob = message.layer[number].bottom[0] if message.layer[number].bottom else ""
    made, axes = False, None
    for place in range(number - 1, -1, -1):
        writer = message.layer[place]
        if blob not in writer.top:
            continue
        if writer.type == "Reshape":
            axes = _axes_of_reshape(writer.reshape_param)
            break
        if writer.pooling_param.global_pooling:
            return None
        if writer.type in _MAKE_VECTORS:
            axes = 3            # a window slides over a sequence, if any
            break
        made = made or writer.type in _MAKE_IMAGES
        if not writer.bottom:
            found = shapes(place)
            if found is not None:
                shape = found[list(writer.top).index(blob)]
                axes = len(shape) if made or math.prod(shape[2:]) > 1 else None
            break
        blob = writer.bottom[0]
    if made:
        return axes or 4
    return axes if axes is not None and axes > 3 else None


def _axes_of_reshape(settings):
    """Return how many axes a Reshape makes, None where those of its bottom decide."""
    return len(settings.shape.dim) if not settings.axis and settings.num_axes == -1 else None


def _shapes_of_data(config, number):
    """Return the shapes of the tops of a layer that feeds a net, None if it is Python or cannot be made."""
    if config.message.layer[number].type == "Python":
        return None
    alone = NetConfig(minidrop_pb2.NetParameter(layer=[config.message.layer[number]]), config.path)
    context = Context("TRAIN", 0, "float32", get_backend("cpu"), config.path)
    graph = build_graph(alone, context, Problems(alone))        # its mistakes are told when the net is built
    [node] = graph.nodes
    if not node.is_sound:
        return None
    node.layer.close()
    return [graph.shapes[ref] for ref in node.tops]


def _shapes_without_files(message, number):
    if message.layer[number].type not in ("DummyData", "Input", "MemoryData"):
        return None
    return _shapes_of_data(NetConfig(message), number)


def _dropped_axis(settings, axes):
    """Return the one axis of images, beside the samples, that a DropoutParameter does not share; or None."""
    own = set(range(1, axes)) - {axis % axes for axis in settings.axes}
    return own.pop() if len(own) == 1 else None


def _usual_axis(axes):
    """Return the axis that an ApproxDropout takes by itself."""
    return 2 if axes == 3 else 1


def _recurrent(layer):
    """Return the settings of a layer that may hold a hidden_dropout."""
    return layer.decoder_param if layer.type == "AttentionDecoder" else layer.recurrent_param


def _convert_hidden(layer, kind, family):
    """Convert the hidden_dropout of a recurrent layer to a kind."""
    settings, kinds = _recurrent(layer), RecurrentParameter
    before = settings.hidden_dropout.pattern
    settings.hidden_dropout_type = kinds.CONVENTIONAL if kind == "conventional" else kinds.APPROX
    if family is None:
        return
    if family.drops == "units":
        _set_family(f"layer {layer.name}: hidden_dropout", settings.hidden_dropout, family)
    else:
        log.info("layer %s: hidden_dropout: pattern %s stays; %s drops %s, a state has units only",
                 layer.name, before, family.name, family.drops)


def _parsed(kind, option="--dropout"):
    """Return (kind, family class or None)."""
    name, colon, family = str(kind).partition(":")
    if name not in ("none", "conventional", "approx") or (colon and (name != "approx" or not family)):
        raise ConfigError(f"{option} {kind}: expected none, conventional, approx or approx:FAMILY (as "
                          f"approx:ROW)")
    if not colon:
        return name, None
    try:
        found = find_family(family)
    except ConfigError as error:
        raise ConfigError(f"{option} {kind}: {error}") from None
    return f"{name}:{found.name}", found


def _set_family(where, settings, family):
    """Give an ApproxDropoutParameter a family, and clear the settings that this family does not read."""
    before = settings.pattern
    settings.pattern = family.name
    if before == family.name:
        return              # its settings were written for it: one that it does not read is a mistake
    cleared = []
    for name in OWN_SETTINGS:
        if name not in family.uses and settings.HasField(name):
            value, kind = getattr(settings, name), settings.DESCRIPTOR.fields_by_name[name].enum_type
            value = value if kind is None else kind.values_by_number[value].name
            cleared.append(f"{name}: {value}")
            settings.ClearField(name)
    if family.drops != "units":
        for name in ("heads", "whole_heads", "steps_per_pattern"):
            cleared += [f"{name}: {getattr(settings, name)}"] * settings.HasField(name)
            settings.ClearField(name)
    scale = settings.Scale.Name(settings.scale)
    if scale not in family.scales:
        cleared += [f"scale: {scale}"] * settings.HasField("scale")
        settings.scale = settings.Scale.Value(family.scales[0])
    if settings.time == settings.STEP and family.drops != "units":
        cleared.append("time: STEP")
        settings.ClearField("time")
    if cleared:
        log.info("%s: pattern %s instead of %s; cleared what it does not read: %s", where, family.name,
                 before, ", ".join(cleared))


def _move_ratio(old, new):
    if old.HasField("dropout_ratio"):
        new.dropout_ratio = decimal(old.dropout_ratio)
