"""Make docs/config_reference.md from minidrop.proto's comments: python scripts/generate_docs.py [--check]

Needs no protoc: it reads the .proto's lines, and takes types and defaults from the generated module.
"""

import argparse
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROTO = ROOT / "minidrop/config/minidrop.proto"
REFERENCE = ROOT / "docs/config_reference.md"
sys.path.insert(0, str(ROOT))

from minidrop.config import minidrop_pb2  # noqa: E402  (the line above finds it where nothing is installed)
from minidrop.config.check import is_repeated  # noqa: E402

_OPENING = re.compile(r"\s*(?:message|enum) (\w+) \{")
_FIELD = re.compile(r"\s*(?:optional|repeated) [\w.]+ (\w+) = \d+")
_VALUE = re.compile(r"\s*([A-Z]\w*) = \d+;")

_HEAD = """# Config reference

Everything a network file (`NetParameter`) and a solver file (`SolverParameter`) may say, in protobuf's text
format. Where Caffe has a field, name, number and default are Caffe's; minidrop's own have numbers from
5000 up.

Made from `minidrop/config/minidrop.proto` by `python scripts/generate_docs.py`; edit the comments
there, not this page.
"""


def comments():
    """Return {"Message": comment, "Message.field": ..., "Message.Enum.VALUE": ...}; exits where none is."""
    found, scope, comment = {}, [], []
    for number, line in enumerate(PROTO.read_text().splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("//"):
            comment.append(stripped[2:].strip())
            continue
        opening, named = _OPENING.match(line), _FIELD.match(line) or _VALUE.match(line)
        if opening or named:
            name = ".".join([*scope, (opening or named).group(1)])
            if not comment:
                sys.exit(f"generate_docs.py: {PROTO.name}:{number}: {name} has no comment above it")
            found[name] = " ".join(comment)
        if opening:
            scope.append(opening.group(1))
        elif stripped == "}":
            scope.pop()
        comment = []
    return found


def reference():
    """Return the text of docs/config_reference.md."""
    found, file = comments(), minidrop_pb2.DESCRIPTOR
    names = [name for name in found if "." not in name]
    parts = [_HEAD, "Messages: " + ", ".join(f"[{name}](#{name.lower()})" for name in names) + ".\n"]
    for name in names:
        if name in file.message_types_by_name:
            parts.append(_message(name, file.message_types_by_name[name], found))
        else:
            values = _values(name, file.enum_types_by_name[name], found)
            parts.append(f"## {name}\n\n{found[name]}\n\n{values}")
    return "\n".join(parts)


def _message(name, message, found):
    lines = [f"## {name}\n", f"{found[name]}\n", "| field | type | default | number | meaning |",
             "|---|---|---|---|---|"]
    for field in message.fields:
        lines.append(f"| `{field.name}` | {_type(field)} | {_default(field)} | {field.number} | "
                     f"{_cell(found[f'{name}.{field.name}'])} |")
    for enum in message.enum_types:
        scope = f"{name}.{enum.name}"
        lines.append(f"\n`{enum.name}`: {found[scope]}\n\n{_values(scope, enum, found)}".rstrip("\n"))
    return "\n".join(lines) + "\n"


def _values(name, enum, found):
    return "".join(f"- `{value.name}`: {found[f'{name}.{value.name}']}\n" for value in enum.values)


def _type(field):
    kinds = {field.TYPE_BOOL: "true or false", field.TYPE_STRING: "text", field.TYPE_FLOAT: "number",
             field.TYPE_INT32: "integer", field.TYPE_INT64: "integer", field.TYPE_UINT32: "integer from 0",
             field.TYPE_DOUBLE: "number", field.TYPE_BYTES: "bytes"}
    if field.message_type is not None:
        kind = f"[{field.message_type.name}](#{field.message_type.name.lower()})"
    elif field.type == field.TYPE_ENUM:
        kind = f"`{field.enum_type.name}`"
    else:
        kind = kinds[field.type]
    return f"{kind}, repeated" if is_repeated(field) else kind


def _default(field):
    if is_repeated(field) or not field.has_default_value:
        return ""
    if field.type == field.TYPE_ENUM:
        return f"`{field.enum_type.values_by_number[field.default_value].name}`"
    if field.type == field.TYPE_BOOL:
        return "`true`" if field.default_value else "`false`"
    if field.type == field.TYPE_STRING:
        return f'`"{field.default_value}"`'
    return f"`{field.default_value:.6g}`"


def _cell(text):
    return text.replace("|", "\\|").replace("*", "\\*")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is stale")
    if parser.parse_args().check:
        if not REFERENCE.exists() or REFERENCE.read_text() != reference():
            sys.exit("docs/config_reference.md is out of date: run python scripts/generate_docs.py")
        return
    REFERENCE.write_text(reference())
    print(f"wrote {REFERENCE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
