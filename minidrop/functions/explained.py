"""Says which argument of a function is of another kind than it takes, where the function fails because of it.

A call that succeeds is looked at no further, so layers call the same functions as scripts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from minidrop.autograd import Tensor
from minidrop.errors import MinidropError, TensorError, kind_of

Function = TypeVar("Function", bound=Callable[..., Any])

_WHOLE, _REAL, _END = (int, np.integer), (int, float, np.integer, np.floating), 2**1024
_WORDS = {"Tensor": "a Tensor (md.tensor makes one)", "float": "a number", "int": "a whole number",
          "bool": "True or False", "str": "a text", "np.ndarray": "an array", "Sequence": "a list"}
_OPEN = ("Any", "Callable", "Along", "Axes", "Number")      # annotations that say nothing of a class


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1


_KINDS: dict[str, Callable[[Any], bool]] = {
    "Tensor": lambda value: isinstance(value, Tensor), "None": lambda value: value is None,
    "np.ndarray": lambda value: hasattr(value, "dtype") and not isinstance(value, Tensor),
    "float": lambda value: isinstance(value, _REAL) and not (isinstance(value, int) and abs(value) >= _END),
    "int": lambda value: isinstance(value, _WHOLE) and -2**63 <= int(value) < 2**63,
    "bool": lambda value: isinstance(value, bool | np.bool_), "str": lambda value: isinstance(value, str),
    "Sequence": _is_list, "tuple": _is_list, "list": _is_list,
}


def explained(function: Function) -> Function:
    """Return a function that raises TensorError in place of an error of Python's or NumPy's, see above."""
    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except MinidropError:
            raise
        except Exception as error:
            # Many take an array for a tensor: it is blamed last.
            if problem := _problem(function, args, kwargs, True) or _problem(function, args, kwargs, False):
                raise TensorError(f"{function.__name__}: {problem}") from error
            raise
    return call         # type: ignore[return-value]


def _problem(function, args, kwargs, arrays):
    """Return what is wrong with the kinds of the arguments of a call, "" if nothing is.

    arrays: whether one in place of a tensor is right.
    """
    signature = inspect.signature(function)
    try:
        given = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return ""
    for name, value in given.items():
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            continue
        hint = parameter.annotation
        kinds = (hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))).split(" | ")
        if arrays and "Tensor" in kinds and hasattr(value, "dtype"):
            continue
        if not any(_is(value, kind.partition("[")[0]) for kind in kinds):
            return f"{name}: expected {_said(kinds)}, got {kind_of(value)}"
    return ""


def _is(value, kind):
    """Whether a value is of a kind; a class goes by its name, which type checkers alone may have imported."""
    if kind in _KINDS:
        return _KINDS[kind](value)
    is_class = kind.isidentifier() and kind not in _OPEN
    return not is_class or any(kind == one.__name__ for one in type(value).__mro__)


def _said(kinds):
    names = [kind.partition("[")[0] for kind in kinds]
    return " or ".join(_WORDS.get(name, name) for name in names)
