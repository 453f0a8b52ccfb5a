"""SourceMap: the position of each field in a text-format file, which protobuf's parser does not keep."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

from minidrop.errors import ConfigError

MAX_DEPTH = 100

_SKIP = re.compile(r"(?:\s+|#[^\n]*)*")
_TOKEN = re.compile(r"""
    (?P<word>   [A-Za-z_][0-9A-Za-z_+-]*)
  | (?P<number> (?:[0-9+-]|\.[0-9])[0-9A-Za-z_.+-]*)
  | (?P<string> "(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*')
  | (?P<mark>   [{}<>\[\]:,;])
""", re.VERBOSE)
_CLOSING = {"{": "}", "<": ">"}


class Entry:
    """One field as written: its name and place, and its children (of a message) or the text of its value."""

    __slots__ = ("name", "place", "children", "text", "kind", "value_place", "in_list")

    def __init__(self, name: str, place: tuple[int, int]):
        self.name, self.place, self.value_place = name, place, place
        self.children = self.text = self.kind = None
        self.in_list = False


class _Entries(list):
    """The fields of a message in file order; `by_name` is valid once they are complete."""

    @cached_property
    def by_name(self):
        found: dict[str, list[Entry]] = {}
        for entry in self:
            found.setdefault(entry.name, []).append(entry)
        return found


class SourceMap:
    """The positions, as (line, column) counted from 1, of the fields of one file."""

    def __init__(self, name: str, entries: Any = (), place: Any = None):
        self.name, self.entries, self.place = name, _Entries(entries), place

    def position(self, *path: str | tuple[str, int]) -> tuple[int, int] | None:
        """Return (line, column) of a field, or of the nearest enclosing one; None if there is none.

        A step of the path is a field name or (field name, index): position(("layer", 3), "param", "lr_mult").
        """
        return self._find(path)[0]

    def within(self, *path: tuple[str, int]) -> SourceMap:
        """Return the SourceMap of the message at `path`, with paths relative to it."""
        place, entries = self._find(path)
        return SourceMap(self.name, entries, place)

    def _find(self, path):
        entries, place = self.entries, self.place
        for step in path:
            name, index = (step, 0) if isinstance(step, str) else step
            same = entries.by_name.get(name, ())
            if not 0 <= index < len(same):
                return place, _Entries()
            place = same[index].place
            entries = _Entries() if same[index].children is None else same[index].children
        return place, entries

    def where(self, *path: str | tuple[str, int]) -> str:
        """Return "file:line:column" of a field, or only "file" if no position is known."""
        return locate(self.name, self.position(*path))


def locate(name: str, place: tuple[int, int] | None) -> str:
    """Return "name:line:column", or only the name if `place` is None."""
    return name if place is None else f"{name}:{place[0]}:{place[1]}"


def scan(text: str, name: str) -> SourceMap:
    """Return the SourceMap of a text in protobuf's text format; raises ConfigError for a syntax error.

    Field names and values are not checked here, but in check.py.
    """
    return SourceMap(name, _Scanner(text, name).entries(), (1, 1))


class _Scanner:
    def __init__(self, text, name):
        self.text, self.name = text, name
        self.at = 0                                  # the offset of the current token
        self.line, self.line_start, self.counted = 1, 0, 0
        self.advance(0)

    def advance(self, to):
        """Make the token at or after `to` the current one."""
        self.at = _SKIP.match(self.text, to).end()
        newlines = self.text.count("\n", self.counted, self.at)
        if newlines:
            self.line += newlines
            self.line_start = self.text.rindex("\n", self.counted, self.at) + 1
        self.counted = self.at
        match = _TOKEN.match(self.text, self.at)
        if match:
            self.kind, self.token = match.lastgroup, match.group()
        elif self.at == len(self.text):
            self.kind, self.token = "end", ""
        else:
            self.kind, self.token = "other", self.text[self.at]

    def next(self):
        token = self.token
        self.advance(self.at + len(token))
        return token

    def take(self, mark):
        found = self.kind == "mark" and self.token == mark
        if found:
            self.next()
        return found

    @property
    def place(self):
        return self.line, self.at - self.line_start + 1

    def fail(self, message, place=None):
        raise ConfigError(f"{locate(self.name, place or self.place)}: {message}")

    def found(self):
        """Return the current token in words."""
        if self.kind == "end":
            return "the end of the file"
        if self.token in ("'", '"'):
            return "a string without its closing quote on the same line"
        return repr(self.token if len(self.token) <= 40 else self.token[:37] + "...")

    def entries(self):
        root = children = []
        open_messages = []                           # (entry, its closing mark, the list that contains it)
        while True:
            if self.kind == "end":
                if open_messages:
                    entry, closing, _ = open_messages[-1]
                    self.fail(f"'{entry.name}' opened here is never closed; put '{closing}' where it ends",
                              entry.place)
                return root
            if self.kind == "mark" and self.token in "}>":
                if not open_messages:
                    self.fail(f"'{self.token}' closes nothing; remove it, or look for one too many above")
                entry, closing, outer = open_messages.pop()
                if self.token != closing:
                    self.fail(f"expected '{closing}' to close '{entry.name}' (line {entry.place[0]}), got "
                              f"'{self.token}'")
                self.next()
                children = outer
                if self.another(entry):
                    children = self.open(self.sibling(entry, children), children, open_messages)
                continue
            entry = self.field_name()
            colon = self.take(":")
            if self.take("["):
                if self.take("]"):
                    self.separator()
                    continue
                entry.in_list = True
            children.append(entry)
            entry.value_place = self.place
            if self.kind == "mark" and self.token in _CLOSING:
                children = self.open(entry, children, open_messages)
            elif not colon:
                self.fail(f"expected ':' and a value, or '{{', after '{entry.name}', got {self.found()}")
            elif entry.in_list:
                self.scalar_list(entry, children)
                self.separator()
            else:
                self.scalar(entry)
                self.separator()

    def field_name(self):
        if self.kind != "word":
            self.fail(f"expected a field name, got {self.found()}")
        place = self.place
        return Entry(self.next(), place)

    def open(self, entry, children, open_messages):
        if len(open_messages) >= MAX_DEPTH:
            self.fail(f"'{entry.name}' is nested more than {MAX_DEPTH} deep", entry.place)
        if not (self.kind == "mark" and self.token in _CLOSING):
            self.fail(f"expected '{{' for the next '{entry.name}' of the list, got {self.found()}")
        open_messages.append((entry, _CLOSING[self.next()], children))
        entry.children, entry.kind = _Entries(), "message"
        return entry.children

    def another(self, entry):
        """Read what follows a message; return whether it is in a list that continues."""
        if entry.in_list and self.take(","):
            return True
        if entry.in_list and not self.take("]"):
            self.fail(f"expected ',' or ']' in the list of '{entry.name}', got {self.found()}")
        self.separator()
        return False

    def sibling(self, entry, children):
        sibling = Entry(entry.name, self.place)
        sibling.in_list = True
        children.append(sibling)
        return sibling

    def scalar_list(self, entry, children):
        self.scalar(entry)
        while not self.take("]"):
            if not self.take(","):
                self.fail(f"expected ',' or ']' in the list of '{entry.name}', got {self.found()}")
            entry = self.sibling(entry, children)
            self.scalar(entry)

    def scalar(self, entry):
        if self.kind not in ("word", "number", "string"):
            self.fail(f"expected a value for '{entry.name}', got {self.found()}")
        entry.kind = self.kind
        parts = [self.next()]
        while entry.kind == "string" and self.kind == "string":
            parts.append(self.next())
        entry.text = parts if entry.kind == "string" else parts[0]

    def separator(self):
        if not self.take(","):
            self.take(";")
