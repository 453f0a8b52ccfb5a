"""Nested tuples, lists and dicts: taken apart into their leaves and what is left, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minidrop.errors import ConfigError

LEAF = ("leaf",)
CONSTANTS = (bool, int, float, str, type(None))


def take_apart(value: Any, is_leaf: Callable[[Any], bool], leaves: list, where: str,
               constants: Any = CONSTANTS) -> tuple:
    """Append the leaves of a nested value to `leaves`; returns the rest, hashable, for `put_together`.

    What is no leaf must be a tuple, list or dict, or one of `constants`: a bool, int, float, str or None.
    Raises ConfigError, which begins with `where`, for anything else.
    """
    try:
        return _taken_apart(value, is_leaf, leaves, where, constants)
    except RecursionError:
        raise ConfigError(f"{where}: lists and dicts are nested too deeply") from None


def _taken_apart(value, is_leaf, leaves, where, constants):
    if is_leaf(value):
        leaves.append(value)
        return LEAF
    if isinstance(value, tuple | list | dict):
        what, parts = (("mapping", tuple(value)), value.values()) if isinstance(value, dict) else (
            ("sequence", type(value)), value)
        return *what, tuple(_taken_apart(one, is_leaf, leaves, where, constants) for one in parts)
    if isinstance(value, constants):
        return "constant", type(value), value
    raise ConfigError(f"{where}: expected arrays or Tensors, numbers, text, None, or tuples, lists and dicts "
                      f"of them, got {type(value).__name__}")


def leaves_of(value: Any) -> Iterator[Any]:
    """Yield what a nested value is made of, of whatever type."""
    if isinstance(value, tuple | list):
        for one in value:
            yield from leaves_of(one)
    elif isinstance(value, dict):
        yield from leaves_of(tuple(value.values()))
    else:
        yield value


def put_together(rest: tuple, leaves: Sequence[Any]) -> Any:
    """Return the nested value of what `take_apart` gave, with these leaves."""
    return _put(rest, iter(leaves))


def _put(rest, leaves):
    kind, *parts = rest
    if kind == "leaf":
        return next(leaves)
    if kind == "constant":
        return parts[1]
    values = [_put(one, leaves) for one in parts[1]]
    if kind == "mapping":
        return dict(zip(parts[0], values, strict=True))
    make = parts[0]
    return make(*values) if hasattr(make, "_fields") else make(values)
