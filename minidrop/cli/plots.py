"""Plots of a pattern's report, as text or with matplotlib for a file, and of a sweep of learning rates."""

import os
import shutil
from importlib.util import find_spec
from io import BytesIO
from math import sqrt
from typing import Any

import numpy as np

from minidrop.errors import ConfigError, visible_name
from minidrop.files import check_output, replace
from minidrop.optim import LearningRates

_EIGHTHS = " ▏▎▍▌▋▊▉"
_HEIGHT = 9
_FORMATS = (".png", ".pdf", ".svg")
INK, _PALE, REFERENCE = "#1f5a8a", "#dbe7f0", "#c8553d"


def text_plots(one: Any, width: int | None = None) -> str:
    """Return three text plots of a report: rates of iterations, rates of sites, joint keep probabilities."""
    width = min(width or shutil.get_terminal_size((100, 24)).columns, 160)
    what, drawn, rate = one["sites"]["what"], one["sequence"], one["rate_reached"]
    parts = [f"  share dropped in an iteration{_source(one)}\n" + _bars(one["iteration_rate"], width)]
    found = np.array(drawn["drops"]["all"]) / drawn["iterations"]
    deviation = sqrt(max(rate * (1 - rate), 1e-12) / drawn["iterations"])
    parts.append(f"  share of {drawn['iterations']} iterations in which each of {_which(found.size, one)} "
                 f"was dropped " "(top and bottom: 5 deviations of Bernoulli)\n"
                 + _chart(found, rate, rate - 5 * deviation, rate + 5 * deviation, width, f"{what[:-1]} 0",
                          f"{found.size - 1}"))
    joint = np.array(one["joint_keep"]["by_distance"])[:width - 14]
    if joint.size:
        parts.append(f"  probability that two {what} both live, by distance{_source(one)} (line: "
                     f"independent)\n" + _chart(joint, one["joint_keep"]["independent"], 0,
                                                max(joint.max(), 1e-9), width, "distance 1",
                              f"{joint.size}"))
    return "\n\n".join(parts)


def _which(shown, one):
    """Return "1024 units", or "the first 65536 of 4194304 tiles" if not all are known."""
    sites = one["sites"]
    return (f"the first {shown} of {sites['count']} {sites['what']}" if shown < sites["count"]
            else f"{shown} {sites['what']}")


def _source(one):
    return "" if one["exact"] else f", seen in {one['sequence']['iterations']} iterations"


def _bars(pairs, width):
    pairs = _merged(pairs, 20)
    room, top = width - 24, max(probability for _, probability in pairs)
    lines = []
    for rate, probability in pairs:
        eighths = round(8 * room * probability / top)
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        lines.append(f"    {rate:.3f} {probability:>8.4f} {bar}".rstrip())
    return "\n".join(lines)


def _merged(pairs, bins):
    """Merge rates that differ by about one unit, and bin the result if there is too much to show."""
    groups = np.split(np.array(pairs), np.flatnonzero(np.diff([rate for rate, _ in pairs]) > 0.004) + 1)
    merged = [[float(rates @ weights / weights.sum()), float(weights.sum())]
              for rates, weights in (g.T for g in groups)]
    if 1 < len(groups) <= bins or len(pairs) == 1:
        return merged
    rates, probabilities = np.array(pairs).T
    if np.ptp(rates) < 0.02:
        return merged
    edges = np.linspace(rates.min(), rates.max(), bins + 1)
    where = np.clip(np.searchsorted(edges, rates, "right") - 1, 0, bins - 1)
    sums = np.bincount(where, probabilities, bins)
    return [[rate, share] for rate, share in zip((edges[:-1] + edges[1:]) / 2, sums, strict=True) if share]


def _chart(values, reference, low, high, width, first, last):
    """Return a chart of values from left to right; a column with several spans their range."""
    columns = np.array_split(values, min(values.size, width - 14))
    canvas = np.full((_HEIGHT, len(columns)), " ")

    def row(value):
        return int(np.clip(round((high - value) / (high - low) * (_HEIGHT - 1)), 0, _HEIGHT - 1))

    canvas[row(reference)] = "─"
    for x, column in enumerate(columns):
        canvas[row(column.max()):row(column.min()) + 1, x] = "│" if column.size > 1 else "●"
        if column.size > 1:
            canvas[row(column.mean()), x] = "●"
    labels = {0: f"{high:.3f}", _HEIGHT - 1: f"{low:.3f}", row(reference): f"{reference:.3f}"}
    lines = [f"    {labels.get(y, ''):>6} ┤{''.join(canvas[y])}".rstrip() for y in range(_HEIGHT)]
    gap = len(columns) - len(first) - len(last)
    axis = f"{first}{' ' * gap}{last}" if gap > 1 else f"{first} to {last}" if values.size > 1 else first
    return "\n".join(lines) + f"\n            {axis}"


def check_picture(path: str, option: str = "--png") -> None:
    """Raise ConfigError if no picture can be drawn to `path`.

    The reasons are an unknown ending, a missing folder, something there that is not a file, or no matplotlib.
    """
    if os.path.splitext(path)[1].lower() not in _FORMATS:
        raise ConfigError(f"{option} {path}: expected a name that ends with {', '.join(_FORMATS)}")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ConfigError(f"{option} {path}: there is no folder {folder}; make it, or give a name in another "
                          f"one")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} {path}: nothing can be written into {folder}; give a name in another "
                          f"folder")
    try:
        check_output(path)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}; give another name") from None
    if find_spec("matplotlib") is None:
        raise ConfigError(f"{option} draws with matplotlib, which is not installed; install it with: "
                          "pip install 'minidrop[plot]'")


