"""Says which argument of a function is of another kind than it takes, where the function fails because of it.

A call that succeeds is looked at no further, so layers call the same functions as scripts. Of one that fails
though each argument is of its kind, all are shown, with what Python or NumPy says.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from minidrop.autograd import Tensor
from minidrop.errors import MinidropError, TensorError, in_short, kind_of
from minidrop.functions.torch_names import KEYWORDS, keyword_hint

Function = TypeVar("Function", bound=Callable[..., Any])

_WHOLE, _REAL, _END = (int, np.integer), (int, float, np.integer, np.floating), 2**1024
_WORDS = {"Tensor": "a Tensor (md.tensor makes one)", "float": "a number", "int": "a whole number",
          "bool": "True or False", "str": "a text", "np.ndarray": "an array", "Sequence": "a list",
          "tuple": "a tuple", "list": "a list", "Key": "a whole number from 0 to 2**64 - 1"}
# No FloatingPointError: a caller has asked NumPy for it.
_OF_VALUES = (AttributeError, LookupError, OverflowError, RecursionError, TypeError, ValueError,
              ZeroDivisionError)
_OPEN = ("Any", "Callable", "Along", "Axes", "Number", "Sizes")      # annotations that say nothing of a class


def _is_key(value: Any) -> bool:
    if isinstance(value, int):
        return 0 <= value < 2**64
    # of NumPy, or an array of a device: what it holds is not asked for
    return getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u") and not isinstance(value, Tensor)


def _got(value: Any) -> str:
    is_number = isinstance(value, _REAL) and not isinstance(value, bool)
    return in_short(value) if is_number else kind_of(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1


_KINDS: dict[str, Callable[[Any], bool]] = {
    "Tensor": lambda value: isinstance(value, Tensor), "None": lambda value: value is None,
    "np.ndarray": lambda value: hasattr(value, "dtype") and not isinstance(value, Tensor),
    "float": lambda value: isinstance(value, _REAL) and not (isinstance(value, int) and abs(value) >= _END),
    "int": lambda value: isinstance(value, _WHOLE) and -2**63 <= int(value) < 2**63,
    "bool": lambda value: isinstance(value, bool | np.bool_), "str": lambda value: isinstance(value, str),
    "Key": _is_key, "Sequence": _is_list, "tuple": _is_list, "list": _is_list,
}


def explained(function: Function) -> Function:
    """Return a function that raises TensorError in place of an error of Python's or NumPy's, see above.

    A call that Python itself refuses and a lack of memory stay as they are, but a keyword that is unknown
    comes with those that are known, and one argument too many with what is taken by position and by name.
    """
    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except MinidropError:
            raise
        except Exception as error:
            of_values = isinstance(error, _OF_VALUES) or type(error).__module__.startswith("numba.")
            given = _given(function, args, kwargs) if of_values else {}
            if not given:
                if isinstance(error, TypeError):
                    _refuse_keywords(function, args, kwargs)
                    _refuse_positions(function, args)
                raise
            # Many take an array for a tensor: it is blamed last.
            problem = _problem(function, given, True) or _problem(function, given, False)
            raise TensorError(f"{_name_of(function, args)}: {problem or _in_all(given, error)}") from error
    return call         # type: ignore[return-value]


def says_arguments(function: Function) -> Function:
    """Return a function that says, where Python refuses a keyword or a place, which it takes, as `explained`.

    All else that it raises stays as it is.
    """
    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except TypeError:
            _refuse_keywords(function, args, kwargs)
            _refuse_positions(function, args)
            raise
    return call         # type: ignore[return-value]


def explain_methods(owner: type) -> None:
    """Let the public methods of a class's body say which argument is of another kind: `explained`."""
    for name, method in list(vars(owner).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(owner, name, explained(method))


def explain_making(kind: type) -> None:
    """Let the constructor of a class say which argument is of another kind, as `explained` does.

    It may be that of a base in the same module.
    """
    owner = next(one for one in kind.__mro__ if "__init__" in vars(one))
    if owner.__module__ == kind.__module__ and not hasattr(vars(owner)["__init__"], "__wrapped__"):
        owner.__init__ = explained(vars(owner)["__init__"])     # type: ignore[misc]


def _given(function, args, kwargs):
    """Return the arguments of a call by their names; {} if the function cannot be called with them."""
    try:
        given = inspect.signature(function).bind(*args, **kwargs).arguments
    except TypeError:
        return {}
    return {name: value for name, value in given.items() if name != "self"}


def _refuse_keywords(function, args, kwargs):
    """Raise TypeError for a keyword that a function does not take, and say what to write for PyTorch's."""
    parameters = [one for name, one in inspect.signature(function).parameters.items() if name != "self"]
    is_open = any(one.kind is one.VAR_KEYWORD for one in parameters)
    takes = ", ".join("*" * (one.kind is one.VAR_POSITIONAL) + one.name for one in parameters)
    known = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    for name in kwargs:
        if name not in known and (not is_open or name in KEYWORDS):
            raise TypeError(f"{_name_of(function, args)} takes {takes or 'no arguments'}; got {name!r}"
                            f"{keyword_hint(name, known)}") from None


def _refuse_positions(function, args):
    """Raise TypeError where more arguments are given by position than a function takes so."""
    parameters = [one for name, one in inspect.signature(function).parameters.items() if name != "self"]
    placed = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    got = len(args) - ("self" in inspect.signature(function).parameters)
    if got <= len(placed) or any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return
    named = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    named += ["settings of the layer"] * any(one.kind is one.VAR_KEYWORD for one in parameters)
    first = f"{len(placed)} argument{'s' * (len(placed) != 1)} by position ({', '.join(placed)})"
    raise TypeError(f"{_name_of(function, args)} takes {first if placed else 'no argument by position'}, got "
                    f"{got}{'; by name it takes ' * bool(named)}{', '.join(named)}") from None


def _name_of(function, args):
    """Return the name of a function, of a constructor that of the class of what it makes."""
    return type(args[0]).__name__ if function.__name__ == "__init__" else function.__name__


def _in_all(given, error):
    """Return what all arguments of a call are, and why it failed."""
    words = ", ".join(f"{name} = {in_short(value)}" for name, value in given.items())
    reason = (str(error).splitlines() or [""])[0]
    return f"cannot take {words} ({type(error).__name__}: {reason:.100})"


def _problem(function, given, arrays):
    """Return what is wrong with the kinds of the arguments of a call, "" if nothing is.

    arrays: whether one in place of a tensor is right.
    """
    parameters = inspect.signature(function).parameters
    for name, value in given.items():
        parameter = parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL or parameter.kind is parameter.VAR_KEYWORD:
            continue
        hint = parameter.annotation
        kinds = (hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))).split(" | ")
        if arrays and "Tensor" in kinds and hasattr(value, "dtype"):
            continue
        if not any(_is(value, kind.partition("[")[0]) for kind in kinds):
            return f"{name}: expected {_said(kinds)}, got {_got(value)}"
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
