"""Lets what stands for a tensor say what a function of it gives, as a Symbol of md.nn does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

_describers: dict[type, Callable[[Callable, tuple, dict], Any]] = {}


def describes(kind: type, describe: Callable[[Callable, tuple, dict], Any]) -> None:
    """Let describe(function, args, kwargs) answer for functions that are called with objects of a class."""
    _describers[kind] = describe


def described(function: Function) -> Function:
    """Return a function that asks who describes its arguments, if one of them, or of a list, is described."""
    @functools.wraps(function)
    def call(*args, **kwargs):
        for one in (*args, *kwargs.values()) if kwargs else args:
            kind = type(one)
            if kind is tuple or kind is list:
                kind = next((type(part) for part in one if type(part) in _describers), None)
            if kind in _describers:
                return _describers[kind](function, args, kwargs)
        return function(*args, **kwargs)
    return call         # type: ignore[return-value]
