"""Functions of minidrop.functions in a traced forward: each adds the layer that does it, or else a Lambda."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from minidrop.nn.structure import leaves_of, put_together, take_apart
from minidrop.nn.symbol import Symbol, TraceError, frozen

_ALIASES = {"dim": "axis", "keepdim": "keepdims"}       # PyTorch's names


def describe(function: Callable, args: tuple, kwargs: dict) -> Any:
    """Return the Symbols of what a function of Symbols, or of nn.Weights, adds to their net.

    Outside of a traced forward, where nn.Weights are Tensors, the function is called. Raises TraceError.
    """
    name, signature = function.__name__, inspect.signature(function)
    where = f"{name} in a traced forward"
    args, kwargs = _as_symbols(where, args), _as_symbols(where, kwargs)
    symbols = [one for one in leaves_of((args, kwargs)) if isinstance(one, Symbol)]
    if not symbols:
        return function(*args, **kwargs)
    key = signature.parameters.get("key")
    is_random = key is not None and key.default is key.empty        # PyTorch's users give none
    try:
        given = {} if is_random else signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{name}() {error}") from None
    if is_random or key is not None and given.get("rate"):
        raise TraceError(f"{where}: its random numbers would be the same in every pass; a layer, such as "
                         f"nn.Dropout, draws anew")
    found = _by_layer(name, given)
    if found is not None:
        return found
    leaves: list[Symbol] = []
    rest = take_apart((args, kwargs), lambda one: isinstance(one, Symbol), leaves, where, object)
    return symbols[0].trace.add_function(partial(_call, function, rest), leaves, kind=name)


def _as_symbols(where, value):
    """Return nested arguments, nn.Weights as their Symbols, NumPy's numbers as Python's.

    Raises TraceError for arrays.
    """
    if isinstance(value, tuple | list):
        found = [_as_symbols(where, one) for one in value]
        return type(value)(*found) if hasattr(value, "_fields") else type(value)(found)
    if isinstance(value, dict):
        return {key: _as_symbols(where, one) for key, one in value.items()}
    if isinstance(value, Symbol | type | np.dtype):
        return value
    if hasattr(value, "as_symbol"):
        return value.as_symbol()
    if isinstance(value, np.generic) or isinstance(value, np.ndarray) and not value.ndim:
        return value.item()
    if hasattr(value, "dtype"):
        raise frozen(f"{where} is given", value)
    return value


def _call(function, rest, *tensors):
    """Return function(*args, **kwargs), of which the tensors were taken out."""
    args, kwargs = put_together(rest, tensors)
    return function(*args, **kwargs)


# -- layers --------------------------------------------------------------------------------------------------
def _by_layer(name, given):
    """Return what a layer gives for these arguments of a function, None if none does the same."""
    layer, words = _LAYERS.get(name), [_ALIASES.get(word, word) for word in given]
    known = () if layer is None else inspect.signature(layer).parameters
    if layer is None or len({*words}) < len(words) or any(word not in known for word in words):
        return None
    return layer(**dict(zip(words, given.values(), strict=True)))


# They take the arguments of the functions, and return None for those that no layer has.
def _layer(type: str, x: Any, **settings: Any) -> Any:
    if not isinstance(x, Symbol) or not all(_is_exact(x, one) for one in settings.values()):
        return None
    return x.trace.add(type, [x], **settings)


def _is_exact(x, number):
    return isinstance(number, float) and x.trace.is_exact(number) or _is_whole(number) and abs(number) < 2**24


def _is_whole(number):
    return isinstance(number, int) and not isinstance(number, bool)


def _gelu(x, approximate="none"):
    if not isinstance(x, Symbol) or approximate not in ("none", "tanh"):
        return None
    return x.trace.add("GELU", [x], **{} if approximate == "none" else {"approximate": "TANH"})


def _softmax(x, axis=1):
    fits = isinstance(x, Symbol) and _is_whole(axis) and -x.ndim <= axis < x.ndim
    return x.trace.add("Softmax", [x], axis=axis) if fits else None


def _joined(xs, axis):
    alike = isinstance(xs, tuple | list) and xs and all(isinstance(x, Symbol) and x.ndim for x in xs)
    return xs[0].trace.add("Concat", list(xs), axis=axis) if alike and _is_whole(axis) else None


def _clamp(x, min=None, max=None):
    return None if min is None or max is None else _layer("Clip", x, min=min, max=max)


def _reshape(x, shape):
    fits = isinstance(x, Symbol) and isinstance(shape, tuple | list) and all(map(_is_whole, shape))
    return x.reshape(tuple(shape)) if fits and x.ndim and all(one > 0 or one == -1 for one in shape) else None


def _permute(x, order):
    if not isinstance(x, Symbol) or not isinstance(order, tuple | list) or not all(map(_is_whole, order)):
        return None
    fits = order and sorted(order) == list(range(x.ndim))
    return x.trace.add("Permute", [x], order=list(order)) if fits else None


def _exchanged(x, axes=()):
    if not isinstance(x, Symbol) or len(axes) not in (0, 2) or not all(map(_is_whole, axes)):
        return None
    if not axes:
        return _permute(x, list(range(x.ndim))[::-1])
    if not all(-x.ndim <= axis < x.ndim for axis in axes):
        return None
    order, (first, second) = list(range(x.ndim)), axes
    order[first], order[second] = order[second], order[first]
    return _permute(x, order)


def _flatten(x, axis=1, end_axis=-1):
    if not isinstance(x, Symbol) or not (_is_whole(axis) and _is_whole(end_axis)):
        return None
    exist = x.ndim and all(-x.ndim <= one < x.ndim for one in (axis, end_axis))
    if not exist or axis % x.ndim > end_axis % x.ndim:
        return None
    return x.trace.add("Flatten", [x], axis=axis, end_axis=end_axis)


def _reduced(operation):
    def reduce(x, axis=None, keepdims=False):
        if not isinstance(x, Symbol) or not x.ndim or not isinstance(keepdims, bool):
            return None
        axes = range(x.ndim) if axis is None else [axis] if _is_whole(axis) else axis
        if not isinstance(axes, range | tuple | list) or not axes or not all(map(_is_whole, axes)):
            return None
        gone = {one % x.ndim for one in axes if -x.ndim <= one < x.ndim}
        if len(gone) < len(axes):
            return None
        order = [one for one in range(x.ndim) if one not in gone] + sorted(gone)
        last = x if order == list(range(x.ndim)) else x.trace.add("Permute", [x], order=order)
        y = x.trace.add("Reduction", [last], operation=operation, axis=x.ndim - len(gone))
        return y.reshape([1 if i in gone else n for i, n in enumerate(x.shape)]) if keepdims else y
    return reduce


def _unsqueezed(x, axis):
    if not isinstance(x, Symbol) or not x.ndim or not _is_whole(axis):
        return None
    if axis not in range(-x.ndim - 1, x.ndim + 1):
        return None
    place = axis % (x.ndim + 1)
    return x.reshape((*x.shape[:place], 1, *x.shape[place:]))


def _squeezed(x, axis=None):
    axes = [axis] if _is_whole(axis) else axis      # all axes of length 1 would be others in another batch
    if not isinstance(x, Symbol) or not isinstance(axes, tuple | list) or not all(map(_is_whole, axes)):
        return None
    gone = {one % x.ndim for one in axes if -x.ndim <= one < x.ndim and x.shape[one] == 1}
    if len(gone) < len(axes) or len(gone) == x.ndim:
        return None
    return x.reshape([n for i, n in enumerate(x.shape) if i not in gone])


def _largest(a, b=None):
    xs = list(a) if b is None and isinstance(a, tuple | list) else []
    alike = all(isinstance(x, Symbol) for x in xs) and len({x.shape for x in xs}) == 1
    return xs[0].trace.add("Eltwise", xs, operation="MAX") if alike and len(xs) > 1 else None


def _of_two(operator):
    def compute(a, b):
        fits = all(isinstance(one, Symbol) or _is_number(one) for one in (a, b))
        return operator(a, b) if fits else None
    return compute


def _is_number(value):
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) < 1e38


_LAYERS: dict[str, Callable[..., Any]] = {
    "relu": lambda x, negative_slope=0.0: _layer("ReLU", x, negative_slope=negative_slope),
    "sigmoid": lambda x: _layer("Sigmoid", x), "tanh": lambda x: _layer("TanH", x), "gelu": _gelu,
    "elu": lambda x, alpha=1.0: _layer("ELU", x, alpha=alpha), "bnll": lambda x: _layer("BNLL", x),
    "swish": lambda x, beta=1.0: _layer("Swish", x, beta=beta), "absval": lambda x: _layer("AbsVal", x),
    "exp": lambda x: _layer("Exp", x), "log": lambda x: _layer("Log", x),
    "softmax": _softmax, "clamp": _clamp, "clip": lambda x, low=None, high=None: _clamp(x, low, high),
    "concat": lambda xs, axis=1: _joined(xs, axis), "cat": lambda xs, axis=0: _joined(xs, axis),
    "flatten": _flatten, "reshape": _reshape, "permute": _permute, "transpose": _exchanged,
    "squeeze": _squeezed, "unsqueeze": _unsqueezed,
    "sum": _reduced("SUM"), "mean": _reduced("MEAN"), "maximum": _largest,
    "add": _of_two(lambda a, b: a + b), "subtract": _of_two(lambda a, b: a - b),
    "multiply": _of_two(lambda a, b: a * b), "negative": lambda x: -x if isinstance(x, Symbol) else None,
    "pow": lambda a, b: a ** b if isinstance(a, Symbol) and _is_number(b) else None,
}
