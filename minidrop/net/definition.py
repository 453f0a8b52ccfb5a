"""The definition of a net that its file of weights carries: how it is written, and what is refused in one."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidrop.config import LayerParameter, NetConfig, NetParameter, parse_net
from minidrop.config.load import MAX_BYTES
from minidrop.data.mean_file import mean_of_settings, packed
from minidrop.errors import ConfigError, DataError, SnapshotError
from minidrop.layers import DataLayer
from minidrop.layers.lambda_function import Judging, Lambda
from minidrop.net.deploy import class_of, described, input_layer
from minidrop.snapshot import read_header
from minidrop.snapshot.caffe_file import file_kind, read_binary_weights
from minidrop.snapshot.caffe_hdf5 import read_hdf5_texts
from minidrop.snapshot.safetensors_file import read_safetensors_attributes

if TYPE_CHECKING:
    from minidrop.net.net import Net

log = logging.getLogger(__name__)

DEPLOY, DTYPE = "deploy", "dtype"       # what the attributes are called in each kind of file
_LEAST = 2                              # bytes that a number takes in a file: float16
_NAMES_FILES = ("source", "mean_file", "file_name", "root_folder", "vocabulary")


def definition_of(net: Net) -> dict[str, str]:
    """Return the attributes with which a file of weights describes its net: {"deploy": text, "dtype": name}.

    The text is a network file of the net as it is, without rules. In place of each data layer it has an Input
    layer of the same name, tops and shapes, with its transform_param, so that it names no data; a mean_file
    becomes the mean itself. A loss or metric that is a Python function, which no file can hold, is left out,
    with the targets it alone reads.
    """
    judges = [node for node in net.graph.nodes if _judges(node)]
    kept = [node for node in net.graph.nodes if not _judges(node)]
    alone = {ref for node in judges for ref in node.bottoms} - {ref for node in kept for ref in node.bottoms}
    layers = []
    means: dict[str, np.ndarray] = {}       # that layers take off, by their name
    for node in kept:
        layer = node.config
        if isinstance(node.layer, DataLayer):
            tops = [ref for ref in node.tops if ref not in alone]
            layer = input_layer(node.name, [ref.name for ref in tops], ())
            del layer.input_param.shape[:]
            for ref in tops:
                layer.input_param.shape.add(dim=net.graph.shapes[ref])
            transforms = node.layer.transforms and tops[:1] == node.tops[:1]        # the first top alone
            if transforms and node.config.HasField("transform_param"):
                layer.transform_param.CopyFrom(node.config.transform_param)
            if layer.transform_param.mean_file and node.layer.mean is not None:
                means[node.name] = node.layer.mean
        layers.append((layer, net.config.origins[node.index]))
    return {DEPLOY: str(_with_means(described(net.config, layers), means)), DTYPE: net.dtype}


def _with_means(config, means):
    """Return a description with its means in place of the files that hold them, so that it names none.

    Where that cannot be, which is logged, it names the files, and `read_definition` refuses it.
    """
    message = NetParameter()
    message.CopyFrom(config.message)
    try:
        for layer in message.layer:
            settings = layer.transform_param
            if settings.mean_file:
                mean = means.get(layer.name)
                if mean is None:            # of an Input layer, which reads it for Net.predict alone
                    mean, _ = mean_of_settings(settings, config.path)
                settings.mean_data = packed(mean)
                settings.ClearField("mean_file")
                if message.ByteSize() > MAX_BYTES // 2:         # of numbers as text, twice as many
                    raise DataError("the mean is too large")
    except (ConfigError, DataError) as error:
        log.warning("what is saved cannot be loaded by itself (md.load), as it names a mean_file: %s", error)
        return config.message
    return message


def _judges(node):
    return isinstance(node.layer, Lambda) and isinstance(node.layer.function, Judging)


def read_definition(path: str | os.PathLike) -> tuple[NetConfig, str]:
    """Return (NetConfig, dtype) of a file of weights, which may be anybody's.

    Raises SnapshotError for a file without a definition, and for one that would open other files or run code
    that it names; ConfigError for mistakes in the text.
    """
    kind = file_kind(path)
    if kind == "snapshot":
        attrs = {name: str(value) for name, value in read_header(path).items()}
    elif kind == "hdf5":
        attrs = read_hdf5_texts(path, (DEPLOY, DTYPE), MAX_BYTES)
    elif kind == "safetensors":
        attrs = read_safetensors_attributes(path)
    else:
        read_binary_weights(path)       # a .caffemodel, or an error that says what the file is
        attrs = {}
    text = attrs.get(DEPLOY, "")
    if not text:
        raise SnapshotError(f"{path}: holds weights, but not the definition of their net, which snapshots "
                            f"and the .h5 and .safetensors files of Net.save have; {_remedy(path)}")
    if len(text) > MAX_BYTES:
        raise SnapshotError(f"{path}: its definition is larger than {MAX_BYTES >> 20} MiB; {_remedy(path)}")
    config = parse_net(text, f"{path}: {DEPLOY}")
    for i, layer in enumerate(config.message.layer):
        if reason := _refusal(layer):
            raise SnapshotError(f"{config.where(i)}: layer {layer.name!r} ({layer.type}) {reason}, which the "
                                f"definition in a file of weights must not; {_remedy(path)}")
        try:
            _check_mean(layer)
        except (ConfigError, DataError) as error:
            raise SnapshotError(f"{config.where(i)}: layer {layer.name!r}: {error}") from None
    return config, attrs.get(DTYPE, "float32")


def _check_mean(layer: LayerParameter) -> None:
    """Raise ConfigError or DataError for a mean_data that cannot be that of an Input layer's records."""
    found = mean_of_settings(layer.transform_param, None)
    if found is None:
        return
    shape = found[0].shape
    wanted = tuple(layer.input_param.shape[0].dim[1:]) if layer.input_param.shape else ()
    if len(shape) != len(wanted) or shape[:1] != wanted[:1] or any(
            a < b for a, b in zip(shape, wanted, strict=True)):
        raise ConfigError(f"transform_param: mean_data: expected the mean of records that become {wanted}, "
                          f"got one of shape {shape}")


def check_size(path: str | os.PathLike, net: Net) -> None:
    """Raise SnapshotError where a net, be it without memory, has more numbers than its file can hold."""
    count, most = sum(math.prod(one.shape) for one in net.parameters().values()), os.stat(path).st_size
    if count * _LEAST > most:
        raise SnapshotError(f"{path}: its definition has {count:,} weights, more than the {most:,} bytes of "
                            f"the file can be; get it again, or {_remedy(path)}")


def _remedy(path):
    return f"build the net from its network file: md.Net(\"net.prototxt\").load_weights({os.fspath(path)!r})"


def _refusal(layer: LayerParameter) -> str:
    """Return what a layer does that no definition may let it do, "" if nothing."""
    kind = class_of(layer)
    if layer.type == "Python":
        return "imports the module that it names"
    if kind is not None and issubclass(kind, DataLayer):
        return "reads data"
    return next((f"names a file ({name}: {value[:80]!r})" for name, value in _texts(layer)
                 if name in _NAMES_FILES), "")


def _texts(message: Any) -> Iterator[tuple[str, str]]:
    """Yield (field, text) of the texts in a message and in those within it."""
    for field, value in message.ListFields():
        parts = value if hasattr(value, "__iter__") and not isinstance(value, str | bytes) else [value]
        for part in parts:
            if hasattr(part, "ListFields"):
                yield from _texts(part)
            elif isinstance(part, str):
                yield field.name, part
