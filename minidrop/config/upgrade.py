"""Turns what Caffe wrote in earlier years into today's form: V0 and V1 layers, old inputs, old solver types.

Source of the rules: util/upgrade_proto.cpp in BVLC/caffe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from minidrop.config.check import is_repeated
from minidrop.config.fields import TYPES_OF_V1
from minidrop.config.minidrop_pb2 import LayerParameter, NetStateRule, Phase, V1LayerParameter
from minidrop.config.upgrade_v0 import as_v1
from minidrop.errors import MOST_MISTAKES, ConfigError

if TYPE_CHECKING:
    from minidrop.config.load import NetConfig, SolverConfig

_PHASE = NetStateRule.DESCRIPTOR.fields_by_name["phase"]
_SOLVERS = {"SGD": "SGD", "NESTEROV": "Nesterov", "ADAGRAD": "AdaGrad", "RMSPROP": "RMSProp",
            "ADADELTA": "AdaDelta", "ADAM": "Adam"}
# Fields of a data layer that moved into transform_param.
_MOVED = ("scale", "mean_file", "crop_size", "mirror")
_DATA = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}


def upgrade_net(config: NetConfig) -> None:
    """Bring a NetConfig to today's form, in place; its positions stay those of the file.

    Raises one ConfigError with every place that has no meaning in that form.
    """
    mistakes: list[str] = []
    try:
        _upgrade_layers(config, mistakes)
        _upgrade_inputs(config)
        for i, layer in enumerate(config.message.layer):
            _move_transform(config, i, layer, mistakes)
            _upgrade_batch_norm(layer)
        _name_losses(config.message)
    except ConfigError as error:
        mistakes += error.lines
    if mistakes:
        raise ConfigError.of(mistakes[:MOST_MISTAKES], max(0, len(mistakes) - MOST_MISTAKES))


def upgrade_solver(config: SolverConfig) -> None:
    """Replace solver_type by type, in place; raises ConfigError if both are given."""
    solver = config.message
    if not solver.HasField("solver_type"):
        return
    if solver.HasField("type"):
        raise ConfigError(f"{config.where('solver_type')}: type and solver_type are both given; keep type")
    solver.type = _SOLVERS[solver.SolverType.Name(solver.solver_type)]
    solver.ClearField("solver_type")


# -- layers --------------------------------------------------------------------------------------------------
def _upgrade_layers(config, mistakes):
    """Replace V0 and V1 layers by layers of today."""
    net, source = config.message, config.source
    if not net.layers:
        return
    if net.layer:
        raise ConfigError(f"{source.where('layers')}: 'layers' is Caffe's old (V1) form of 'layer', and both "
                          f"are given; write `layer {{ type: \"InnerProduct\" ... }}` for `layers {{ type: "
                          f"INNER_PRODUCT ... }}`")
    old = list(enumerate(net.layers))
    if any(layer.HasField("layer") for layer in net.layers):
        where = [source.where(("layers", i)) for i in range(len(net.layers))]
        old = as_v1(net.layers, where, mistakes)
    config.origins[:] = [(("layers", i),) for i, _ in old]
    net.layer.extend(_as_layer(layer) for _, layer in old)
    net.ClearField("layers")


def _as_layer(old: V1LayerParameter) -> LayerParameter:
    """Return the layer that a V1 layer means."""
    new = LayerParameter()
    if old.HasField("type"):
        new.type = TYPES_OF_V1[old.LayerType.Name(old.type)]
    for field, value in old.ListFields():
        name = field.name
        if name in ("type", "param", "blob_share_mode", "blobs_lr", "weight_decay"):
            continue
        if is_repeated(field):
            getattr(new, name).extend(value)
        elif field.message_type is not None:
            getattr(new, name).CopyFrom(value)
        else:
            setattr(new, name, value)
    for of, values in (("name", old.param), ("share_mode", old.blob_share_mode), ("lr_mult", old.blobs_lr),
                       ("decay_mult", old.weight_decay)):
        for i, value in enumerate(values):
            while len(new.param) <= i:
                new.param.add()
            setattr(new.param[i], of, value)
    return new


def _move_transform(config, i, layer, mistakes):
    """Move scale, mean_file, crop_size and mirror of a data layer into its transform_param."""
    name = _DATA.get(layer.type)
    if name is None or not layer.HasField(name):
        return
    old = getattr(layer, name)
    for moved in _MOVED:
        if not old.HasField(moved):
            continue
        if layer.transform_param.HasField(moved):
            mistakes.append(f"{config.where(i, name, moved)}: layer {layer.name!r}: {moved} is given in "
                            f"{name} and in transform_param; keep that in transform_param")
        setattr(layer.transform_param, moved, getattr(old, moved))
        old.ClearField(moved)


def _upgrade_batch_norm(layer):
    """Take the multipliers off the three statistics of a BatchNorm: they are not trained."""
    if layer.type == "BatchNorm" and len(layer.param) == 3:
        for param in layer.param:
            param.ClearField("lr_mult")
            param.ClearField("decay_mult")
        if not any(param.ListFields() for param in layer.param):
            layer.ClearField("param")


def _name_losses(net):
    """Give each loss without a top one of the layer's name, where Caffe gives it a top of no name.

    That of a layer without a name has the name of its type, as the layer will have. A second one of that name
    gets NAME_2, unless the two are never in one net: there each has its plain name.
    """
    losses = [layer for layer in net.layer if layer.type.endswith("Loss") and not layer.top]
    blobs = {blob for layer in net.layer for blob in (*layer.bottom, *layer.top)} if losses else set()
    given: set[tuple[str, int]] = set()         # a top and a phase that it is in
    numbers: dict[str, int] = {}
    for layer in losses:
        name = layer.name or layer.type
        top = plain = name if name not in blobs else f"{name}_top"
        phases = _phases(layer)
        while top in blobs or any((top, phase) in given for phase in phases):
            numbers[plain] = numbers.get(plain, 1) + 1
            top = f"{plain}_{numbers[plain]}"
        given.update((top, phase) for phase in phases)
        layer.top.append(top)


def _phases(layer):
    """Return the phases in which the rules of a layer can have it."""
    if layer.include:
        return [phase for phase in Phase.values()
                if any(not rule.HasField("phase") or rule.phase == phase for rule in layer.include)]
    return [phase for phase in Phase.values()
            if not any(rule.ListFields() == [(_PHASE, phase)] for rule in layer.exclude)]


# -- inputs --------------------------------------------------------------------------------------------------
def _upgrade_inputs(config):
    """Replace input, input_shape and input_dim by one Input layer before all others."""
    net, source = config.message, config.source
    inputs, shapes, dims = len(net.input), len(net.input_shape), len(net.input_dim)
    if not (inputs or shapes or dims):
        return
    if shapes and dims:
        raise ConfigError(f"{source.where('input_dim')}: input_shape and input_dim are both given; "
                          "keep input_shape")
    if not shapes and not dims:
        raise ConfigError(f"{source.where('input')}: input '{net.input[0]}' has no shape; "
                          "add `input_shape { dim: ... }`")
    if dims and dims != 4 * inputs:
        raise ConfigError(f"{source.where('input_dim')}: expected 4 input_dim for each input, "
                          f"{4 * inputs} in all, got {dims}")
    if shapes and shapes != inputs:
        raise ConfigError(f"{source.where('input_shape')}: expected one input_shape for each input, "
                          f"{inputs} in all, got {shapes}")
    names = {layer.name for layer in net.layer}
    name = next(n for n in ("input", *(f"input_{i}" for i in range(len(names)))) if n not in names)
    layer = LayerParameter(name=name, type="Input", top=net.input)
    for i in range(inputs):
        dim = net.input_shape[i].dim if shapes else net.input_dim[4 * i:4 * i + 4]
        layer.input_param.shape.add(dim=dim)
    others = list(net.layer)
    for old in ("input", "input_shape", "input_dim", "layer"):
        net.ClearField(old)
    net.layer.append(layer)
    net.layer.extend(others)
    config.origins.insert(0, (("input", 0),))
