"""find_reshuffles: which arrays to permute together with the units of a hidden layer.

A regular pattern couples units by their distance: some pairs are kept or dropped together far more often than
by chance. A drop with `reshuffle_interval` therefore permutes the units of the hidden layer above it every so
many iterations:

    W1 <- W1[order, :]    b1 <- b1[order]    W2 <- W2[:, order] for every W2 that reads the units

and the solver's history of these arrays likewise. Up to rounding the net stays the same function; only the
coupling changes. The orders follow from (seed, drop, iteration), so a snapshot need not store them. The cost
is one gather of every permuted array per interval: for a solver with one history, twice the weights on both
sides of the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minidrop.config import param_fields
from minidrop.errors import ConfigError
from minidrop.layers.flow import OWN
from minidrop.rng import generator

if TYPE_CHECKING:
    from minidrop.net.graph import Graph
    from minidrop.net.problems import Problems


@dataclass(frozen=True)
class Reshuffle:
    """The units above one drop: their number, the interval, and each (layer, parameter, axis) to permute."""

    drop: str
    writer: str
    units: int
    interval: int
    moves: tuple

    @property
    def line(self) -> str:
        """One line for the log."""
        return f"{self.drop} permutes the units of {self.writer} every {self.interval} iterations"

    def is_due(self, iteration: int) -> bool:
        """Whether the units are permuted before this iteration; never before the first."""
        return iteration > 0 and iteration % self.interval == 0

    def order(self, seed: int, iteration: int) -> np.ndarray:
        """Return the permutation for an iteration as an int64 array: unit order[i] moves to place i."""
        return generator(seed, "reshuffle", self.drop, iteration).permutation(self.units)


class _Unknown(Exception):
    """A layer with a mistake reads the units, so the effect of a permutation is not known."""


def find_reshuffles(graph: Graph, problems: Problems) -> list:
    """Return the Reshuffle of every training drop that asks for one.

    Adds to `problems` each drop whose units cannot be permuted without changing what the net computes.
    """
    config, found = problems.config, []
    for node, fact in [(one, fact) for one in graph.nodes for fact in one.drops]:
        if not (fact.reshuffle_interval and node.layer.training):
            continue
        try:
            writer, ref = _writer(graph, config, node, fact.axis)
            moves = _moves(graph, config, writer, ref)
        except ConfigError as error:
            problems.add(node.index, f"reshuffle_interval cannot permute the units above: {error}; remove "
                                     f"reshuffle_interval", *param_fields(node.config.type)[:1],
                         "reshuffle_interval")
        except _Unknown:
            continue
        else:
            units = graph.shapes[ref][fact.axis]
            found.append(Reshuffle(node.name, writer.name, units, fact.reshuffle_interval, moves))
    return found


def check_shared(graph: Graph, problems: Problems, reshuffles: list) -> None:
    """Check that a net which shares a training net's parameters can follow its reshuffles.

    `reshuffles` are the training net's. Adds to `problems` each that would change what this net computes.
    """
    config = problems.config
    nodes = {node.name: node for node in graph.nodes if node.is_sound and node.layer.parameter_specs()}
    for reshuffle in reshuffles:
        expected = {move for move in reshuffle.moves if move[0] in nodes}
        if not expected:
            continue
        place = nodes.get(reshuffle.writer) or nodes[min(move[0] for move in expected)]
        try:
            if reshuffle.writer not in nodes:
                raise ConfigError(f"there is no layer {reshuffle.writer} here")
            found = set(_moves(graph, config, place, place.tops[0]))
            if found != expected:
                raise ConfigError(f"{min(found ^ expected)[0]} does not use them alike in both nets")
        except ConfigError as error:
            problems.add(place.index, f"the training net permutes the units of {reshuffle.writer} "
                                      f"(reshuffle_interval of {reshuffle.drop}), and this net, which shares "
                                      f"its parameters, cannot follow: {error}; remove reshuffle_interval")
        except _Unknown:
            continue


def _writer(graph, config, drop, axis):
    """Return the node whose outputs are the units that `drop` drops, and the blob it writes them to."""
    ref = drop.bottoms[0]
    while True:
        writer = graph.writer[ref]
        if _outputs(writer, ref):
            if _outputs(writer, ref)[0].out_axis != axis:
                raise ConfigError(f"axis {axis} of blob {ref.name} is dropped, but the units of "
                                  f"{_place(config, writer)} lie on axis {_outputs(writer, ref)[0].out_axis}")
            return writer, ref
        passes = _in_place(writer, writer.passes_to(ref, axis))
        if not passes:
            fixed = [product for product in writer.products_of(ref) if product.weight_axes is None]
            what = "groups of channels" if any(product.parameter for product in fixed) else "heads"
            why = (f"whose {what} allow no other order" if fixed else
                   "which has no units that trained weights define")
            raise ConfigError(f"blob {ref.name} is written by {_place(config, writer)}, {why}")
        ref = writer.bottoms[passes[0].bottom]


def _outputs(node, ref):
    """Return the Products whose outputs are the units of a blob, each with its own slice of the weights."""
    if any(product.bottom == OWN for product in node.products):
        return []               # the state carried from step to step would have to be permuted as well
    return [product for product in node.products_of(ref)
            if product.out_axis is not None and product.weight_axes is not None]


def _in_place(node, passes):
    """Return `passes` if each keeps its entries in place and the layer has no parameters, else [].

    A product without weights, as of the heads of attention, depends on where its entries lie.
    """
    moved = any(fact.spread != 1 or fact.joint for fact in passes) or node.products
    return [] if moved or node.layer.parameter_specs() else passes


def _moves(graph, config, writer, ref):
    """Return each (layer, parameter, axis) to permute with the units of `writer` in `ref`."""
    moves, reached, axis = [], [ref], None
    for product in _outputs(writer, ref):
        axis = product.out_axis
        moves += [(writer, product.parameter, product.weight_axes[0]),
                  *((writer, name, 0) for name in product.biases)]
    for ref in reached:                     # grows in the loop
        source = graph.writer[ref]
        if any(top == ref and weight for top, weight in zip(source.tops, source.config.loss_weight,
                                                            strict=False)):
            raise ConfigError(f"blob {ref.name} of {_place(config, source)} counts in the loss")
        if not graph.readers[ref]:
            raise ConfigError(f"blob {ref.name} of {_place(config, source)} is an output of the net")
        for node, i in graph.readers[ref]:
            if not node.is_sound:
                raise _Unknown
            products = [product for product in node.products if product.bottom == i]
            passes = _in_place(node, node.passes_from(i, axis))
            if products and all(product.in_axis == axis and product.in_spread == 1
                                and product.weight_axes is not None for product in products):
                moves += [(node, product.parameter, product.weight_axes[1]) for product in products]
            elif passes and not products:
                reached += [node.tops[fact.top] for fact in passes if fact.top is not None]
            else:
                raise ConfigError(f"blob {ref.name} is read by {_place(config, node)}, whose result would "
                                  f"change with their order")
    for node, name, _ in moves:
        if sum(product.parameter == name for product in node.products) > 1:
            raise ConfigError(f"{_place(config, node)} uses its {name} for several bottoms")
    moved = {(node.index, name) for node, name, _ in moves}
    for parameter in graph.parameters:
        if len(parameter.users) > 1 and any((node.index, name) in moved for node, name in parameter.users):
            raise ConfigError(f"the parameter {parameter.shared_name!r} is shared by "
                              f"{' and '.join(_place(config, node) for node, _ in parameter.users)}")
    return tuple((node.name, name, axis) for node, name, axis in moves)


def _place(config, node):
    return f"{node.name} ({node.config.type}) at {config.where(node.index)}"
