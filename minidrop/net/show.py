"""How a net is shown: a table of its layers, what they put out, and their parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minidrop.net.graph import Node
    from minidrop.net.net import Net

_MOST_LAYERS = 200      # in a table; of more the first and the last are shown


def described(net: Net) -> str:
    """Return a net as text: a head, then a line for each layer. Never raises, also of a net half built."""
    head = f"{type(net).__name__}({headline(net)})"
    try:
        rows = [["layer", "type", "output", "parameters"], *(cells(net, node) for node in net.graph.nodes)]
    except Exception:       # built in part, or shown by a debugger in the middle of an error
        return head
    if len(rows) > _MOST_LAYERS:
        left_out = len(rows) - _MOST_LAYERS
        rows[_MOST_LAYERS // 2:_MOST_LAYERS // 2 + left_out] = [[f"... {left_out} more", "", "", ""]]
    rows = [[cell if cell.isprintable() else repr(cell)[1:-1] for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)),
                        row[3].rjust(widths[3])]).rstrip() for row in rows]
    return "\n  ".join([head, *lines])


def headline(net: Net) -> str:
    """Return name, phase, dtype, device, and the numbers of layers and parameters of a net, in a line."""
    try:
        name = net.config.message.name
        return (f"{f'{name!r}, ' if name else ''}phase {net.phase}, {net.dtype}, {net.backend.name}: "
                f"{len(net.graph.nodes)} layers, {net.graph.parameter_count:,} parameters")
    except Exception:
        return "not built"


def cells(net: Net, node: Node) -> list[str]:
    """Return name, type, outputs and their shapes, and the number of trained values of a layer, as text."""
    tops = ", ".join(f"{ref.name} {'x'.join(map(str, net.graph.shapes[ref])) or 'scalar'}"
                     for ref in node.tops)
    count = sum(math.prod(spec.shape) for spec in node.layer.parameter_specs() if spec.trained)
    return [node.name, node.config.type, tops, f"{count:,}" if count else ""]
