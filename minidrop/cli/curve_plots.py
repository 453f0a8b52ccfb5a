"""Curves of trainings drawn: with matplotlib for a file, with characters for a terminal."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence

import numpy as np

from minidrop.apps.curves import Curves
from minidrop.cli.plots import INK, REFERENCE, check_picture, save_figure
from minidrop.errors import ConfigError, visible_name

MOST_PANELS = 20
_HEIGHT = 11
_MARKS = "█▓▒░●○◆◇▲△"
_ASCII = "#o+.x*@%=~"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DASHES = ("-", "--", ":", "-.")
_COLOURS = (INK, REFERENCE, "#3f8f5b", "#7a5195")


def check_panels(names: Sequence[str]) -> None:
    """Raise ConfigError for more quantities than fit into one picture."""
    if len(names) > MOST_PANELS:
        raise ConfigError(f"there are {len(names)} quantities, and a picture shows at most {MOST_PANELS}; "
                          f"choose some with --metric")


def draw_curves(path: str, runs: Sequence[Curves], names: Sequence[str], title: str, log_scale: bool = False,
                option: str = "--out") -> None:
    """Draw quantities of runs over the iterations to a file, a panel each; raises ConfigError."""
    check_picture(path, option)
    check_panels(names)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Names are a stranger's: matplotlib must not read dollar signs as formulas.
    with rc_context({"font.size": 9, "axes.titlelocation": "left", "text.parse_math": False}):
        figure = Figure(figsize=(8, 0.5 + 2.4 * len(names)), layout="constrained")
        figure.suptitle(visible_name(title)[:100], x=0.02, ha="left", weight="bold")
        panels = figure.subplots(len(names), 1, squeeze=False, sharex=True)[:, 0]
        for axes, name in zip(panels, names, strict=True):
            for i, run in enumerate(runs):
                phases = run.points.get(name, {})
                for phase, points in phases.items():
                    k = _number_of(phase)
                    # One run: its phases by colour. Several: runs by colour, phases by dashes.
                    style = ({"color": _COLOURS[k % len(_COLOURS)]} if len(runs) == 1 else
                             {"color": f"C{i % 10}", "ls": _DASHES[k % len(_DASHES)]})
                    axes.plot(*zip(*points, strict=True), label=_label(run, phase, runs), lw=1,
                              marker="." if len(points) < 60 else None, **style)
            axes.set(title=visible_name(name)[:80], xlabel="iteration")
            axes.tick_params(labelbottom=True)
            if log_scale and any(value > 0 for run in runs for points in run.points.get(name, {}).values()
                                 for _, value in points):
                axes.set_yscale("log")
            axes.grid(alpha=0.3)
            axes.legend(loc="best", frameon=False)
        save_figure(figure, path, option)


def _number_of(phase):
    """Return 0 for "train", 1 for "test", 2 for "test 1" and so on."""
    return 0 if phase == "train" else 1 + int(phase.partition(" ")[2] or 0)


def _label(run, phase, runs):
    return phase if len(runs) == 1 else f"{visible_name(run.name)[:40]}, {phase}"


def text_curves(runs: Sequence[Curves], name: str, log_scale: bool = False, width: int | None = None,
                ascii_only: bool | None = None) -> str:
    """Return a chart of a quantity of runs, as wide as the terminal (at most 160 columns), with a legend.

    A column shows the mean of the values that fall into it, and is joined to the one before. Of curves that
    cross that of fewest points lies above. ascii_only None: where stdout cannot encode the block characters.
    """
    width = max(40, min(width or shutil.get_terminal_size((100, 24)).columns, 160))
    if ascii_only is None:
        ascii_only = not _encodes(_MARKS + "┤─└")
    marks = (_ASCII if ascii_only else _MARKS) + _LETTERS
    axis, corner, line = ("|", "+", "-") if ascii_only else ("┤", "└", "─")
    series = [(_label(run, phase, runs), np.array(points, float)) for run in runs
              for phase, points in run.points.get(name, {}).items()]
    drawn = [(label, _scaled(points, log_scale)) for label, points in series]
    finite = [points[np.isfinite(points[:, 1])] for _, points in drawn]
    if not any(map(len, finite)):
        return f"  {visible_name(name)}: no finite value"
    every = np.concatenate(finite)
    first, last = every[:, 0].min(), every[:, 0].max()
    low, high = every[:, 1].min(), every[:, 1].max()
    labels = [_shown(value, log_scale) for value in (high, (low + high) / 2, low)]
    gap = max(map(len, labels)) + 3
    canvas = np.full((_HEIGHT, width - gap - 1), " ")
    for k in sorted(range(len(finite)), key=lambda k: (-len(finite[k]), -k)):
        _draw(canvas, finite[k], (first, last), (low, high), marks[k % len(marks)])
    rows = {0: labels[0], _HEIGHT // 2: labels[1], _HEIGHT - 1: labels[2]} if high > low else {
        _HEIGHT // 2: labels[0]}
    lines = [f"  {visible_name(name)}{' (log scale)' if log_scale else ''}"[:width]]
    lines += [f"{rows.get(y, ''):>{gap - 1}} {axis}{''.join(canvas[y])}".rstrip() for y in range(_HEIGHT)]
    lines.append(" " * gap + corner + line * (canvas.shape[1] - 1))
    ends = f"{first:g}", f"{last:g}"
    middle = " iteration "
    room = canvas.shape[1] - sum(map(len, ends))
    between = middle.center(room) if room > len(middle) else " " * max(room, 1)
    lines.append(" " * (gap + 1) + ends[0] + between + ends[1])
    legend = [f"{marks[k % len(marks)]} {label}{_end(points)}" for k, (label, points) in enumerate(series)]
    if len(legend) > 1:
        lines += [f"{' ' * (gap + 1)}{text}"[:width] for text in legend]
    else:
        lines[0] = f"{lines[0]}  {legend[0]}"[:width]
    return "\n".join(lines)


def _scaled(points, log_scale):
    """Return points with the logarithms of their values; what has none is nan."""
    if not log_scale:
        return points
    values = np.full(len(points), math.nan)
    positive = points[:, 1] > 0
    values[positive] = np.log10(points[positive, 1])
    return np.column_stack([points[:, 0], values])


def _draw(canvas, points, span, limits, mark):
    """Draw a curve: in each column the mean of its values, joined to the column before."""
    height, width = canvas.shape
    if not len(points):
        return
    (first, last), (low, high) = span, limits
    columns = np.rint((points[:, 0] - first) / max(last - first, 1e-300) * (width - 1)).astype(int)
    found = np.unique(columns)
    means = np.array([points[columns == column, 1].mean() for column in found])
    share = (high - means) / (high - low) if high > low else np.full(len(means), 0.5)
    rows = np.rint(share * (height - 1)).astype(int)
    for k, (column, row) in enumerate(zip(found, rows, strict=True)):
        if k:
            between = np.arange(found[k - 1] + 1, column)
            steps = np.rint(np.interp(between, found[k - 1:k + 1], rows[k - 1:k + 1])).astype(int)
            canvas[steps, between] = mark
            before = int(steps[-1]) if len(steps) else int(rows[k - 1])
            low_row, high_row = sorted((before, int(row)))
            canvas[low_row + (before < row):high_row + (before <= row), column] = mark
        canvas[row, column] = mark


def _shown(value, log_scale):
    return f"{10**value if log_scale else value:.4g}"


def _end(points):
    return f" {points[-1, 1]:.4g} at the end" if len(points) else ""


def _encodes(text):
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        return True
    except (UnicodeEncodeError, LookupError):
        return False
