"""Overrides: changes to a configuration without editing its file (--set)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minidrop.config.check import expected, is_character, is_repeated, problem_of, value_of
from minidrop.config.load import NetConfig
from minidrop.config.minidrop_pb2 import LayerParameter
from minidrop.errors import ConfigError, nearest

if TYPE_CHECKING:
    from minidrop.config.load import SolverConfig

_STEP = re.compile(r"([A-Za-z_]\w*)(?:\[(\d+)\])?\Z")


def split_overrides(assignments: tuple) -> tuple[list, list]:
    """Return (overrides of a solver file, those that begin with "layer."), as lists of "path=value"."""
    texts = _texts(assignments)
    layers = [text for text in texts if text.startswith("layer.")]
    return [text for text in texts if not text.startswith("layer.")], layers


def apply_overrides(config: SolverConfig | list[NetConfig], assignments: Sequence[str]) -> None:
    """Change the message of a NetConfig or SolverConfig, or of several, in place.

    An assignment is "field=value" or, for every layer of a name, "layer.NAME.field.field=value"; a mapping
    {"field": value} is also accepted. A repeated field takes "[1, 2]" or one value, which replaces all its
    elements; "field[1]=value" changes one element, or appends one. Raises ConfigError unless each assignment
    fits at least one configuration: a network with such a layer, or a configuration with such a field.
    """
    configs = list(config) if isinstance(config, list | tuple) else [config]
    for text in _texts(assignments):
        if not all(is_character(c) for c in text):
            raise ConfigError(f"--set {text!r}: holds a NUL or a lone surrogate, which is no text")
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set {text}: expected FIELD=VALUE, such as base_lr=0.05")
        path, value, where = path.strip(), value.strip(), f"--set {text}"
        if path.startswith("layer."):
            _set_in_layers(configs, path[len("layer."):], value, where)
        else:
            _set_in_fields(configs, path, value, where)


def _texts(assignments):
    if isinstance(assignments, str):
        return [assignments]
    if hasattr(assignments, "items"):
        return [f"{path}={_as_text(value)}" for path, value in assignments.items()]
    return list(assignments)


def _as_text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_as_text, value)) + "]"
    return str(value)


def _set_in_layers(configs, path, value, where):
    nets = [config for config in configs if isinstance(config, NetConfig)]
    names = [layer.name for net in nets for layer in net.message.layer]
    fitting = [name for name in set(names) if path.startswith(name + ".")]
    if not fitting:
        name = re.sub(r"\.[a-z_]+(\[\d+\])?(\.[a-z_]+(\[\d+\])?)*\Z", "", path)
        raise ConfigError(f"{where}: no layer is called '{name}'{nearest(name, names)}")
    name = max(fitting, key=len)
    steps = path[len(name) + 1:]
    for net in nets:
        for layer in net.message.layer:
            if layer.name == name:
                _assign(layer, steps, value, where)


def _set_in_fields(configs, path, value, where):
    first = path.partition(".")[0].partition("[")[0]
    fitting = [config for config in configs if first in config.message.DESCRIPTOR.fields_by_name]
    if not fitting:
        known = {name: None for config in configs for name in config.message.DESCRIPTOR.fields_by_name}
        hint = nearest(first, known)
        if first in LayerParameter.DESCRIPTOR.fields_by_name:
            hint = f"; a layer's field is set with layer.NAME.{path}=..."
        kinds = " or ".join(dict.fromkeys(config.message.DESCRIPTOR.name for config in configs))
        raise ConfigError(f"{where}: {kinds} has no field {first!r}{hint}")
    for config in fitting:
        _assign(config.message, path, value, where)


def _assign(message, path, value, where):
    """Follow the dotted path from `message` and set its last field."""
    steps = path.split(".")
    for i, step in enumerate(steps):
        match = _STEP.match(step)
        if not match:
            raise ConfigError(f"{where}: {step!r} is no field name; expected NAME or NAME[INDEX]")
        name, index = match.group(1), match.group(2) and int(match.group(2)[:9])
        field = message.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            raise ConfigError(f"{where}: {message.DESCRIPTOR.name} has no field {name!r}"
                              f"{nearest(name, message.DESCRIPTOR.fields_by_name)}")
        if index is not None and not is_repeated(field):
            raise ConfigError(f"{where}: '{name}' holds one value; leave out [{index}]")
        if i == len(steps) - 1:
            _set_value(message, field, index, value, where)
        elif field.message_type is None:
            raise ConfigError(f"{where}: '{name}' takes {expected(field)}; it has no fields of its own")
        elif is_repeated(field):
            message = _element(message, field, index, where)
        else:
            message = getattr(message, name)


def _element(message, field, index, where):
    """Return element `index` of a repeated message, appending a new one if it is the next."""
    values = getattr(message, field.name)
    if index is None:
        raise ConfigError(f"{where}: '{field.name}' is repeated; say which one: {field.name}[0]")
    _check_index(values, field, index, where)
    return values[index] if index < len(values) else values.add()


def _check_index(values, field, index, where):
    if index > len(values):
        raise ConfigError(f"{where}: '{field.name}' has {len(values)} elements; expected an index from 0 to "
                          f"{len(values)}, got {index}")


def _set_value(message, field, index, text, where):
    if field.message_type is not None:
        inner = ", ".join(field.message_type.fields_by_name)
        raise ConfigError(f"{where}: '{field.name}' is a message; set one of its fields: {inner}")
    if not is_repeated(field):
        setattr(message, field.name, _value(field, text, where))
        return
    values = getattr(message, field.name)
    if index is not None:
        _check_index(values, field, index, where)
        value = _value(field, text, where)
        values[index:index + 1] = [value]
        return
    listed = text.startswith("[") and text.endswith("]")
    parts = [part.strip() for part in text[1:-1].split(",")] if listed else [text]
    new = [_value(field, part, where) for part in parts if part or not listed]
    values[:] = new


def _value(field, text, where):
    """Return the Python value of a text for a field that is not a message."""
    if field.type == field.TYPE_STRING:
        quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
        return text[1:-1] if quoted else text
    problem = problem_of(text, field)
    if problem:
        raise ConfigError(f"{where}: {problem}")
    return value_of(text, field)
