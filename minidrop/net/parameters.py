"""The parameters of a net: created and filled, or shared with another net."""

from __future__ import annotations

import logging
from collections import UserDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from minidrop.autograd import Parameter, ReshapedParameter, whole_of
from minidrop.backend import Backend
from minidrop.config import NetConfig
from minidrop.data.binaryproto import blob_of
from minidrop.errors import ConfigError, fits_into_memory
from minidrop.fillers import fill, unread_settings
from minidrop.net.graph import Graph
from minidrop.net.plan import Plan
from minidrop.net.problems import Problems
from minidrop.rng import generator

log = logging.getLogger(__name__)

SharedParameters = Mapping[str, Mapping[str, Parameter]]        # {layer: {name: Parameter}}


class ReadOnly(UserDict):
    """A dict as it is at any time, in which nobody can set anything: a layer would compute with what is set,
    and no solver would train it."""

    def __init__(self, own: dict[str, Any]):
        super().__init__()
        self.data = own

    def __setitem__(self, name: str, value: Any) -> None:
        raise ConfigError(f"the parameters of a net stay, got {name!r} to be set: to change values, write to "
                          f"net.params[layer][name].data")

    def __delitem__(self, name: str) -> None:
        raise ConfigError(f"the parameters of a net stay, got {name!r} to be removed")


def make_parameters(graph: Graph, config: NetConfig, backend: Backend, dtype: str, seed: int,
                    shared: SharedParameters, fills: bool = True) -> SharedParameters:
    """Create the parameters of a graph, give them to their layers, and return {layer: {name: Parameter}}.

    Those that `shared` has under the name of any of their owners are taken from it. A layer's `blobs` are the
    values of those that it is the first owner of, in place of its fillers. fills: False gives them no memory,
    and they read as zeros. Raises BackendError if one does not fit into memory.
    """
    for found in graph.parameters:
        node, name = found.users[0]
        parameter = _shared(shared, found.users)
        place = f"{config.where(node.index)}: layer {node.name!r}: {name}"
        if parameter is None:
            shape, rng = tuple(found.spec.shape), generator(seed, "filler", node.name, name)
            with fits_into_memory(f"{place} of shape {shape}"):
                data = (backend.asarray(_initial(node, found.spec, rng), dtype) if fills
                        else np.broadcast_to(np.zeros((), dtype), shape))
            multipliers = (1.0 if value is None else value for value in (found.lr_mult, found.decay_mult))
            parameter = Parameter(data, backend, f"{node.name}.{name}", *multipliers)
        for node, name in found.users:
            shape = next(tuple(spec.shape) for spec in node.layer.parameter_specs() if spec.name == name)
            node.layer.params[name] = parameter if parameter.shape == shape else ReshapedParameter(
                whole_of(parameter), shape, f"{node.name}.{name}")
    for node in graph.nodes:        # in the order of the layer, in which files hold them, also where shared
        own = node.layer.params
        for spec in node.layer.parameter_specs() if own else ():
            own[spec.name] = own.pop(spec.name)
    return ReadOnly({node.name: ReadOnly(node.layer.params) for node in graph.nodes if node.layer.params})


def _shared(shared, users):
    """Return the shared Parameter under any of its owners' names, or None."""
    return next((shared[node.name][name] for node, name in users if name in shared.get(node.name, ())), None)


def warn_of_unshared(graph: Graph, shared: SharedParameters) -> None:
    """Log each parameter that a net which shares those of another does not find there."""
    for found in graph.parameters:
        if _shared(shared, found.users) is None:
            log.warning("layer %r: the net that this one shares weights with has no %s of that layer: it "
                        "keeps the values of its filler", found.users[0][0].name, found.users[0][1])


def warn_of_unread(graph: Graph, config: NetConfig) -> None:
    """Log each kind of setting of fillers that does nothing: their type does not read it."""
    given = [(*parameter.users[0], parameter.spec.filler) for parameter in graph.parameters
             if parameter.spec.initial is None]
    given += [(node, "its top", filler) for node in graph.nodes
              for filler in node.config.dummy_data_param.data_filler]
    found: dict[tuple[str, str], list] = {}
    for node, name, filler in given:
        for field in unread_settings(filler):
            found.setdefault((field, filler.type), []).append((node, name))
    for (field, kind), users in found.items():
        node, name = users[0]
        more = f", and {len(users) - 1} more" if len(users) > 1 else ""
        log.warning("%s: layer %r: %s has no effect: filler %r does not read it (that of %s%s)",
                    config.where(node.index), node.name, field, kind, name, more)


def check_shapes(graph: Graph, problems: Problems, shared: SharedParameters) -> None:
    """Add to `problems` each parameter whose shape differs in the net it is shared with."""
    for found in graph.parameters:
        node, name = found.users[0]
        parameter, shape = _shared(shared, found.users), tuple(found.spec.shape)
        if parameter is not None and parameter.shape != shape:
            problems.add(node.index, f"{name} has shape {shape} here, but {parameter.shape} in the net it is "
                                     f"shared with")


def _initial(node, spec, rng):
    """Return the array with which a parameter begins."""
    if node.config.blobs:
        return _given(node, spec.name)
    return fill(spec.filler, tuple(spec.shape), rng) if spec.initial is None else spec.initial.copy()


def _given(node, name):
    """Return the values that a layer's `blobs` give one of its parameters, once checked."""
    specs = node.layer.parameter_specs()
    place = next(i for i, spec in enumerate(specs) if spec.name == name)
    return blob_of(node.config.blobs[place]).array.reshape(specs[place].shape).copy()


def check_blobs(graph: Graph, problems: Problems, dtype: str) -> None:
    """Add to `problems` each array in a layer's `blobs` that cannot be the initial value of its parameter."""
    for node in graph.nodes:
        blobs = node.config.blobs
        if not blobs or not node.is_sound:
            continue
        specs = node.layer.parameter_specs()
        if len(blobs) != len(specs):
            names = ", ".join(f"{spec.name} {tuple(spec.shape)}" for spec in specs) or "none"
            problems.add(node.index, f"{len(blobs)} `blobs` for {len(specs)} parameters ({names}); give one "
                                     f"for each, or none", "blobs")
            continue
        for i, (message, spec) in enumerate(zip(blobs, specs, strict=True)):
            try:
                blob = blob_of(message)
                with np.errstate(over="ignore"):
                    finite = np.isfinite(blob.array.astype(dtype)).all()
            except ValueError as error:
                problems.add(node.index, f"the array for {spec.name} {error}", ("blobs", i))
                continue
            if not blob.fits(tuple(spec.shape)):
                problems.add(node.index, f"the array for {spec.name} has shape {blob.shape}, expected "
                                         f"{tuple(spec.shape)}", ("blobs", i))
            elif not finite:
                problems.add(node.index, f"the array for {spec.name} has a NaN, an infinity or a number too "
                                         f"large for {dtype}", ("blobs", i))


def check_dropped_weights(plan: Plan, problems: Problems) -> None:
    """Add to `problems` each pattern of weights that does not fit the weights of its product."""
    for drop in plan.drops:
        if drop.kind == "weights":
            try:
                drop.site.family.check_weights(drop.producer.layer.outputs, drop.producer.layer.inputs)
            except ConfigError as error:
                problems.add(drop.node.index, f"{error} (the weights of {drop.producer.name})",
                             "approx_dropout_param")
