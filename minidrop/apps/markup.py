"""HTML and SVG elements made of text that is not trusted: whatever is no Markup is escaped."""

from __future__ import annotations

from html import escape

VOID = frozenset({"br", "circle", "line", "meta", "polyline", "rect"})


class Markup(str):
    """Text that is HTML already."""


def element(name: str, /, *children: str, **attributes: object) -> Markup:
    """Return an element. `class_` is the attribute class, and stroke_width is stroke-width.

    Children and values that are no Markup are text: escaped, and with what a reader cannot see shown as a
    replacement character. A VOID element without children has no end tag.
    """
    inside = "".join(child if isinstance(child, Markup) else text(child) for child in children)
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
                    for key, value in attributes.items())
    return Markup(f"<{name}{given}/>" if name in VOID and not inside else f"<{name}{given}>{inside}</{name}>")


def text(value: str) -> Markup:
    """Return text as HTML: escaped, without control characters and marks that change what a line shows."""
    shown = (letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in value)
    return Markup(escape("".join(shown)))


def joined(parts: list[Markup]) -> Markup:
    """Return Markup one after the other."""
    return Markup("\n".join(parts))
