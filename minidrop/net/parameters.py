"""The parameters of a net: made and filled, or shared with another net."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from minidrop.autograd import Parameter
from minidrop.backend import Backend
from minidrop.config import NetConfig
from minidrop.errors import BackendError, ConfigError
from minidrop.fillers import fill
from minidrop.net.graph import Graph, Problems
from minidrop.net.plan import Plan
from minidrop.rng import generator

if TYPE_CHECKING:
    from minidrop.net.net import Net

log = logging.getLogger(__name__)


def make_parameters(graph: Graph, config: NetConfig, backend: Backend, dtype: str, seed: int,
                    share: Net | None) -> dict[str, dict[str, Parameter]]:
    """Make the parameters of a graph and give them to their layers; returns {layer: {name: Parameter}}.

    Those that `share` has under the name of any of their owners are its own; of the others a warning tells
    that nothing trains them. Raises ConfigError where the shapes
    differ, BackendError where one does not fit into memory.
    """
    for found in graph.parameters:
        node, name = found.users[0]
        parameter = _shared(share, found.users) if share is not None else None
        place = f"{config.where(node.index)}: layer {node.name!r}: {name}"
        if parameter is None:
            rng = generator(seed, "filler", node.name, name)
            try:
                data = backend.asarray(fill(found.spec.filler, found.spec.shape, rng), dtype)
            except MemoryError as error:
                raise BackendError(f"{place} of shape {tuple(found.spec.shape)} does not fit into memory; "
                                   f"make it smaller ({error})") from None
            multipliers = (1.0 if value is None else value for value in (found.lr_mult, found.decay_mult))
            parameter = Parameter(data, backend, f"{node.name}.{name}", *multipliers)
        elif parameter.shape != tuple(found.spec.shape):
            raise ConfigError(f"{place} has shape {tuple(found.spec.shape)} here, but {parameter.shape} in "
                              f"the net it is shared with")
        for node, name in found.users:
            node.layer.params[name] = parameter
    return {node.name: node.layer.params for node in graph.nodes if node.layer.params}


def _shared(net, users):
    """Return the Parameter of another net under any of its owners' names, or None, with a warning."""
    for node, name in users:
        if name in net.params.get(node.name, ()):
            return net.params[node.name][name]
    node, name = users[0]
    log.warning("layer %r: the net that this one shares weights with has no %s of that layer: it keeps the "
                "values of its filler", node.name, name)
    return None


def check_dropped_weights(plan: Plan, config: NetConfig) -> None:
    """Raise ConfigError where a pattern of weights does not fit the product that it drops weights of."""
    problems = Problems(config)
    for drop in plan.drops:
        if drop.kind == "weights":
            try:
                drop.site.family.check_weights(drop.producer.layer.outputs, drop.producer.layer.inputs)
            except ConfigError as error:
                problems.add(drop.node.index, f"{error} (the weights of {drop.producer.name})",
                             "approx_dropout_param")
    problems.raise_any()
