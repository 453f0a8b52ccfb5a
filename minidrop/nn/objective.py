"""Objective: a model and its loss as one net, which reads the batches of a loader."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from minidrop import functions
from minidrop.autograd import Parameter, Tensor
from minidrop.config import NetParameter
from minidrop.data import LoaderBatches
from minidrop.errors import ConfigError
from minidrop.layers import Context, layer_class
from minidrop.layers.lambda_function import Judging, Measured
from minidrop.nn.built import names_of
from minidrop.nn.module import Module
from minidrop.nn.structure import put_together, take_apart
from minidrop.nn.symbol import Symbol
from minidrop.nn.trace import Trace

DATA = "data/loader"        # the name of the layer that reads; no module can have it


class Objective:
    """The net of loss(model(*inputs), *targets) for the batches of a loader, in training or for tests.

    message: its description, whose outputs are "loss" and the metrics, by name. handed: what a Net
    of it is handed besides. params: {layer: {name: Parameter}}, those of the model.
    stateful: [(layer name, module, which of its uses)] of the modules whose states go on. least: of several
    ranks, the fewest records for which it is known to be the net.

    loss, metrics: modules that are traced, or functions of Tensors, which run in each pass. inputs: how many
    arrays of a batch are those of the model; the others are targets. name: of the net, in place of the
    model's. ranks: how many share each batch. Raises ConfigError where a smaller last batch, or a part of a
    batch, would need another net.
    """

    message: NetParameter
    handed: dict[str, Any]
    params: dict[str, dict[str, Parameter]]
    least = 1

    def __init__(self, model: Module, loss: Callable[..., Any], metrics: Mapping[str, Callable[..., Any]],
                 batches: LoaderBatches, inputs: int, training: bool, name: str = "", ranks: int = 1):
        self.model, self.loss, self.metrics, self.batches = model, loss, metrics, batches
        self.inputs, self.training = inputs, training
        trace = self._trace(batches.shapes)
        self.message, self.handed = trace.message, trace.handed
        if name:
            self.message.name = name
        self.params = trace.params
        model.check_placed(trace.params)
        self.stateful = [one for one in trace.applied if one[1].stateful]
        size = batches.batch_size
        if size > 1 and batches.last_records != size:
            records = batches.last_records or 1
            self._check_smaller(trace, [
                (records, *shape[1:]) if shape[:1] == (size,) else shape for shape in batches.shapes],
                f"the last batch of an epoch has {records} record{'s' * (records != 1)} in place of {size}",
                "let the loader drop_last" if training else "choose another batch_size for the tests", True)
        if ranks > 1:
            self._check_smaller(trace, batches.shapes_of(ranks),
                                f"of a batch each of {ranks} ranks has {size // ranks} records in place of "
                                f"{size}", "use one process", False)
            self.least = self._least(trace, ranks)

    def _least(self, trace, ranks):
        """Return how many records the net is known to be the same for: a single one, if it is."""
        try:
            self._check_smaller(trace, self.batches.shapes_of(self.batches.batch_size), "", "", False)
        except ConfigError:
            return self.batches.batch_size // ranks
        return 1

    def _trace(self, shapes):
        model, given = self.model, [self.loss, *self.metrics.values()]
        context = Context("TRAIN" if self.training else "TEST", model.seed, model.dtype, model.backend)
        besides = [one for one in given if isinstance(one, Module)]
        trace = Trace(model, context, besides, carries=True)
        with nullcontext() if self.training else _in_eval(model, *besides), trace.active():
            symbols = trace.data(DATA, self.batches.names, self.batches, shapes)
            scores, targets = trace.run(model, tuple(symbols[:self.inputs]), {}), symbols[self.inputs:]
            results = {"loss": self._called(trace, "loss", self.loss, _loss_of, scores, targets)}
            for name, metric in self.metrics.items():
                results[name] = self._called(trace, name, metric, _number_of, scores, targets)
            blobs = trace.finish(list(results.values()))
        _weigh(trace.message, blobs[0])
        if len(set(blobs)) < len(blobs):
            raise ConfigError(f"metrics: two of {', '.join(results)} are the same blob; leave one out")
        for i, name in enumerate(results):
            changed = trace.rename(blobs[i], name)
            blobs = [changed.get(blob, blob) for blob in blobs]
        return trace

    def _called(self, trace, name, function, as_result, scores, targets):
        """Return the Symbol of function(scores, *targets)."""
        _check_takes(name, function, scores, targets)
        if isinstance(function, Module) and function.traced:
            result = trace.run(function, (scores, *targets), {})
        else:
            leaves: list[Symbol] = []
            where = f"what the forward of {self.model.describe()} returns"
            rest = take_apart((scores, *targets), _is_symbol, leaves, where)
            result = trace.add_function(Judging(_call, function, as_result, rest), leaves, name)
        if not isinstance(result, Symbol) or math.prod(result.shape) != 1:
            got = f"shape {result.shape}" if isinstance(result, Symbol) else type(result).__name__
            raise ConfigError(f"{_said(name)}: expected one number for a batch, got {got}; take its mean")
        return result

    def _check_smaller(self, trace, shapes, last, remedy, carries):
        """Raise ConfigError unless the net is the same for arrays of fewer records, of these shapes.

        last, remedy: what to say of them. carries: whether the states of a batch go on to them.
        """
        begin = f"{last}, and for it the forward of {self.model.describe()} describes"
        try:
            # An axis of another length counts something else, such as steps; such a batch is refused later.
            other = self._trace(shapes)
        except ConfigError as error:
            raise ConfigError(f"{begin} no net: {error}; {remedy}") from error
        for name, module, _ in self.stateful if carries else ():
            if trace.states[name] != other.states.get(name):
                raise ConfigError(f"{last}, but {module.describe()} is stateful: what it carries on is for "
                                  f"{self.batches.batch_size}; {remedy}")
        for ours, theirs in zip(trace.message.layer, other.message.layer, strict=False):
            if not other.is_alike(theirs, ours):
                raise ConfigError(f"{begin} another net, from layer {ours.name!r} ({ours.type}) on: let it "
                                  f"not depend on the number of records (-1 in a reshape, a mean), or "
                                  f"{remedy}")
        if len(trace.message.layer) != len(other.message.layer):
            raise ConfigError(f"{begin} another net; {remedy}")
        for name, function in trace.handed.items():
            if not _same(function, other.handed[name]):
                raise ConfigError(f"{begin} another function in layer {name!r}; let it take lengths from the "
                                  f"Tensors that it is given, or {remedy}")


def blob_names(model: Module, shapes: Sequence[tuple[int, ...]], inputs: int) -> list[str]:
    """Return a name for each array of a batch, of these shapes: those of the model's forward, then "target".

    Raises ConfigError if the forward takes another number of arrays.
    """
    given = tuple(np.broadcast_to(0.0, shape) for shape in shapes[:inputs])
    try:
        names = names_of(model, given, {})
    except TypeError as error:
        raise ConfigError(f"{model.describe()}: its forward cannot be called with {len(given)} of the "
                          f"{len(shapes)} arrays of a batch: {error}; `inputs` says how many are the "
                          f"model's, the others are the loss's targets") from None
    targets = len(shapes) - inputs
    for name in ["target"] if targets == 1 else [f"target_{i}" for i in range(targets)]:
        names.append(f"{name}/data" if name in names else name)
    return names


@contextmanager
def _in_eval(*roots):
    """Within this context modules and those below are not in training."""
    modules = [(module, module.training) for root in roots for module in root.modules()]
    for root in roots:
        root.eval()
    try:
        yield
    finally:
        for module, training in reversed(modules):
            vars(module)["training"] = training


def _call(function, as_result, rest, *tensors):
    return as_result(function(*put_together(rest, tensors)))


def _loss_of(result):
    if not isinstance(result, Tensor):
        raise ConfigError(f"the loss should return a Tensor, through which gradients flow, got "
                          f"{type(result).__name__}")
    return functions.reshape(result, ()) if result.shape and math.prod(result.shape) == 1 else result


def _number_of(result):
    return result if isinstance(result, Tensor) else functions.tensor(result)


def _is_symbol(value):
    return isinstance(value, Symbol)


def _said(name):
    return "the loss" if name == "loss" else f"metric {name!r}"


def _check_takes(name, function, scores, targets):
    """Raise ConfigError unless a loss or metric can be called with what the model returns and the targets."""
    try:
        # Of a wrapper its own: it may call what it wraps with other arguments.
        takes = inspect.signature(function.forward if isinstance(function, Module) else function,
                                  follow_wrapped=False)
    except (TypeError, ValueError):     # of what is no Python, or cannot be called
        return
    try:
        takes.bind(scores, *targets)
    except TypeError as error:
        several = isinstance(scores, tuple | list | dict)
        returned = f", a {type(scores).__name__} of {len(scores)} as one argument," if several else ""
        raise ConfigError(f"{_said(name)} is called with what the model returns{returned} and "
                          f"{len(targets)} target{'s' * (len(targets) != 1)}: {error}") from None


def _weigh(message, blob):
    """Let one blob be the loss of a net, with weight 1, and nothing else."""
    for layer in message.layer:
        is_loss = getattr(layer_class(layer.type), "is_loss", False)
        if any(weight not in (0, 1) for weight in layer.loss_weight):
            raise ConfigError(f"layer {layer.name!r} ({layer.type}): loss_weight has no effect on a module; "
                              f"multiply what it returns")
        if is_loss or layer.loss_weight or blob in layer.top:
            layer.loss_weight[:] = [float(top == blob) for top in layer.top]


def _same(one, other):
    """Whether two functions do the same, as far as can be told: one function with equal things in it."""
    if one is other:
        return True
    if isinstance(one, Measured) and isinstance(other, Measured):
        return _same(one.function, other.function)
    if isinstance(one, partial) and isinstance(other, partial):
        return (_same(one.func, other.func) and len(one.args) == len(other.args)
                and all(map(_same, one.args, other.args)) and one.keywords == other.keywords)
    code = getattr(one, "__code__", None)
    if code is None or code is not getattr(other, "__code__", None):
        return type(one) is type(other) and isinstance(one, bool | int | float | str | tuple) and one == other
    inside, others = ([cell.cell_contents for cell in own.__closure__ or ()] + list(own.__defaults__ or ())
                      for own in (one, other))
    return all(map(_same, inside, others))
