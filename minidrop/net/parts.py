"""Parts: what one of several ranks has of a net that all train together, each on a part of every batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from minidrop.layers import DataLayer, Layer
from minidrop.net.graph import BlobRef, Graph, Node, build_graph, loss_weights
from minidrop.patterns.part import Part

if TYPE_CHECKING:
    from minidrop.config import LayerParameter, NetConfig
    from minidrop.layers.base import Context
    from minidrop.net.problems import Problems

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """The parts of the blobs and recurrent states of a net that one rank has; what is not here it has whole.

    adds_up: the blobs that are sums over the samples of a batch, so that those of all ranks are added, where
    others are means over them.
    """

    rank: int = 0
    ranks: int = 1
    blobs: Mapping[BlobRef, Part] = field(default_factory=dict)
    states: Mapping[tuple[str, str], Part] = field(default_factory=dict)
    adds_up: frozenset[BlobRef] = frozenset()


def build_part(config: NetConfig, context: Context, problems: Problems) -> tuple[Graph, Parts]:
    """Return the graph of a net, and what its rank has of it.

    Which axis of a blob holds samples is told by comparison with the graph of the whole batch. Mistakes are
    added to `problems`. Warns of layers whose results depend on the number of ranks.
    """
    if context.ranks == 1:
        return build_graph(config, context, problems), Parts()
    whole = build_graph(config, replace(context, rank=0, ranks=1), problems)
    problems.raise_any()
    for node in whole.nodes:
        if not node.bottoms and node.config.type == "Python":
            problems.add(node.index, "a Python layer without bottoms cannot be asked for a part of a batch; "
                                     "make it a DataLayer (minidrop.register_layer)")
    graph = build_graph(config, context, problems)
    remedy = (": write -1 or 0 where a Reshape names the batch size"
              if any(node.config.type == "Reshape" for node in whole.nodes) else "")
    problems.explain(f"it fits the whole batch, but not the part that each of {context.ranks} ranks "
                     f"has{remedy}")
    for node in whole.nodes:
        node.layer.close()
    if not problems.found:
        _check_parameters(graph, whole, problems)
    if problems.found:
        return graph, Parts()
    sizes = {node.layer.part.whole for node in graph.nodes
             if isinstance(node.layer, DataLayer) and node.layer.part is not None}
    by_steps = any(isinstance(node.layer, DataLayer) and node.layer.record_axes > 1 for node in graph.nodes)
    batch = sizes.pop() if by_steps and len(sizes) == 1 else None

    def part(own, every, run=None):
        axes = [i for i, (n, all_of_it) in enumerate(zip(own, every, strict=False)) if n != all_of_it]
        if len(own) != len(every) or len(axes) != 1 or every[axes[0]] != own[axes[0]] * context.ranks:
            return None
        length = every[axes[0]]
        if run is None:
            run = batch if batch and length % batch == 0 else length
        return Part(context.rank, context.ranks, run, axes[0])

    blobs: dict[BlobRef, Part] = {}
    for node in graph.nodes:
        for ref in node.tops:
            found = part(graph.shapes[ref], whole.shapes[ref])
            if found is not None:
                run = _run(node, found, whole.shapes[ref], whole.shapes, blobs)
                blobs[ref] = found if run is None else replace(found, whole=run)
    for node in graph.nodes:
        if node.config.type == "Fill" and node.layer.settings.HasField("first") and (
                node.tops[0] in blobs and blobs[node.tops[0]].axis == 0):
            problems.add(node.index, "first is one place of a whole batch, of which each rank has a part; "
                                     "let axis 0 hold steps")
    states = {(node.name, name): found for node, other in zip(graph.nodes, whole.nodes, strict=True)
              for name, own in node.layer.state_shapes().items()
              if (found := part(own, other.layer.state_shapes()[name])) is not None}
    adds_up: set[BlobRef] = set()
    for node in graph.nodes:
        adds_up.update(ref for ref in node.tops if ref in blobs or _adds_up(node, blobs, adds_up))
    _warn(graph, whole, blobs, adds_up)
    _warn_of_numbers(graph, blobs, adds_up)
    return graph, Parts(context.rank, context.ranks, blobs, states, frozenset(adds_up))


def _run(node: Node, part: Part, shape: tuple[int, ...], shapes: Mapping[BlobRef, tuple[int, ...]],
         blobs: Mapping[BlobRef, Part]) -> int | None:
    """Return how many neighbouring entries of a top's axis are one batch, as its first bottom says; or None.

    Samples behind steps, (T, N, C), are T batches one after the other where a Reshape makes them (T N, C).
    """
    below = next((ref for ref in node.bottoms if ref in blobs), None)
    if below is None:
        return None
    before, bottom = blobs[below], shapes[below]
    if node.config.type not in ("Reshape", "Flatten"):
        return before.whole if bottom[before.axis] == shape[part.axis] else None
    entries, inner = before.whole * math.prod(bottom[before.axis + 1:]), math.prod(shape[part.axis + 1:])
    run = entries // inner if inner else 0
    fits = run and entries % inner == 0 and shape[part.axis] % run == 0 and run % part.ranks == 0
    return run if fits else None


def _adds_up(node: Node, blobs: Mapping[BlobRef, Part], sums: set[BlobRef]) -> bool:
    """Whether the sum of the entries of tops without samples grows with the number of samples: what sums
    samples up, and what is linear in such `sums` alone."""
    config, samples = node.config, any(ref in blobs for ref in node.bottoms)
    if "normalization" in node.layer.reads_loss_param and config.loss_param.HasField("normalization"):
        return samples and config.loss_param.normalization == config.loss_param.NONE
    if not node.bottoms or not sums.issuperset(node.bottoms):
        return False
    settings = config.reduction_param
    if config.type == "Reduction":
        return settings.operation == settings.SUM or samples and settings.operation != settings.MEAN
    return not samples and _is_affine(config) and not config.power_param.shift


def _is_affine(config: LayerParameter) -> bool:
    """Whether the top of a layer is a weighted sum of its bottoms, plus a number."""
    power, eltwise, reduction = config.power_param, config.eltwise_param, config.reduction_param
    return (config.type in ("Split", "Reshape", "Flatten")
            or config.type == "Power" and power.power == 1
            or config.type == "Eltwise" and eltwise.operation == eltwise.SUM
            or config.type == "Reduction" and reduction.operation in (reduction.SUM, reduction.MEAN))


def _warn_of_numbers(graph, blobs, sums):
    """Log the layers whose number for the whole batch is neither the sum nor the mean of those of ranks."""
    numbers: set[BlobRef] = set()       # of samples, of which each rank has a part
    for node in graph.nodes:
        if node.config.type in ("Fill", "Silence"):
            continue
        if not (numbers | blobs.keys()).isdisjoint(node.bottoms):
            numbers.update(ref for ref in node.tops if ref not in blobs and math.prod(graph.shapes[ref]) == 1)
            read = [ref for ref in node.bottoms if ref in numbers]
            if read and not (_is_affine(node.config) and (
                    sums.issuperset(node.tops) or sums.isdisjoint(node.bottoms))):
                log.warning("layer %r (%s): computes of %r, a number for the samples of a rank, what is "
                            "neither a sum nor a mean over ranks: results depend on the number of ranks",
                            node.name, node.config.type, read[0].name)


def _check_parameters(graph, whole, problems):
    """Add the layers whose parameters have an entry for each sample of a batch to `problems`."""
    for node, other in zip(graph.nodes, whole.nodes, strict=True):
        for own, every in zip(node.layer.parameter_specs(), other.layer.parameter_specs(), strict=True):
            if own.shape != every.shape:
                problems.add(node.index, f"{own.name!r} has shape {every.shape} for the whole batch and "
                                         f"{own.shape} for the part of a rank; let it cover no samples")


def _warn(graph, whole, blobs, sums):
    """Log the layers that do not compute what they would of the whole batch."""
    filtered: set[BlobRef] = set()      # blobs without some of the records, and how many other ranks have
    for node in graph.nodes:
        is_behind = not filtered.isdisjoint(node.bottoms)
        if node.drops and is_behind:
            log.warning("layer %r (%s): drops behind a Filter, where a rank does not know the places of its "
                        "records in the whole batch: results depend on the number of ranks", node.name,
                        node.config.type)
        losses = {ref for ref, _ in loss_weights(node)}
        if is_behind and losses - sums and _weighs_by_records(node.layer):
            log.warning("layer %r (%s): is a mean over what passes a Filter, and that of each rank has the "
                        "same weight, however many records pass there: results depend on the number of "
                        "ranks; a SoftmaxWithLoss counts them", node.name, node.config.type)
        if is_behind or node.config.type == "Filter":
            filtered.update(node.tops)
        if any(fact.mixes_samples for fact in node.passes):
            log.warning("layer %r (%s): takes its statistics of the samples of each rank, not of the whole "
                        "batch: results depend on the number of ranks", node.name, node.config.type)
        if node.bottoms and node.bottoms[0] in blobs and node.layer.along == blobs[node.bottoms[0]].axis:
            log.warning("layer %r (%s): works along axis %d, that of the samples, of which each rank has a "
                        "part: results depend on the number of ranks", node.name, node.config.type,
                        node.layer.along)
        if node.layer.stream is not None and not node.layer.draws_by_place:
            log.warning("layer %r (%s): draws other random numbers on each rank: results depend on the "
                        "number of ranks", node.name, node.config.type)
        for ref in node.tops:
            own, every = graph.shapes[ref], whole.shapes[ref]
            if len(own) != len(every) or sum(n != m for n, m in zip(own, every, strict=False)) > 1:
                log.warning("layer %r (%s): top %r is %s for a rank and %s for the whole batch; what it "
                            "computes between samples of different ranks is left out", node.name,
                            node.config.type, ref.name, own, every)


def _weighs_by_records(layer):
    """Whether the batch of a loss weighs as much as its records, and not what the loss says."""
    own = type(layer)
    return own.batch_weight is Layer.batch_weight and own.weight_of is Layer.weight_of
