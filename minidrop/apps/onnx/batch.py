"""Which axes of a net's inputs count records: found by what the net says of a batch twice as large."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from minidrop.backend import get_backend
from minidrop.config import NetConfig
from minidrop.errors import ConfigError, MinidropError
from minidrop.layers import Context
from minidrop.net import Problems, build_graph
from minidrop.net.graph import Graph

SEQUENCES = ("Attention", "GRU", "LSTM", "LastState", "Position", "RNN", "Rotary")    # steps, then samples
MOST_INPUTS = 4             # each of which may count records on two axes, or not at all


def graph_of(config: NetConfig) -> tuple[Graph, Problems]:
    """Return the Graph of a description in phase TEST on the CPU, and what is wrong with it."""
    problems = Problems(config)
    context = Context("TEST", 0, "float32", get_backend("cpu"), config.path)
    return build_graph(config, context, problems), problems


def find_axes(graph: Graph, shapes: dict[str, tuple[int, ...]],
              describe: Callable[[dict[str, tuple[int, ...]]], NetConfig]) -> tuple[dict[str, int], Graph]:
    """Return ({input: its axis of records}, the Graph of a batch twice as large as that of `graph`).

    shapes: of the inputs. describe: gives the description for other shapes. Layers of sequences have their
    records on axis 1: inputs are tried with a longer axis 0 or 1, those that stay as they are last, until
    these layers have more samples and no more steps. Raises ConfigError where no such axes are found, with
    what stood in the way.
    """
    furthest, reason = -1, "no input has an axis that could count records"
    for axes in _candidates([len(shape) for shape in shapes.values()]):
        chosen = {name: axis for name, axis in zip(shapes, axes, strict=True) if axis is not None}
        doubled = {name: _doubled(shape, chosen.get(name)) for name, shape in shapes.items()}
        try:
            grown, problems = graph_of(describe(doubled))
            problems.raise_any()
            _check_parameters(graph, grown, problems)
            problems.raise_any()
        except MinidropError as error:
            place = min((index for index, *_ in problems.found), default=-1)
            if place > furthest:
                furthest, reason = place, str(error).split("\n")[0]
            continue
        if chosen and all(_counts_samples(*pair) for pair in zip(_sequences(graph), _sequences(grown),
                                                                 strict=True)):
            return chosen, grown
    raise ConfigError(f"the batch cannot be of any size, with twice as many records: {reason}; export with a "
                      f"fixed batch (batch=None, --fixed-batch)")


def _candidates(counts: list[int]) -> Iterable[tuple[int | None, ...]]:
    """Return which axes to try for inputs with so many axes: all combinations; of many inputs the first axis
    of all, then the second."""
    choices = [(*range(min(2, count)), None) for count in counts]
    if len(counts) <= MOST_INPUTS:
        return itertools.product(*choices)
    return [tuple(choice[min(axis, len(choice) - 2)] for choice in choices) for axis in range(2)]


def _check_parameters(graph, grown, problems):
    """Add to `problems` the parameters whose shape depends on the size of a batch."""
    for own, other in zip(graph.parameters, grown.parameters, strict=True):
        if own.spec.shape != other.spec.shape:
            problems.add(other.users[0][0].index, f"{own.spec.name} has an entry for each record of a batch")


def _doubled(shape, axis):
    return tuple(2 * length if i == axis else length for i, length in enumerate(shape))


def _sequences(graph):
    """Return the shapes of the first bottoms of layers of sequences."""
    return [graph.shapes[node.bottoms[0]] for node in graph.nodes if node.config.type in SEQUENCES]


def _counts_samples(shape, grown):
    """Whether a sequence has as many steps in a larger batch, and more samples."""
    return shape[0] == grown[0] and shape[1] < grown[1]
