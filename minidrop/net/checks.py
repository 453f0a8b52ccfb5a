"""Checks of a whole graph: that arrays fit into memory, that layers which read a text have room for its
tokens, without which the first rare token would stop a run, and that names tell layers apart."""

from __future__ import annotations

import logging
import math
from operator import index
from typing import TYPE_CHECKING, Any

from minidrop.data.binaryproto import MOST_AXES
from minidrop.data.hdf5_output import place_of
from minidrop.errors import MOST_MISTAKES, ConfigError, in_short
from minidrop.layers import DataLayer
from minidrop.layers.loss_settings import LOSS_FIELDS

if TYPE_CHECKING:
    from pathlib import Path

    from minidrop.config import NetConfig
    from minidrop.net.graph import BlobRef, Graph, Node
    from minidrop.net.problems import Problems

log = logging.getLogger(__name__)

MOST_ENTRIES = 2**46        # per array: 256 TiB of float32, the reach of 48-bit addresses
JUDGES = ("SoftmaxWithLoss", "Perplexity", "Accuracy", "CRF")


def warn_of_unread_losses(graph: Graph, config: NetConfig) -> None:
    """Log each field of a loss_param that the layer does not read; as in Caffe it has no effect."""
    for node in graph.nodes:
        given, reads = node.config.loss_param, node.layer.reads_loss_param
        for field in LOSS_FIELDS:
            if field not in reads and given.HasField(field):
                log.warning("%s: layer %r: loss_param: %s has no effect: %s does not read it",
                            config.where(node.index, "loss_param", field), node.name, field, node.config.type)


def shapes_of_tops(node: Node, shapes: Any) -> dict[BlobRef, tuple[int, ...]]:
    """Return {top: shape} of what a layer's setup returned; raises ConfigError for something else."""
    try:        # NumPy's numbers and arrays are as good as tuples
        found = [tuple(map(index, shape)) for shape in shapes]
    except TypeError:
        raise ConfigError(f"setup should return a list with the shape of each top, such as [(4, 6)], got "
                          f"{in_short(shapes)}") from None
    if len(found) != len(node.tops):
        raise ConfigError(f"gives {len(found)} tops for {len(node.bottoms)} bottoms, got {len(node.tops)}; "
                          f"name as many")
    return dict(zip(node.tops, found, strict=True))


def check_sizes(node: Node, tops: dict[BlobRef, tuple[int, ...]]) -> None:
    """Raise ConfigError if a top, parameter or state of a layer that has been set up can be no array."""
    arrays = [(f"top {ref.name!r}", shape) for ref, shape in tops.items()]
    arrays += [(spec.name, spec.shape) for spec in node.layer.parameter_specs()]
    arrays += [(f"the state {name!r}", shape) for name, shape in node.layer.state_shapes().items()]
    for what, shape in arrays:
        if len(shape) > MOST_AXES:
            raise ConfigError(f"{what} would have {len(shape)} axes; at most {MOST_AXES} are possible")
        count = math.prod(length for length in shape if length)
        if count > MOST_ENTRIES:
            raise ConfigError(f"{what} of shape {tuple(shape)} would have {count:.3g} entries, which no "
                              f"memory holds; make it smaller")


def check_losses(graph: Graph, problems: Problems) -> None:
    """Add to `problems` each loss that is computed of trained parameters, but has no gradient.

    Caffe ends at it with "Not Implemented". In phase TEST it only counts in what is shown, as there.
    """
    own = {id(node) for found in graph.parameters if found.lr_mult != 0 for node, _ in found.users}
    trained: set[BlobRef] = set()
    cut: dict[BlobRef, str] = {}        # what depends on trained blobs alone through a layer of this name
    for node in (node for node in graph.nodes if node.is_sound and node.layer.training):
        wanted = node.config.propagate_down or [True] * len(node.bottoms)
        read = [ref for ref, passes in zip(node.bottoms, wanted, strict=False) if passes]
        depends = id(node) in own or any(ref in trained for ref in read)
        if depends:
            trained.update(node.tops[:node.layer.learnable_tops])
        stops = [node.name] if depends else [cut[ref] for ref in read if ref in cut]
        cut |= {ref: stops[0] for ref in node.tops if stops and ref not in trained}
        weights = node.config.loss_weight or [float(node.layer.is_loss)]
        for ref, weight in zip(node.tops, weights, strict=False):
            if weight and ref in cut:
                problems.add(node.index, f"{ref.name!r} counts in the loss, but trains nothing: layer "
                                         f"{cut[ref]!r} passes no gradient on; take it out (loss_weight: 0)",
                             "loss_weight")


