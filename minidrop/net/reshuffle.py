"""find_reshuffles: which arrays move when the units of a hidden layer are permuted, so that the net computes the same.

A regular pattern couples units by their distance: some pairs live and die together far more often than chance would have
it. `reshuffle_interval` of a drop gives the units of the hidden layer above it other places every so many iterations:

    W1 <- W1[order, :]    b1 <- b1[order]    W2 <- W2[:, order] for every W2 that reads the units

with the solver's history of these arrays. Up to rounding the net stays the same function; only who is coupled with whom
changes. The orders follow from (seed, drop, iteration), so a snapshot holds nothing of them. It costs one gather of every
array that moves, once an interval: for a solver with one history, twice the weights on both sides of the layer.
"""

from dataclasses import dataclass

from minidrop.config import param_fields
from minidrop.errors import ConfigError
from minidrop.net.graph import Problems
from minidrop.rng import generator


@dataclass(frozen=True)
class Reshuffle:
    """The units above one drop: how many, how often they move, and the (layer, parameter, axis) that move with them."""

    drop: str
    writer: str
    units: int
    interval: int
    moves: tuple

    @property
    def line(self):
        """One line for the log."""
        return f"{self.drop} permutes the units of {self.writer} every {self.interval} iterations"

    def is_due(self, iteration):
        """True where the units move before this iteration. They never do before the first."""
        return iteration > 0 and iteration % self.interval == 0

    def order(self, seed, iteration):
        """Return the permutation for an iteration as an int64 array: unit order[i] moves to place i."""
        return generator(seed, "reshuffle", self.drop, iteration).permutation(self.units)


def find_reshuffles(graph, config):
    """Return the Reshuffle of every training drop that asks for one.

    Raises one ConfigError with a line for each drop whose units cannot be permuted without changing what the net computes.
    """
    problems, found = Problems(config), []
    for node in graph.nodes:
        if not (node.layer.reshuffle_interval and node.layer.training):
            continue
        try:
            writer = _writer(graph, config, node)
            moves = _moves(graph, config, writer)
        except ConfigError as error:
            problems.add(node.index, f"reshuffle_interval cannot permute the units above: {error}; remove "
                                     f"reshuffle_interval", *param_fields(node.config.type)[:1], "reshuffle_interval")
        else:
            units = graph.shapes[writer.tops[0]][-1]
            found.append(Reshuffle(node.name, writer.name, units, node.layer.reshuffle_interval, moves))
    problems.raise_any()
    return found


def check_shared(graph, config, reshuffles):
    """Check that a net which uses the parameters of a training net stays the same function when that one reshuffles.

    `reshuffles` are the training net's. Raises one ConfigError with a line for each that this net would not follow.
    """
    problems = Problems(config)
    nodes = {node.name: node for node in graph.nodes if node.layer.parameter_specs()}
    for reshuffle in reshuffles:
        expected = {move for move in reshuffle.moves if move[0] in nodes}
        if not expected:
            continue
        place = nodes.get(reshuffle.writer) or nodes[min(move[0] for move in expected)]
        try:
            if reshuffle.writer not in nodes:
                raise ConfigError(f"there is no layer {reshuffle.writer} here")
            found = set(_moves(graph, config, place))
            if found != expected:
                raise ConfigError(f"{min(found ^ expected)[0]} does not use them alike in both nets")
        except ConfigError as error:
            problems.add(place.index, f"the training net permutes the units of {reshuffle.writer} (reshuffle_interval of "
                                      f"{reshuffle.drop}), and this net, which shares its parameters, cannot follow: "
                                      f"{error}; remove reshuffle_interval")
    problems.raise_any()


def _writer(graph, config, drop):
    """Return the node whose outputs are the units that `drop` drops."""
    ref = drop.bottoms[0]
    while True:
        writer = graph.writer[ref]
        if writer.layer.output_axes():
            if drop.layer.axis != len(graph.shapes[ref]) - 1:
                raise ConfigError(f"axis {drop.layer.axis} of blob {ref.name} is dropped, but the units of "
                                  f"{_place(config, writer)} lie on the last")
            return writer
        if not _leaves_in_place(writer):
            raise ConfigError(f"blob {ref.name} is written by {_place(config, writer)}, which has no units that trained "
                              f"weights define")
        ref = writer.bottoms[0]


def _moves(graph, config, writer):
    """Return (layer, parameter, axis) of everything that a permutation of the units of `writer` moves."""
    moves = [(writer, name, axis) for name, axis in writer.layer.output_axes().items()]
    reached = list(writer.tops)
    for ref in reached:                     # grows on the way down
        source = graph.writer[ref]
        if any(top == ref and weight for top, weight in zip(source.tops, source.config.loss_weight, strict=False)):
            raise ConfigError(f"blob {ref.name} of {_place(config, source)} counts in the loss")
        if not graph.readers[ref]:
            raise ConfigError(f"blob {ref.name} of {_place(config, source)} is an output of the net")
        for node, _ in graph.readers[ref]:
            axes = node.layer.input_axes()
            if axes:
                moves += [(node, name, axis) for name, axis in axes.items()]
            elif _leaves_in_place(node):
                reached += node.tops
            else:
                raise ConfigError(f"blob {ref.name} is read by {_place(config, node)}, whose result would change with "
                                  f"their order")
    moved = {(node.index, name) for node, name, _ in moves}
    for parameter in graph.parameters:
        if len(parameter.users) > 1 and any((node.index, name) in moved for node, name in parameter.users):
            raise ConfigError(f"the parameter {parameter.shared_name!r} is shared by "
                              f"{' and '.join(_place(config, node) for node, _ in parameter.users)}")
    return tuple((node.name, name, axis) for node, name, axis in moves)


def _leaves_in_place(node):
    """True where unit i of the bottom is unit i of every top, and nothing else than its place says what becomes of it."""
    return (node.layer.elementwise or node.layer.keeps_units) and not node.layer.parameter_specs()


def _place(config, node):
    return f"{node.name} ({node.config.type}) at {config.where(node.index)}"
