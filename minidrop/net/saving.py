"""Saves a net in Caffe's formats."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from minidrop.config import NetParameter
from minidrop.errors import SnapshotError
from minidrop.net.conversion import convert_dropout
from minidrop.snapshot.caffe_writer import write_binary_weights, write_hdf5_weights

if TYPE_CHECKING:
    from minidrop.net.net import Net


FORMATS = (".caffemodel", ".h5")


def save(net: Net, path: str | os.PathLike, diffs: bool = False, format: str | None = None) -> None:
    """Write the weights of a net to a .caffemodel or an .h5 file; see `Net.save`."""
    text = os.fspath(path)
    if format not in (None, *FORMATS):
        raise SnapshotError(f"format: expected {' or '.join(FORMATS)}, got {format!r}")
    chosen = format or next((one for one in FORMATS if text.endswith(one)), None)
    arrays = {layer: [(p.data, p.dense_grad() if diffs else None) for p in own.values()]
              for layer, own in net.params.items()}
    to_host = net.backend.to_host
    if chosen == ".caffemodel":
        write_binary_weights(path, as_caffe(net.config.message), arrays, to_host)
    elif chosen == ".h5":
        first = {names[0] for names in net.owners().values()}
        owned = {layer: [f"{layer}/{name}" in first for name in own] for layer, own in net.params.items()}
        write_hdf5_weights(path, list(net.layers), arrays, lambda layer, number: owned[layer][number],
                           to_host)
    else:
        raise SnapshotError(f"{text}: expected a name that ends in .caffemodel or .caffemodel.h5, which "
                            f"chooses the format, or a format")


def as_caffe(message: NetParameter) -> NetParameter:
    """Return the name and the layers of a net, without values, its drops in types that Caffe knows."""
    net = NetParameter(name=message.name, layer=message.layer)
    convert_dropout(net, "conventional")
    for layer in net.layer:
        layer.ClearField("blobs")
        if layer.type == "GaussianDropout":
            layer.type = "Dropout"
        elif layer.type == "DropConnect":
            layer.type = "InnerProduct"
            layer.ClearField("dropout_param")
    return net
