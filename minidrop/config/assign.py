"""Sets fields of messages from plain Python values."""

import operator
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor as F

from minidrop.config.check import FLOAT32_END, expected, is_character, is_repeated
from minidrop.errors import ConfigError, in_short, nearest


def assign(message: Any, name: str, value: Any, where: str = "") -> None:
    """Set a field from plain Python values: dicts for messages, lists for repeated fields, names for enums.

    A BlobShape may be a list of integers, a list an array of one axis. Raises ConfigError, prefixed with
    `where`, for a value that does not fit.
    """
    field = message.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise ConfigError(f"{where}: {message.DESCRIPTOR.name} has no field {name!r}"
                          f"{nearest(name, message.DESCRIPTOR.fields_by_name)}")
    if not is_repeated(field):
        if field.message_type is None:
            setattr(message, name, _scalar(field, value, where))
        else:
            _fill(getattr(message, name), value, name, where)
        return
    if field.message_type is None:
        value = _plain(value)
        values = value if isinstance(value, list) else [value]
        del getattr(message, name)[:]
        getattr(message, name).extend(_scalar(field, one, where) for one in values)
        return
    value = _plain(value)
    one = isinstance(value, dict) or (field.message_type.name == "BlobShape" and isinstance(value, list)
                                      and not any(isinstance(_plain(part), list | dict) for part in value))
    message.ClearField(name)
    for part in [value] if one else value if isinstance(value, list) else [value]:
        _fill(getattr(message, name).add(), part, name, where)


def _plain(value):
    """Return a tuple, an array of one axis or a number of NumPy's as Python has it."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _fill(message, value, name, where):
    value = _plain(value)
    if message.DESCRIPTOR.name == "BlobShape" and isinstance(value, list):
        value = {"dim": value}
    if isinstance(value, type(message)):
        message.CopyFrom(value)
    elif isinstance(value, dict):
        message.SetInParent()
        for key, part in value.items():
            assign(message, key, part, where)
    else:
        kind = message.DESCRIPTOR.name
        raise ConfigError(f"{where}: '{name}' takes a dict of {kind}'s fields, got {in_short(value)}")


def _scalar(field, value, where):
    value = _plain(value)
    wanted = expected(field).replace(" in quotes", "")
    problem = ConfigError(f"{where}: '{field.name}' takes {wanted}, got {in_short(value)}")
    if field.type == F.TYPE_ENUM and isinstance(value, str):
        if value not in field.enum_type.values_by_name:
            raise problem
        return field.enum_type.values_by_name[value].number
    if field.type == F.TYPE_STRING:
        if not isinstance(value, str) or not all(map(is_character, value)):
            raise problem
        return value
    if field.type == F.TYPE_BOOL:
        if not isinstance(value, bool | int) or value not in (0, 1):
            raise problem
        return bool(value)
    try:
        if isinstance(value, str | bool):       # a True that was meant for another setting would be 1
            raise problem
        number = float(value) if field.type == F.TYPE_FLOAT else operator.index(value)
        if not _FITS[field.type](number, field):
            raise problem
    except (TypeError, ValueError, OverflowError):
        raise problem from None
    return number


_FITS = {F.TYPE_INT32: lambda n, _: -2**31 <= n < 2**31, F.TYPE_UINT32: lambda n, _: 0 <= n < 2**32,
         F.TYPE_INT64: lambda n, _: -2**63 <= n < 2**63, F.TYPE_FLOAT: lambda n, _: abs(n) < FLOAT32_END,
         F.TYPE_ENUM: lambda n, field: n in field.enum_type.values_by_number}
