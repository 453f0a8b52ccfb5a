"""What is said of a module where it is made, and holds from then on."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, NoReturn

import numpy as np

from minidrop.errors import ConfigError

REMEDY = ("said where the module is made; make another module, and give it this one's "
          "load_state_dict(state_dict())")
_READ_LATER = ("type", "inputs", "tops", "stateful")        # attributes of every Layer, which each net reads


class Settings(dict):
    """The settings of a layer, to read. Raises ConfigError where one is changed: nets have read them."""

    def __init__(self, settings: Mapping[str, Any], kind: str):
        super().__init__(settings)
        self.kind = kind

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ConfigError(f"{self.kind}: settings are {REMEDY}")

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = setdefault = clear = _refuse

    def __deepcopy__(self, memo: dict) -> Settings:
        return Settings(copy.deepcopy(dict(self), memo), self.kind)


@cache
def _constructors(kind: Any) -> tuple[inspect.Signature, frozenset[str]]:
    """Return the signature of a class, and which of its arguments it reads when an object is made alone.

    Those are the arguments of the class of minidrop's that it is or extends.
    """
    own = next(one for one in kind.__mro__ if one.__module__.startswith("minidrop."))
    taken = inspect.signature(own.__init__).parameters.values()
    names = {one.name for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return inspect.signature(kind.__init__), frozenset(names - {"self", *_READ_LATER})


def given_to(module: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return {argument: value} of what a module is made with, as far as its attributes do not change it."""
    kind: Any = type(module)
    signature, names = _constructors(kind)
    if not names:
        return {}
    try:
        bound = signature.bind(module, *args, **kwargs)
    except TypeError:       # the constructor raises it
        return {}
    bound.apply_defaults()
    return {name: bound.arguments.get(name) for name in names}


def refuse_argument(module: Any, name: str, value: Any) -> None:
    """Raise ConfigError for an attribute that looks as if it changed what the module was made with.

    Not for one that has the value that was given, as a constructor may store it, nor while a class of a
    user's own, with attributes of its own, may still be in its constructor: before it is held or called.
    """
    own = vars(module)
    if name not in own.get("_given", ()) or name in own or hasattr(value, "forward"):
        return
    is_done = type(module).__module__.startswith("minidrop.") or own["_parents"] or own["_nets"].built
    if is_done and not _is_same(value, own["_given"][name]):
        raise ConfigError(f"{module.describe()}: {name} is a setting, {REMEDY}")


def _is_same(value, given):
    try:
        return value is given or type(value) is type(given) and bool(np.array_equal(value, given))
    except (TypeError, ValueError):
        return False
