"""Checks a scanned file against the schema: unknown names, wrong values and duplicates, with positions."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf import text_encoding, text_format
from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import Message

from minidrop.config.fields import layer_types, unknown_type, unknown_v1_type
from minidrop.config.forks import RENAMED, foreign_engine, foreign_field
from minidrop.config.source_map import locate
from minidrop.errors import MOST_MISTAKES, ConfigError, nearest

if TYPE_CHECKING:
    from minidrop.config.source_map import SourceMap

log = logging.getLogger(__name__)

FLOAT32_END = 3.4028235677973366e38        # numbers from here on round to an infinite float32
_LINES_NAMED = 5


def check(source: SourceMap, descriptor: Message, other: Message | None = None,
          ignore_unknown: bool = False) -> list[tuple[tuple[int, int], str, str]]:
    """Raise one ConfigError with all problems of a scanned file, "file:line:column: ...", in file order.

    `descriptor` is that of the message in the file; `other` that of one it may contain by mistake.
    `ignore_unknown`: a field, or an `engine`, that the schema lacks is no problem; a warning names it. Layer
    types are. Returns (place, text, another) for each value that the parser is to read as another.
    """
    problems = _Problems(ignore_unknown)
    _check_message(source.entries, descriptor, problems, other)
    if problems or problems.foreign:
        problems += problems.types
        problems.sort(key=lambda problem: problem[0])
        shown = problems[:MOST_MISTAKES]
        raise ConfigError.of([f"{locate(source.name, place)}: {say() if callable(say) else say}"
                              for place, say in shown], len(problems) - len(shown))
    problems.warn_of_ignored(source.name)
    return problems.replaced


class _Problems(list):
    """The mistakes of a file as (place, text or a function that returns it).

    `types`: the mistakes of unknown layer types. The net reports them with all its other mistakes, but it is
    not built if there are mistakes here or `foreign` settings of such a layer.
    `ignored`: {(message, field, value or ""): places} of unknown fields and values to be passed over; None:
    they are mistakes. `replaced`: the places of these values, see `check`.
    """

    def __init__(self, ignore_unknown):
        self.types, self.foreign, self.replaced = [], False, []
        self.ignored = {} if ignore_unknown else None

    def ignore(self, message, field, value, place):
        """Pass over an unknown field, or an unknown value of a field."""
        self.ignored.setdefault((message, field, value), []).append(place)

    def warn_of_ignored(self, name):
        """Log a warning for each ignored field: where it first stands, what happens without it."""
        found = list((self.ignored or {}).items())
        for (message, field, value), places in found[:MOST_MISTAKES]:
            log.warning("%s: %s of %s is ignored%s%s", locate(name, places[0]),
                        f"{field}: {_short(value)[1:-1]}" if value else _short(field), message,
                        _what_engine(value) if value else _what_then(message, field), _also(places[1:]))
        if len(found) > MOST_MISTAKES:
            log.warning("%s: ... and %d more fields are ignored", name, len(found) - MOST_MISTAKES)


def _check_message(entries, descriptor, problems, other=None):
    first, is_foreign, is_swapped = {}, False, False
    if descriptor.name == "LayerParameter":
        kind = _text_of(entries, "type")
        is_foreign = bool(kind) and kind not in layer_types
        if is_foreign:
            place = entries.by_name["type"][0].value_place
            problems.types.append((place, partial(_unknown_type, _text_of(entries, "name"), kind)))
    elif descriptor.name == "V1LayerParameter":     # an unknown type is a mistake among the values
        field = descriptor.fields_by_name["type"]
        is_foreign = any(entry.kind not in ("message", "string") and problem_of(entry.text, field)
                         for entry in entries.by_name.get("type", ()))
    for entry in entries:
        field = descriptor.fields_by_name.get(entry.name)
        if field is None and is_foreign and entry.name.endswith("_param"):
            problems.foreign = True
            continue
        if field is None:
            if _is_swapped(entry.name, descriptor, other):
                if not is_swapped:          # one mistake, however many fields show it
                    problems.append((entry.place, partial(_unknown, entry, descriptor, other)))
                is_swapped = True
            elif problems.ignored is None:
                problems.append((entry.place, partial(_unknown, entry, descriptor, other)))
            else:
                problems.ignore(descriptor.name, entry.name, "", entry.place)
            continue
        if not is_repeated(field):
            if entry.in_list:
                if field.name not in first:
                    problems.append((entry.place, f"'{field.name}' takes one value, not a list"))
            elif field.name in first:
                problems.append((entry.place, f"'{field.name}' is given twice; the first is in line "
                                              f"{first[field.name]}"))
            first.setdefault(field.name, entry.place[0])
        problem = _check_value(entry, field, problems)
        if problem:
            problems.append((entry.value_place, problem))


def _check_value(entry, field, problems):
    if field.message_type is not None:
        if entry.kind != "message":
            return f"'{field.name}' is a message; write `{field.name} {{ ... }}`"
        _check_message(entry.children, field.message_type, problems)
        return None
    if entry.kind == "message":
        return f"'{field.name}' takes {expected(field)}, not a message in braces"
    if entry.kind == "string":
        if field.type != field.TYPE_STRING:
            return f"'{field.name}' takes {expected(field)} without quotes, got {_short(''.join(entry.text))}"
        return _check_string(entry, field)
    problem = problem_of(entry.text, field)
    if problem and _is_engine(field) and problems.ignored is not None:
        problems.ignore(field.containing_type.name, field.name, entry.text, entry.value_place)
        default = field.enum_type.values_by_number[field.default_value].name
        problems.replaced.append((entry.value_place, entry.text, default))
        return None
    return problem


def _is_engine(field):
    """Whether a field chooses how something is computed, never what: forks have more values than Caffe."""
    return field.name == "engine" and field.type == field.TYPE_ENUM


def problem_of(text: str, field: F) -> str | None:
    """Return what is wrong with `text` as the value of a field that is not a message, or None."""
    if field.type == field.TYPE_STRING:
        return f"'{field.name}' takes text in quotes: write {field.name}: \"{_short(text)[1:-1]}\""
    try:
        value = value_of(text, field)
    except ValueError:
        if field.type == field.TYPE_ENUM:
            if field.full_name.endswith("V1LayerParameter.type") and (known := unknown_v1_type(text)):
                return known
            names = [value.name for value in field.enum_type.values]
            fork = foreign_engine(text) if _is_engine(field) else ""
            hint = (f"; {fork} has it: leave it out, or ignore it with --ignore-unknown; only speed changes"
                    if fork else nearest(text, names))
            return f"'{field.name}' has no value {_short(text)}; its values are {', '.join(names)}{hint}"
        return f"'{field.name}' takes {expected(field)}, got {_short(text)}"
    if field.type == field.TYPE_FLOAT and not abs(value) < FLOAT32_END:
        return f"'{field.name}' takes a finite 32-bit number, got {_short(text)}"
    return None


def value_of(text: str, field: F) -> float:
    """Return the value of a text for a field that is neither message nor string; may raise ValueError."""
    if field.type == field.TYPE_ENUM:
        return text_format.ParseEnum(field, text)
    return _PARSERS[field.type](text)


def _parse_integer(signed, long):
    return lambda text: text_format.ParseInteger(text, is_signed=signed, is_long=long)


_PARSERS = {F.TYPE_BOOL: text_format.ParseBool, F.TYPE_FLOAT: text_format.ParseFloat,
            F.TYPE_DOUBLE: text_format.ParseFloat,
            F.TYPE_INT32: _parse_integer(True, False), F.TYPE_UINT32: _parse_integer(False, False),
            F.TYPE_INT64: _parse_integer(True, True)}
_EXPECTED = {F.TYPE_BOOL: "true or false", F.TYPE_STRING: "text in quotes", F.TYPE_FLOAT: "a number",
             F.TYPE_DOUBLE: "a number",
             F.TYPE_INT32: "an integer (32-bit)", F.TYPE_INT64: "an integer (64-bit)",
             F.TYPE_UINT32: "an integer from 0 to 4294967295"}


def is_repeated(field: F) -> bool:
    """Return whether a field is repeated, in every supported protobuf release."""
    try:
        return field.is_repeated
    except AttributeError:                     # protobuf 6.30 has only the label, later releases deprecate it
        return field.label == field.LABEL_REPEATED


def expected(field: F) -> str:
    """Return in words what a field that is not a message takes."""
    if field.type == field.TYPE_ENUM:
        return f"one of {', '.join(value.name for value in field.enum_type.values)}"
    return _EXPECTED[field.type]


def _check_string(entry, field):
    try:
        text = _unescaped(entry)
    except ValueError:
        return (f"'{field.name}' holds an escape that stands for no character; write the character itself, "
                f"got {_short(''.join(entry.text))}")
    if "\0" in text:
        return f"'{field.name}' may not hold a NUL character"
    return None


def _text_of(entries, name):
    """Return the text that a message gives for a string field, "" if it gives none."""
    entry = entries.by_name.get(name, [None])[0]
    try:
        return _unescaped(entry) if entry is not None and entry.kind == "string" else ""
    except ValueError:
        return ""


def _unescaped(entry):
    """Return the text of a string as written; raises ValueError if an escape stands for no character."""
    if not all(_ESCAPED.fullmatch(part) for part in entry.text):
        raise ValueError(entry.text)
    return b"".join(text_encoding.CUnescape(part[1:-1]) for part in entry.text).decode("utf-8")


def _unknown_type(layer, kind):
    return f"layer {layer!r}: {unknown_type(kind)}"


def _is_swapped(name, descriptor, other):
    """Whether a field belongs to the other kind of file, which is read as this one by mistake."""
    return other is not None and name in other.fields_by_name and name not in descriptor.fields_by_name


def _also(places):
    """Return where else a field stands, e.g. " (also in lines 7, 9)", or ""."""
    lines = [str(line) for line, _ in places]
    more = f" and {len(lines) - _LINES_NAMED} more" * (len(lines) > _LINES_NAMED)
    return f" (also in line{'s' * (len(lines) > 1)} {', '.join(lines[:_LINES_NAMED])}{more})" * bool(lines)


def _what_then(message, field):
    """Return ": it is of ...; without it ..." for a field of a known fork, otherwise that none is known."""
    found = foreign_field(message, field)
    if found is None:
        return ": no known fork of Caffe has this field; what it would change is not known"
    return f": it is of a fork of Caffe, {found.fork}; without it {found.without}"


def _what_engine(value):
    """Return the same for a value of an `engine`."""
    fork = foreign_engine(value)
    return f": it is of a fork of Caffe, {fork}; without it only speed changes" if fork else (
        ": no known fork of Caffe has this value; only speed changes")


def _unknown(entry, descriptor, other):
    name = entry.name
    if _is_swapped(name, descriptor, other):
        return (f"'{name}' belongs to a {_FILES[other.name]} file, and this is read as a "
                f"{_FILES[descriptor.name]} file; are the two swapped?")
    if foreign_field(descriptor.name, name) is not None:
        own = RENAMED.get((descriptor.name, name))
        return (f"{descriptor.name} has no field '{name}'{_what_then(descriptor.name, name)}; " + (
            f"write {own} in its place" if own else "delete it, or ignore such fields with --ignore-unknown"))
    if descriptor.name == "LayerParameter" and name in _OF_V1:
        return f"'{name}' is of the old `layers {{ }}`; in `layer {{ }}` write {_OF_V1[name]}"
    inside = [field.name for field in descriptor.fields
              if field.message_type is not None and name in field.message_type.fields_by_name]
    hint = nearest(name, descriptor.fields_by_name)
    if inside and not hint and len(inside) <= 5:
        hint = "; it belongs inside " + " or ".join(f"{field} {{ }}" for field in inside)
    return f"{descriptor.name} has no field {_short(name)}{hint}"


# What may follow a backslash; protobuf's Python reader misreads \\u, and only warns of unknown escapes.
_ESCAPE = r"""[abfnrtv\\'"]|x[0-9A-Fa-f]{1,2}|[0-3][0-7]{2}|[0-7]{1,2}(?![0-7])"""
_ESCAPED = re.compile(rf"(?:[^\\]|\\(?:{_ESCAPE}))*")
_OF_V1 = {"blobs_lr": "param { lr_mult: ... }", "weight_decay": "param { decay_mult: ... }",
          "blob_share_mode": "param { share_mode: ... }"}
_FILES = {"NetParameter": "network", "SolverParameter": "solver"}


def check_strings(message: Message, name: str) -> None:
    """Raise ConfigError if text in a message is none: one that was bytes may hold any, and protobuf lets it.

    name: what begins the error's message. Arrays are passed over.
    """
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for one in value if is_repeated(field) else [value]:
                if not isinstance(one, str):
                    raise ConfigError(f"{name}: {field.name} holds {one[:40]!r}, which is no UTF-8 text; is "
                                      f"the file whole?")
        elif field.message_type is not None and field.message_type.name != "BlobProto":
            for one in value if is_repeated(field) else [value]:
                check_strings(one, name)


def is_character(c: str) -> bool:
    """Return whether names and values may contain this character: any but NUL and lone surrogates."""
    return c != "\0" and not "\ud800" <= c <= "\udfff"


def _short(text):
    text = re.sub(r"[\x00-\x1f\x7f]", "?", text)
    return repr(text if len(text) <= 60 else text[:57] + "...")
