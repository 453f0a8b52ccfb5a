"""Turns V0 layers, the form of Caffe's first year, into V1 layers.

A V0 layer stands inside its connections: `layers { layer { name: "c" type: "conv" } bottom: "x" top: "y" }`.
Source of the rules: UpgradeV0Net in util/upgrade_proto.cpp of BVLC/caffe.
"""

from __future__ import annotations

from collections.abc import Sequence

from minidrop.config.check import is_repeated
from minidrop.config.minidrop_pb2 import V1LayerParameter
from minidrop.errors import nearest

TYPES_OF_V0 = {
    "accuracy": "ACCURACY", "bnll": "BNLL", "concat": "CONCAT", "conv": "CONVOLUTION", "data": "DATA",
    "dropout": "DROPOUT", "euclidean_loss": "EUCLIDEAN_LOSS", "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA", "hdf5_output": "HDF5_OUTPUT", "im2col": "IM2COL", "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS", "innerproduct": "INNER_PRODUCT", "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING", "relu": "RELU", "sigmoid": "SIGMOID", "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS", "split": "SPLIT", "tanh": "TANH", "window_data": "WINDOW_DATA",
}
"""The V1 name of each type of a V0 layer; "padding" has none, it is folded into the layer behind it."""

_PARAM = {"accuracy": "accuracy_param", "concat": "concat_param", "conv": "convolution_param",
          "data": "data_param", "dropout": "dropout_param", "hdf5_data": "hdf5_data_param",
          "images": "image_data_param", "infogain_loss": "infogain_loss_param",
          "innerproduct": "inner_product_param", "lrn": "lrn_param", "pool": "pooling_param",
          "window_data": "window_data_param"}
_WEIGHTS, _WINDOWS = ("conv", "innerproduct"), ("conv", "pool")
_SOURCES = ("data", "images", "window_data")
# {old field: (new field, the types that read it)}; a new field of "transform_param." lies in that.
_FIELDS = {
    "num_output": ("num_output", _WEIGHTS), "biasterm": ("bias_term", _WEIGHTS),
    "weight_filler": ("weight_filler", _WEIGHTS), "bias_filler": ("bias_filler", _WEIGHTS),
    "pad": ("pad", _WINDOWS), "kernelsize": ("kernel_size", _WINDOWS), "stride": ("stride", _WINDOWS),
    "group": ("group", ("conv",)), "pool": ("pool", ("pool",)),
    "dropout_ratio": ("dropout_ratio", ("dropout",)),
    "local_size": ("local_size", ("lrn",)), "alpha": ("alpha", ("lrn",)), "beta": ("beta", ("lrn",)),
    "k": ("k", ("lrn",)),
    "source": ("source", (*_SOURCES, "hdf5_data", "infogain_loss")),
    "batchsize": ("batch_size", (*_SOURCES, "hdf5_data")),
    "rand_skip": ("rand_skip", ("data", "images")),
    "shuffle_images": ("shuffle", ("images",)), "new_height": ("new_height", ("images",)),
    "new_width": ("new_width", ("images",)), "concat_dim": ("concat_dim", ("concat",)),
    "scale": ("transform_param.scale", _SOURCES), "meanfile": ("transform_param.mean_file", _SOURCES),
    "cropsize": ("transform_param.crop_size", _SOURCES), "mirror": ("transform_param.mirror", _SOURCES),
    **{f"det_{name}": (name, ("window_data",))
       for name in ("fg_threshold", "bg_threshold", "fg_fraction", "context_pad", "crop_mode")},
}


def as_v1(layers: Sequence[V1LayerParameter], where: Sequence[str],
          mistakes: list[str]) -> list[tuple[int, V1LayerParameter]]:
    """Return (index in `layers`, V1 layer) of each layer but those that only pad, whose `pad` goes on.

    `where[i]` begins a message about layer i; what has no meaning in V1 is added to `mistakes`.
    """
    pads: dict[str, tuple[str, int]] = {}       # {top of a padding layer: (its bottom, its pad)}
    result = []
    for i, layer in enumerate(layers):
        old = layer.layer
        if not layer.HasField("layer"):
            result.append((i, layer))
            continue
        place = f"{where[i]}: layer {old.name!r}"
        if old.type == "padding":
            if len(layer.bottom) != 1 or len(layer.top) != 1:
                mistakes.append(f"{place}: expected one bottom and one top of a padding layer, got "
                                f"{len(layer.bottom)} and {len(layer.top)}")
            else:
                pads[layer.top[0]] = layer.bottom[0], old.pad
            continue
        new = _as_v1(layer, place, mistakes)
        for j, bottom in enumerate(layer.bottom):
            if bottom not in pads:
                continue
            if old.type not in _WINDOWS:
                mistakes.append(f"{place}: expected a conv or pool layer behind a padding layer, got "
                                f"{old.type!r}")
                continue
            new.bottom[j], pad = pads[bottom]
            param = getattr(new, _PARAM[old.type])
            param.ClearField("pad")
            _set(param, "pad", pad)
        for top in layer.top:
            pads.pop(top, None)
        result.append((i, new))
    return result


def _as_v1(layer, place, mistakes):
    old, new = layer.layer, V1LayerParameter(bottom=layer.bottom, top=layer.top)
    if old.HasField("name"):
        new.name = old.name
    if old.type in TYPES_OF_V0:
        new.type = new.LayerType.Value(TYPES_OF_V0[old.type])
    else:
        mistakes.append(f"{place}: {old.type!r} is no type of a layer of Caffe's oldest form"
                        f"{nearest(old.type, TYPES_OF_V0)}")
        return new
    for field, value in old.ListFields():
        name = field.name
        if name in ("name", "type"):
            continue
        if name in ("blobs", "blobs_lr", "weight_decay"):
            getattr(new, name).extend(value)
        elif name == "hdf5_output_param" and old.type == "hdf5_output":
            new.hdf5_output_param.CopyFrom(value)
        elif name in _FIELDS and old.type in _FIELDS[name][1]:
            target = _FIELDS[name][0]
            message = getattr(new, "transform_param" if "." in target else _PARAM[old.type])
            if name == "pool":
                value = message.PoolMethod.Value(old.PoolMethod.Name(value))
            _set(message, target.rpartition(".")[2], value)
        else:
            mistakes.append(f"{place}: a layer of type {old.type!r} has no setting {name!r}")
    return new


def _set(message, name, value):
    """Set a field, of which a repeated one gets one entry."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if is_repeated(field):
        getattr(message, name).append(value)
    elif field.message_type is not None:
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)
