"""Functions of minidrop.functions in a traced forward: each adds the layer that does it, or else a Lambda."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

from minidrop.nn.structure import leaves_of, put_together, take_apart
from minidrop.nn.symbol import Symbol, TraceError, frozen

_ALIASES = {"dim": "axis", "keepdim": "keepdims"}       # PyTorch's names


def describe(function: Callable, args: tuple, kwargs: dict) -> Any:
    """Return the Symbols of what a function of Symbols adds to their net. Raises TraceError."""
    name, signature = function.__name__, inspect.signature(function)
    where = f"{name} in a traced forward"
    args, kwargs = _as_symbols(where, args), _as_symbols(where, kwargs)
    trace = next(one for one in leaves_of((args, kwargs)) if isinstance(one, Symbol)).trace
    key, rate = signature.parameters.get("key"), signature.bind_partial(*args, **kwargs).arguments.get("rate")
    if key is not None and (key.default is key.empty or rate):      # PyTorch's dropout has none
        raise TraceError(f"{where}: its key would be the same in every pass; a layer, such as nn.Dropout, "
                         f"draws anew")
    given = signature.bind(*args, **kwargs).arguments
    found = _by_layer(name, {_ALIASES.get(word, word): value for word, value in given.items()})
    if found is not None:
        return found
    leaves: list[Symbol] = []
    rest = take_apart((args, kwargs), lambda one: isinstance(one, Symbol), leaves, where)
    return trace.add_function(partial(_call, function, rest), leaves, kind=name)


def _as_symbols(where, value):
    """Return nested arguments, nn.Weights as their Symbols. Raises TraceError for arrays."""
    if isinstance(value, tuple | list):
        found = [_as_symbols(where, one) for one in value]
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    if isinstance(value, dict):
        return {key: _as_symbols(where, one) for key, one in value.items()}
    if not isinstance(value, Symbol) and hasattr(value, "as_symbol"):
        return value.as_symbol()
    if not isinstance(value, Symbol) and hasattr(value, "dtype") and getattr(value, "shape", ()) != ():
        raise frozen(f"{where} is given", value)
    return value


def _by_layer(name, given):
    """Return what a layer gives for these arguments of a function, None if none does the same."""
    layer = _LAYERS.get(name)
    if layer is None or not given.keys() <= inspect.signature(layer).parameters.keys():
        return None
    return layer(**given) if isinstance(given[next(iter(given))], Symbol | tuple | list | Real) else None


def _call(function, rest, *tensors):
    """Return function(*args, **kwargs), of which the tensors were taken out."""
    args, kwargs = put_together(rest, tensors)
    return function(*args, **kwargs)


# -- layers --------------------------------------------------------------------------------------------------
# They take the arguments of the functions, and return None for those that no layer has.
def _layer(type: str, x: Any, **settings: Any) -> Any:
    numbers = all(isinstance(one, Real) and x.trace.is_exact(one) for one in settings.values())
    return x.trace.add(type, [x], **settings) if numbers else None


def _gelu(x, approximate="none"):
    known = {"none": {}, "tanh": {"approximate": "TANH"}}.get(approximate)
    return None if known is None else x.trace.add("GELU", [x], **known)


def _joined(xs, axis):
    return xs[0].trace.add("Concat", list(xs), axis=axis) if all(isinstance(x, Symbol) for x in xs) else None


def _clamp(x, min=None, max=None):
    return None if min is None or max is None else _layer("Clip", x, min=min, max=max)


def _reduced(method):
    return lambda x, axis=None, keepdims=False: None if keepdims else getattr(x, method)(axis)


def _exchanged(x, axes=()):
    order = list(range(x.ndim))
    if not axes:
        return x.permute(order[::-1])
    if len(axes) != 2 or not all(isinstance(axis, int) and -x.ndim <= axis < x.ndim for axis in axes):
        return None
    order[axes[0]], order[axes[1]] = order[axes[1]], order[axes[0]]
    return x.permute(order)


def _largest(a, b=None):
    xs = list(a) if b is None else [a, b]
    alike = all(isinstance(x, Symbol) for x in xs) and len({x.shape for x in xs}) == 1
    return xs[0].trace.add("Eltwise", xs, operation="MAX") if alike and len(xs) > 1 else None


_LAYERS: dict[str, Callable[..., Any]] = {
    "relu": lambda x, negative_slope=0.0: _layer("ReLU", x, negative_slope=negative_slope),
    "sigmoid": lambda x: _layer("Sigmoid", x), "tanh": lambda x: _layer("TanH", x), "gelu": _gelu,
    "elu": lambda x, alpha=1.0: _layer("ELU", x, alpha=alpha), "bnll": lambda x: _layer("BNLL", x),
    "swish": lambda x, beta=1.0: _layer("Swish", x, beta=beta), "absval": lambda x: _layer("AbsVal", x),
    "softmax": lambda x, axis=1: x.trace.add("Softmax", [x], axis=axis),
    "clamp": _clamp, "clip": lambda x, low=None, high=None: _clamp(x, low, high),
    "concat": lambda xs, axis=1: _joined(xs, axis), "cat": lambda xs, axis=0: _joined(xs, axis),
    "flatten": lambda x, axis=1, end_axis=-1: x.flatten(axis, end_axis),
    "reshape": lambda x, shape: x.reshape(shape),
    "permute": lambda x, order: x.permute(order), "transpose": _exchanged,
    "sum": _reduced("sum"), "mean": _reduced("mean"), "maximum": _largest,
    "add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b, "negative": lambda x: -x,
    "pow": lambda a, b: a ** b if isinstance(b, Real) else None,
}
