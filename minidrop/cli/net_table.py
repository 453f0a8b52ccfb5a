"""The Summary of a net as text, for the commands that show it."""

from __future__ import annotations

from collections.abc import Iterator

from minidrop.apps.summary import DropSummary, LayerSummary, Summary
from minidrop.errors import visible_name


def layer_table(summary: Summary, with_memory: bool = False) -> Iterator[str]:
    """Yield the lines of a table of all layers, and what its numbers count."""
    dropped = summary.drops_count
    head = ["layer", "type", "output", "parameters", "MFLOP dense"] + ["with drops"] * dropped
    head += ["output bytes"] * with_memory
    table = [head] + [_cells(layer, dropped, with_memory) for layer in summary.layers]
    table.append(["total", "", "", f"{summary.parameters:,}", mega(summary.dense)]
                 + [_part(summary.expected, summary.dense)] * dropped
                 + [f"{summary.memory['activations']:,}"] * with_memory)
    yield from _aligned(table)
    what = "forward and backward" if summary.phase == "TRAIN" else "forward"
    yield f"  MFLOP: millions of operations in products of matrices, {what}, one batch" + (
        "; with drops: expected over the patterns" if dropped else "")


def drop_lines(drops: list[DropSummary]) -> Iterator[str]:
    """Yield a line for each drop: what it saves, or why it saves nothing."""
    for drop in drops:
        where = f", all in {drop.where}" if drop.where else ""
        saving = (f"nothing: {drop.reason}" if drop.reason else
                  f"{mega(drop.saved)} MFLOP, {drop.share:.1%} of the dense net's{where}")
        yield f"  {drop.layer} ({drop.kind}) saves {saving}"


def memory_lines(memory: dict[str, int]) -> Iterator[str]:
    """Yield what parameters and blobs need of memory, and what comes on top."""
    parts = ", ".join(f"{name.replace('_', ' ')} {_bytes(size)}"
                      for name, size in memory.items())
    yield f"  memory of parameters and blobs: {_bytes(sum(memory.values()))} ({parts})"
    if "gradients" in memory:
        yield (f"  on top of that: what the solver remembers, {_bytes(memory['parameters'])} with momentum, "
               f"{_bytes(2 * memory['parameters'])} with Adam; what layers keep for their gradients; work "
               f"spaces")


def mega(operations: float) -> str:
    """Return millions of operations."""
    return f"{operations / 1e6:,.{1 if operations >= 1e6 else 4}f}"


def _bytes(size):
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return ""


def _cells(layer: LayerSummary, dropped, with_memory):
    tops = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}"
                     for name, shape in layer.outputs.items())
    return ([layer.name, layer.type, tops, f"{layer.parameters:,}" if layer.parameters else "",
             mega(layer.dense) if layer.dense else ""] + [_part(layer.expected, layer.dense)] * dropped
            + [f"{layer.output_bytes:,}"] * with_memory)


def _part(expected, dense):
    return f"{mega(expected)} ({expected / dense:.1%})" if dense else ""


def _aligned(table):
    table = [[visible_name(cell) for cell in row] for row in table]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        yield "  " + "  ".join(left + right).rstrip()