def draw_png(path: str, pairs: Any) -> None:
    """Draw (report, first patterns) pairs to a file, one row each; raises ConfigError."""
    check_picture(path)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: Any = {"font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.axisbelow": True,
             "axes.spines.top": False, "axes.spines.right": False,
             "axes.edgecolor": "#888888", "xtick.color": "#555555", "ytick.color": "#555555"}
    with rc_context(style):
        figure = Figure(figsize=(17, 0.6 + 2.9 * len(pairs)), layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(w_pad=0.12, h_pad=0.06, hspace=0.04)
        rows = figure.subfigures(len(pairs), 1, squeeze=False)[:, 0]
        for (one, first), row in zip(pairs, rows, strict=True):
            row.suptitle(f"{one['settings']['family']}   rate {one['rate']:g}, {one['units']} units, "
                         f"{one['submodels'] or 'unknown'} sub-models", x=0.012, ha="left", weight="bold",
                         size=11.5)
            axes = row.subplots(1, 4, width_ratios=(3, 4, 4, 5))
            _draw_iterations(axes[0], one)
            _draw_sites(axes[1], one)
            _draw_joint(axes[2], one)
            _draw_first(axes[3], one, first)
        save_figure(figure, path, "--png")


def save_figure(figure: Any, path: str, option: str) -> None:
    """Write a figure of matplotlib to a file, whole or not at all; raises ConfigError."""
    picture = BytesIO()
    figure.savefig(picture, format=os.path.splitext(path)[1][1:].lower(), dpi=110, facecolor="white")
    try:
        replace(path, picture.getvalue())
    except OSError as error:
        raise ConfigError(f"{option} {path}: cannot be written: {error.strerror or error}; free some space, "
                          f"or give a name in another folder") from error


def draw_learning_rates(path: str, found: LearningRates, title: str) -> None:
    """Draw the losses of a sweep over its learning rates to a file; raises ConfigError."""
    check_picture(path, "--plot")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.titlelocation": "left", "text.parse_math": False}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(found.rates, found.losses, ".", color=_PALE, label="loss")
        axes.plot(found.rates, found.smoothed, color=INK, label="smoothed")
        if found.suggestion is not None:
            axes.axvline(found.suggestion, color=REFERENCE, lw=1, ls="--",
                         label=f"steepest: {found.suggestion:.3g}")
        spread = max(found.smoothed) - min(found.smoothed)
        axes.set(xscale="log", xlabel="learning rate", title=visible_name(title),
                 ylim=(min(found.smoothed) - 0.1 * spread, max(found.smoothed[0], found.smoothed[-1])
                       + 0.1 * spread) if spread else None)
        axes.xaxis.set_major_formatter("{x:g}")     # powers would be formulas
        axes.grid(alpha=0.3)
        axes.legend(loc="best", frameon=False)
        save_figure(figure, path, "--plot")


def _draw_iterations(axes, one):
    rates, probabilities = np.array(_merged(one["iteration_rate"], 60)).T
    axes.bar(rates, probabilities, width=0.016, color=INK)
    axes.axvline(one["rate_reached"], color=REFERENCE, lw=1, ls="--")
    axes.set(xlim=(-0.03, 1.03), title="share dropped in an iteration", ylabel="probability",
             xlabel=f"dashed: mean; deviation {one['rate_deviation']:.3f}")


def _draw_sites(axes, one):
    drawn, rate, what = one["sequence"], one["rate_reached"], one["sites"]["what"]
    found = np.array(drawn["drops"]["all"]) / drawn["iterations"]
    band = 5 * sqrt(max(rate * (1 - rate), 1e-12) / drawn["iterations"])
    axes.axhspan(rate - band, rate + band, color=_PALE, lw=0)
    axes.axhline(rate, color=REFERENCE, lw=1, ls="--")
    axes.plot(found, ".", color=INK, ms=9 if found.size <= 64 else 2.2, mew=0)
    reach = 1.25 * max(band, np.abs(found - rate).max(), 1e-6)
    axes.set(ylim=(rate - reach, rate + reach), xlabel=f"{what[:-1]}; band: 5$\\sigma$ of Bernoulli",
             title=f"drop rate of each {what[:-1]} in {drawn['iterations']} iterations")


def _draw_joint(axes, one):
    joint = np.array(one["joint_keep"]["by_distance"])
    joint = joint[:max(1, (joint.size + 1) // 2)]       # longer distances have few pairs
    if joint.size:
        distance = np.arange(1, joint.size + 1)
        axes.plot(distance[:32], joint[:32], color=INK, lw=0.8, alpha=0.5)
        axes.plot(distance, joint, ".", color=INK, ms=6 if joint.size <= 32 else 3, mew=0)
    axes.axhline(one["joint_keep"]["independent"], color=REFERENCE, lw=1, ls="--")
    if joint.size > 16:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    top = max(1.12 * max(joint, default=0), 1.4 * one["joint_keep"]["independent"], 0.01)
    axes.set(ylim=(0, top), xlabel="distance; dashed: independent",
             title=f"probability that two {one['sites']['what']} both live")


def _draw_first(axes, one, first):
    from matplotlib.colors import ListedColormap

    # As much of the axis as keeps single runs visible.
    n = first.shape[1]
    changes = np.abs(np.diff(first.astype(np.int8), axis=1)).sum() / len(first)
    shown = min(n, max(120, int(60 * n / max(changes, 1))))
    axes.imshow(first[:, :shown], aspect="auto", interpolation="none", cmap=ListedColormap([_PALE, INK]),
                vmin=0, vmax=1)
    what = one["sites"]["what"]
    axes.set(ylabel="iteration", xlabel=what[:-1], title=f"what lives (dark) in {len(first)} iterations, "
             + (f"first {shown} of {n} {what}" if shown < n else f"all {shown} {what}"))