def can_share(one: tuple[int, ...], other: tuple[int, ...], is_permissive: bool) -> bool:
    """Return whether layers can share an array of these shapes: PERMISSIVE asks for as many entries alone."""
    return math.prod(one) == math.prod(other) if is_permissive else tuple(one) == tuple(other)


def outputs_of(graph: Graph) -> list[tuple[Path, Node]]:
    """Return (place, node) of each layer that writes a file."""
    return [(place_of(node.layer.settings.file_name), node) for node in graph.nodes
            if node.is_sound and node.config.type == "HDF5Output"]


def check_outputs(graph: Graph, problems: Problems) -> None:
    """Add to `problems` each layer that writes the file of a layer above."""
    first: dict[Path, Node] = {}
    for place, node in outputs_of(graph):
        if first.setdefault(place, node) is not node:
            problems.add(node.index, f"layer {first[place].name!r} writes this file as well; give each a "
                                     f"file_name of its own", "hdf5_output_param", "file_name")


def check_vocabularies(graph: Graph, problems: Problems) -> None:
    """Add to `problems` each Embed with fewer rows, or loss with fewer classes, than its text's tokens.

    Metrics count as losses. Only layers that read a data layer directly are checked. Layers without shapes
    are skipped: their mistake is reported already.
    """
    place: tuple
    for node in graph.nodes:
        blobs = [*node.bottoms, *node.tops]
        if not hasattr(node, "layer") or len(blobs) < 2 or not all(ref in graph.shapes for ref in blobs):
            continue
        if node.config.type in JUDGES and len(node.bottoms) < 2:
            continue
        if node.config.type == "Embed":
            read, room = node.bottoms[0], node.config.embed_param.input_dim
            what, remedy, place = f"input_dim is {room}", "input_dim: {}", ("embed_param", "input_dim")
        elif node.config.type in JUDGES:
            scores, axis = node.bottoms[0], node.layer.axis
            read, room = node.bottoms[1], graph.shapes[scores][axis]
            what = f"{scores.name!r} has {room} class{'es' * (room != 1)} on axis {axis}"
            remedy, place = "num_output: {} in the layer that computes them", (("bottom", 0),)
        else:
            continue
        text, vocabulary = graph.writer[read], _vocabulary(graph, read)
        if vocabulary is not None and room < len(vocabulary):
            tokens = len(vocabulary)
            fewer = text.layer.settings_for_size(room)
            problems.add(node.index, f"{what}, but the vocabulary of {text.name!r} has {tokens} tokens; set "
                                     f"{remedy.format(tokens)}{f', or {fewer}' if fewer else ''}", *place)


def _vocabulary(graph, ref):
    """Return the vocabulary of a blob that a data layer writes as token indices, else None."""
    node = graph.writer[ref]
    return node.layer.vocabulary_at(node.tops.index(ref)) if isinstance(node.layer, DataLayer) else None


def check_twins(graph: Graph, problems: Problems) -> None:
    """Add to `problems` each layer with parameters that has no name of its own, as they are found by it.

    Others are called otherwise, with a warning: in Caffe layers may have one name, or none.
    """
    renamed = []
    for node, name, where in graph.twins:
        what = f"there is a layer {name!r} already, at {where}" if name else "the layer has no name"
        if node.is_sound and node.layer.parameter_specs():
            problems.add(node.index, f"{what}; give a layer with parameters a name of its own", "name")
        else:
            renamed.append((problems.config.where(node.index, "name"), what, "this one" if name else "it",
                            node.name))
    config = problems.config
    if not renamed or ("twins", *renamed[0]) in config.told:        # of another phase
        return
    config.told.add(("twins", *renamed[0]))
    for found in renamed[:MOST_MISTAKES]:
        log.warning("%s: %s; %s is called %r here", *found)
    if len(renamed) > MOST_MISTAKES:
        log.warning("... and %d more layers without a name of their own", len(renamed) - MOST_MISTAKES)


CHECKS = (check_twins, check_vocabularies, check_outputs, check_losses)     # in the order of their reports
