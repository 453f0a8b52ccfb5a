"""Formats values of a net's outputs as text and as JSON."""

import json
import math
from typing import Any

from minidrop.cli.console import echo
from minidrop.errors import visible_name


def number(value: Any) -> str:
    """Return a number as short text, or a list of them in brackets."""
    return "[" + ", ".join(map(number, value)) + "]" if isinstance(value, list) else f"{value:.6g}"


def as_text(values: Any) -> str:
    """Return values by name as text such as "accuracy = 0.98, loss = 0.07"."""
    return ", ".join(f"{visible_name(name)} = {number(value)}" for name, value in values.items())


def print_json(record: Any) -> None:
    """Print JSON to read: what --json gives."""
    echo(as_json(record, 1))


def as_json(record: Any, indent: int | None = None) -> str:
    """Return JSON, by default in one line; NaN and infinities, which JSON lacks, become null."""
    return json.dumps(_finite(record), allow_nan=False, indent=indent)


def _finite(value):
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
