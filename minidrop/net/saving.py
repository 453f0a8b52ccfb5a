"""Saves the weights of a net: in Caffe's formats, and in that of safetensors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from minidrop.config import NetParameter
from minidrop.config.numbers import truth
from minidrop.errors import SnapshotError
from minidrop.net.conversion import convert_dropout
from minidrop.net.definition import definition_of
from minidrop.snapshot.caffe_file import SAFETENSORS
from minidrop.snapshot.caffe_writer import write_binary_weights, write_hdf5_weights
from minidrop.snapshot.safetensors_file import write_safetensors

if TYPE_CHECKING:
    from minidrop.net.net import Net


FORMATS = (".caffemodel", ".h5", SAFETENSORS)


def save(net: Net, path: str | os.PathLike, diffs: bool = False, format: str | None = None) -> None:
    """Write the weights of a net to a .caffemodel, an .h5 or a .safetensors file; see `Net.save`."""
    text = os.fspath(path)
    if format not in (None, *FORMATS):
        raise SnapshotError(f"format: expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, got {format!r}")
    diffs = truth("diffs", diffs)
    chosen = format or next((one for one in FORMATS if text.endswith(one)), None)
    to_host = net.backend.to_host
    if chosen == SAFETENSORS:
        if diffs:
            raise SnapshotError(f"{text}: a .safetensors file has weights alone; write gradients to a "
                                f".caffemodel")
        write_safetensors(path, {name: parameter.data for name, parameter in net.parameters().items()},
                          [names for names in net.owners().values() if len(names) > 1], to_host,
                          definition_of(net))
        return
    arrays = {layer: [(p.data, p.dense_grad() if diffs else None) for p in own.values()]
              for layer, own in net.params.items()}
    if chosen == ".caffemodel":
        write_binary_weights(path, as_caffe(net), arrays, to_host)
    elif chosen == ".h5":
        first = {names[0] for names in net.owners().values()}
        owned = {layer: [f"{layer}/{name}" in first for name in own] for layer, own in net.params.items()}
        write_hdf5_weights(path, list(net.layers), arrays, lambda layer, number: owned[layer][number],
                           to_host, definition_of(net))
    else:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise SnapshotError(f"{text}: expected a name that ends in {known}, which chooses the format, or one "
                            f"of these as format=")


def as_caffe(net: Net) -> NetParameter:
    """Return the name and the layers of a net, without values, its drops in types that Caffe knows."""
    message = NetParameter(name=net.config.message.name, layer=net.config.message.layer)
    nodes, shapes = net.graph.nodes, net.graph.shapes
    convert_dropout(message, "conventional", lambda number: [shapes[ref] for ref in nodes[number].tops])
    for layer in message.layer:
        layer.ClearField("blobs")
        if layer.type == "GaussianDropout":
            layer.type = "Dropout"
        elif layer.type == "DropConnect":
            layer.type = "InnerProduct"
            layer.ClearField("dropout_param")
    return message
