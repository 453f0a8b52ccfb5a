"""as_dot, as_svg: a Drawing as text for graphviz, and as a picture without it."""

from __future__ import annotations

import unicodedata
from html import escape

from minidrop.apps.drawing import Card, Drawing, Row, plain
from minidrop.apps.layout import layered

COLOURS = {"data": "#e3ecd9", "product": "#d3e3f3", "activation": "#fbeecb", "norm": "#e7dff2",
           "pool": "#d3ecea", "drop": "#f8d9cd", "result": "#f3c9c9", "other": "#ececec"}
DIRECTIONS = ("TB", "LR", "BT", "RL")
_EM, _LINE, _PAD = 6.7, 15.0, 9.0       # an average letter, a line of text, the margin in a box
_ALONG = 0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2, 0.9, 0.1       # of an arrow's curve, where its label may stand
_SMALL, _MOST_ROOM = 9 / 11, 120.0      # the size of a label of an arrow, and the most room that one gets


def as_dot(drawing: Drawing, direction: str = "LR") -> str:
    """Return a Drawing in graphviz' language."""
    lines = [f"digraph {_quoted(plain(drawing.name) or 'net')} {{", f"  rankdir={direction};",
             '  node [shape=box, style="filled,rounded", fontname="Helvetica", fontsize=11];',
             '  edge [fontname="Helvetica", fontsize=9];']
    for i, card in enumerate(drawing.cards):
        text = "\n".join(_texts(card))
        shape = "" if card.rows else ', shape=ellipse, style="dashed"'
        lines.append(f'  n{i} [label={_quoted(text)}, fillcolor="{_colour(card)}"{shape}];')
    for source, target, label in drawing.arrows:
        named = f" [label={_quoted(plain(label))}]" if label else ""
        lines.append(f"  n{source} -> n{target}{named};")
    return "\n".join([*lines, "}", ""])


def _quoted(text):
    """Return a string of the language, where backslashes and ampersands begin escapes: none is meant."""
    for character, written in (("\\", "\\\\"), ('"', '\\"'), ("&", "&amp;"), ("\n", "\\n")):
        text = text.replace(character, written)
    return f'"{text}"'


def _texts(card):
    """Yield the lines of a card."""
    if not card.rows:
        yield plain(card.title)
    for row in card.rows:
        yield from _row_texts(row)


def _row_texts(row: Row):
    yield f"{plain(row.name)} ({plain(row.kind)})"
    yield from map(plain, row.lines)


def _colour(card):
    return COLOURS[card.rows[0].group] if card.rows else "#ffffff"


def _width(text):
    """Return about how wide a text is: characters of East Asia take two letters' room."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text) * _EM


def _size(card: Card) -> tuple[float, float]:
    texts = list(_texts(card))
    return max(map(_width, texts)) + 2 * _PAD, len(texts) * _LINE + 2 * _PAD - 4


def as_svg(drawing: Drawing, direction: str = "LR") -> str:
    """Return a Drawing as an SVG picture."""
    across = direction in ("LR", "RL")
    widest = max((_width(plain(label)) for *_, label in drawing.arrows if label), default=0.0)
    room = min(_SMALL * widest + 2 * _PAD, _MOST_ROOM) if across else 0.0
    placed = layered([_size(card) for card in drawing.cards],
                     [(source, target) for source, target, _ in drawing.arrows], direction, room)
    width, height = max(placed.width, 1.0), max(placed.height, 1.0)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>',
             f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
             f'viewBox="0 0 {width:.1f} {height:.1f}" font-size="11" '
             f'font-family="DejaVu Sans, Helvetica, Arial, sans-serif">',
             f"<title>{escape(plain(drawing.name)) or 'net'}</title>",
             '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
             'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>',
             f'<rect width="{width:.1f}" height="{height:.1f}" fill="#ffffff"/>']
    named, taken = set(), list[tuple]()
    for (source, _, label), route in zip(drawing.arrows, placed.routes, strict=True):
        lines.append(f'<path d="{_path(route, direction)}" fill="none" stroke="#555" '
                     f'marker-end="url(#head)"/>')
        if label and (source, label) not in named:
            named.add((source, label))
            x, y = _free_spot(route, across, _SMALL * _width(plain(label)), taken)
            anchor = ' text-anchor="middle"' * across
            lines.append(f'<text x="{x:.1f}" y="{y:.1f}"{anchor} font-size="9" fill="#555" stroke="#ffffff" '
                         f'stroke-width="3" paint-order="stroke">{escape(plain(label))}</text>')
    for card, centre in zip(drawing.cards, placed.centres, strict=True):
        lines += _box(card, *centre)
    return "\n".join([*lines, "</svg>", ""])


def _path(route, direction):
    """Return the path of an arrow: straight through levels, curved between them."""
    (x, y), *rest = route
    parts = [f"M{x:.1f},{y:.1f}"]
    for nx, ny in rest:
        if (nx, ny) == (x, y):
            continue
        if x == nx or y == ny:
            parts.append(f"L{nx:.1f},{ny:.1f}")
        elif direction in ("LR", "RL"):
            parts.append(f"C{(x + nx) / 2:.1f},{y:.1f} {(x + nx) / 2:.1f},{ny:.1f} {nx:.1f},{ny:.1f}")
        else:
            parts.append(f"C{x:.1f},{(y + ny) / 2:.1f} {nx:.1f},{(y + ny) / 2:.1f} {nx:.1f},{ny:.1f}")
        x, y = nx, ny
    return " ".join(parts)


def _free_spot(route, across, width, taken):
    """Return where an arrow's label stands: on its first curve, between two layers, or beside that.

    In the middle, or as near to it as no label in `taken` stands.
    """
    (ax, ay), (bx, by) = route[1], route[2]

    def spot(t):
        straight, bent = 1.5 * t * (1 - t) + t ** 3, 3 * t * t - 2 * t ** 3     # of the curve of `_path`
        along, over = (straight, bent) if across else (bent, straight)
        x, y = ax + (bx - ax) * along, ay + (by - ay) * over - 2
        return (x, y, x - width / 2) if across else (x + 4, y, x + 4)

    def is_free(t):
        _, y, left = spot(t)
        return all(left > end or left + width < begin or abs(y - other) >= _LINE - 3
                   for begin, end, other in taken)

    x, y, left = spot(next(filter(is_free, _ALONG), _ALONG[0]))
    taken.append((left, left + width, y))
    return x, y


def _box(card, x, y):
    width, height = _size(card)
    left, top = x - width / 2, y - height / 2
    if not card.rows:
        yield (f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{width / 2:.1f}" ry="{height / 2:.1f}" '
               f'fill="#ffffff" stroke="#888" stroke-dasharray="4 3"/>')
        yield _text(x, y + 4, card.title, True)
        return
    yield (f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="5" '
           f'fill="{_colour(card)}" stroke="#888"/>')
    line = top + _PAD - 4
    for number, row in enumerate(card.rows):
        count = len(list(_row_texts(row)))
        if number:
            end = top + height - 0.5 if number == len(card.rows) - 1 else line + count * _LINE
            yield (f'<path d="M{left + 0.5:.1f},{line + 1:.1f} h{width - 1:.1f} V{end:.1f} '
                   f'h{1 - width:.1f} z" fill="{COLOURS[row.group]}"/>')
        for i, text in enumerate(_row_texts(row)):
            line += _LINE
            yield _text(x, line - 2, text, i == 0)


def _text(x, y, text, bold):
    weight = ' font-weight="bold"' if bold else ' fill="#333"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle"{weight}>{escape(plain(text))}</text>'
