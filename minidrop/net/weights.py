"""Weights: the parameters of a net, by name, read from files and written to them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from minidrop.autograd import whole_of
from minidrop.errors import ConfigError, ShapeError
from minidrop.net.loading import Loading, Paths
from minidrop.net.saving import save

if TYPE_CHECKING:
    from minidrop.autograd.tensor import Parameter
    from minidrop.net.load_report import LoadReport
    from minidrop.net.net import Net


class Weights:
    """The part of Net that concerns its parameters as a whole."""

    params: Mapping[str, Mapping[str, Parameter]]

    def parameters(self) -> dict[str, Parameter]:
        """Return {"layer/name": Parameter}, each parameter once, under its first owner."""
        return {names[0]: parameter for parameter, names in self._owned()}

    def owners(self) -> dict[str, list[str]]:
        """Return {"layer/name": its Parameter's names, this one first}, in the order of `parameters`."""
        return {names[0]: names for _, names in self._owned()}

    def _owned(self) -> Iterable[tuple[Parameter, list[str]]]:
        found: dict[int, tuple[Parameter, list[str]]] = {}
        for layer, own in self.params.items():
            for name, parameter in own.items():
                whole = whole_of(parameter)
                found.setdefault(id(whole), (whole, []))[1].append(f"{layer}/{name}")
        return found.values()

    def statistics(self: Any) -> list[Parameter]:
        """Return what layers keep up to date themselves in forward passes, such as BatchNorm's means."""
        return [self.params[node.name][name] for found in self.graph.parameters if not found.spec.trained
                for node, name in found.users[:1]]

    def clear_grads(self) -> None:
        """Clear all gradients."""
        for own in self.params.values():
            for parameter in own.values():
                parameter.clear_grad()

    def load_weights(self: Any, paths: Paths, skip_mismatched: bool = False,
                     vocabularies: Mapping[str, str] | None = None, ema: bool = False) -> LoadReport:
        """Copy weights of files to the layers of the same name; returns a LoadReport, a table as text.

        paths: snapshots, .safetensors, .caffemodel or .caffemodel.h5 files, also of old forms of Caffe: one,
        several in one text with commas between, or a list; what a file is, its content decides, or the ending
        .safetensors. A later file counts more. As in Caffe, layers that the net lacks are left out, the
        others must have arrays of the same number and shapes: with skip_mismatched those that do not fit stay
        as they are. What is not copied is logged. vocabularies: {layer: fingerprint}, instead of those of the
        net's own texts. ema: take the averages of weights that a solver with ema_decay keeps in its
        snapshots. Raises SnapshotError, and then nothing is changed, if anything does not fit, a weight is no
        finite number of the net's dtype, or a file holds nothing for this net.
        """
        return Loading(self, paths, skip_mismatched, vocabularies, ema).apply()

    def share_weights(self: Any, other: Net) -> None:
        """Hold the very weights of the layers that `other` has under the same names; gradients stay apart.

        Raises ShapeError, and then nothing is changed, where their number or shapes differ; ConfigError for a
        net of another device or dtype.
        """
        mine, theirs = ((net.backend.name, net.dtype) for net in (self, other))
        if mine != theirs:
            raise ConfigError(f"nets that share weights are on one device and of one dtype, got {mine} and "
                              f"{theirs}")
        for layer in self.params.keys() & other.params.keys():
            own, given = ({key: p.shape for key, p in net.params[layer].items()} for net in (self, other))
            if own != given:
                raise ShapeError(f"layer {layer!r}: expected weights {own} to share, got {given}")
        for layer in self.params.keys() & other.params.keys():
            for name, parameter in self.params[layer].items():
                parameter.share_data(other.params[layer][name])

    def save(self: Any, path: str | os.PathLike, diffs: bool = False, format: str | None = None) -> None:
        """Write the weights: a .caffemodel or .caffemodel.h5, as Caffe does, or a .safetensors.

        format: ".caffemodel", ".h5" or ".safetensors"; None: what the name ends with. A .safetensors file
        has keys such as ip1.weight, a shared array once; it takes the package safetensors. An .h5 and a
        .safetensors file also hold the definition of the net, of which `minidrop.load` makes it again; other
        readers pass over it.

        A .caffemodel also holds the layers, as the net was built. An ApproxDropout or GaussianDropout in it
        is a Dropout, which does the same where nothing is dropped, and a DropConnect an InnerProduct: Caffe
        and OpenCV know them. Other types and settings that are minidrop's own stay: the readers skip unknown
        fields, and find weights by the names of layers alone. float64 is stored as such, which Caffe reads
        and OpenCV does not. diffs: with the gradients. The file is replaced as a whole or not at all; raises
        SnapshotError.
        """
        save(self, path, diffs, format)
