"""Line charts as SVG within a page: axes, ticks, a legend, and what a pointer reads at each point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minidrop.apps.curves import Points
from minidrop.apps.markup import Markup, element, joined

MOST_POINTS = 2000          # of a curve; of more the extremes of each stretch are drawn
MOST_MARKS = 200            # points of a curve that a pointer can read
_FAR = 5                    # times the value that a curve begins with
_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 26, 12, 46
_HUES = (211, 22, 150, 285, 340, 50)    # far apart for most eyes; of more runs each is 137.5 degrees further


@dataclass(frozen=True)
class Series:
    """A curve: its label, the number of its colour, that of its dashes, and its points."""

    label: str
    colour: int
    dash: int
    points: Points


def chart(title: str, series: Sequence[Series], log_scale: bool = False) -> Markup:
    """Return a figure of curves over the iterations, with its legend.

    log_scale: of values; those that have no logarithm are left out. A line has a gap where values are not
    finite, and on a linear scale where they are far above what all curves began with, as where a training
    diverges: the others would be one flat line. What is left out, or thinned, is said below.
    """
    shown = [_visible(one.points, log_scale) for one in series]
    most = math.inf if log_scale else _greatest(shown)
    beyond = [sum(y > most for _, y in points) for points in shown]
    shown = [[(x, math.nan if y > most else y) for x, y in points] for points in shown]
    finite = [point for points in shown for point in points if math.isfinite(point[1])]
    head = element("h3", title + " (log scale)" * log_scale)
    if not finite:
        return element("figure", head, element("p", "no value that can be drawn"))
    xs, ys = zip(*finite, strict=True)
    y_ticks = log_ticks(min(ys), max(ys)) if log_scale else ticks(min(ys), max(ys))
    x_ticks = [tick for tick in ticks(min(xs), max(xs), 5) if tick == round(tick)] or [min(xs)]
    place_x = _scale(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    low, high = min([*ys, *y_ticks]), max([*ys, *y_ticks])
    place_y = _scale(math.log10(low) if log_scale else low, math.log10(high) if log_scale else high,
                     _HEIGHT - _BOTTOM, _TOP)

    def y_of(value):
        return place_y(math.log10(value) if log_scale else value)

    floor = _HEIGHT - _BOTTOM
    parts = [element("title", f"{title} over the iterations")]
    digits = 6 if len(y_ticks) > 1 else 4       # a single one is a value, and no round number
    for tick in y_ticks:
        y = _short(y_of(tick))
        parts += [element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"),
                  element("text", f"{tick:.{digits}g}", x=_LEFT - 8, y=y, class_="y")]
    for tick in x_ticks:
        if min(xs) <= tick <= max(xs):
            x = _short(place_x(tick))
            parts += [element("line", x1=x, x2=x, y1=floor, y2=floor + 5, class_="axis"),
                      element("text", f"{tick:.12g}", x=x, y=floor + 7, class_="x")]
    parts.append(element("text", "iteration", x=(_LEFT + _WIDTH - _RIGHT) / 2, y=_HEIGHT - 19, class_="x"))
    for one, points in zip(series, shown, strict=True):
        parts.append(_curve(title, one, thinned(points, MOST_POINTS), place_x, y_of))
    notes = [note for one, points, above in zip(series, shown, beyond, strict=True)
             if (note := _note(one, points, above, most, len(series) > 1))]
    return element("figure", head,
                   element("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
                           class_=f"d{max(one.dash for one in series)}"),
                   element("ul", *map(_legend, series), class_="legend"),
                   *(element("p", note, class_="note") for note in notes))


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return at most about `count` round numbers, 1, 2 or 5 times a power of ten apart, from low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / (count - 1)
    if not math.isfinite(rough) or rough == 0:
        return [low, high]
    power = 10.0 ** math.floor(math.log10(rough))
    if power == 0:
        return [low, high]
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)] or [low, high]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten around positive low and high, every other or fewer where there are many.

    Within a power of ten they would all be outside: there they are those of `ticks`.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first < 2:
        return ticks(low, high, 5)
    step = -(-(last - first) // 6)
    return [10.0 ** power for power in range(max(first, -307), min(last, 307) + 1, step)]


def thinned(points: Points, most: int) -> Points:
    """Return points, at most `most` of them: of more the first, least, greatest and last of each stretch."""
    if len(points) <= most:
        return points
    chosen, stretches = set(), most // 4
    for i in range(stretches):
        part = range(i * len(points) // stretches, (i + 1) * len(points) // stretches)
        finite = [k for k in part if math.isfinite(points[k][1])] or list(part)
        chosen |= {part[0], part[-1], min(finite, key=lambda k: points[k][1]),
                   max(finite, key=lambda k: points[k][1])}
    return [points[k] for k in sorted(chosen)]


def _greatest(curves):
    """Return the value up to which a linear scale shows curves: where some rise far above all beginnings."""
    known = [[y for _, y in points if math.isfinite(y)] for points in curves]
    most = _FAR * max((values[0] for values in known if values), default=0.0)
    below = sum(y <= most for values in known for y in values)
    return most if 2 * below >= sum(map(len, known)) else math.inf      # else they rise from about 0


def _visible(points, log_scale):
    """Return points with nan for what the scale cannot show."""
    return [(x, y if math.isfinite(y) and (y > 0 or not log_scale) else math.nan) for x, y in points]


def _scale(low, high, first, last):
    if not high > low:
        return lambda value: (first + last) / 2
    # Halves: the difference of two large numbers may be infinite.
    return lambda value: first + (value / 2 - low / 2) / (high / 2 - low / 2) * (last - first)


def _curve(title, one, points, place_x, y_of):
    """Return the lines of a curve, one for each run of finite values, and marks for the pointer."""
    runs, parts = [[]], []
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append((_short(place_x(x)), _short(y_of(y)), x, y))
        elif runs[-1]:
            runs.append([])
    for run in filter(None, runs):
        parts.append(element("polyline", points=" ".join(f"{x},{y}" for x, y, *_ in run)))
    drawn = [mark for run in runs for mark in run]
    stride = -(-len(drawn) // MOST_MARKS)
    for k, (x, y, iteration, value) in enumerate(drawn):
        if (len(drawn) - 1 - k) % max(stride, 1) == 0:      # the last one is always among them
            tip = element("title", f"{one.label}: {title} {value:.6g} at iteration {iteration:.12g}")
            parts.append(element("circle", tip, cx=x, cy=y, r=2.2))
    return element("g", *parts, class_=f"curve dash{one.dash % 4}", style=f"--hue:{hue(one.colour)}")


def hue(number: int) -> float:
    """Return the hue of a colour's number, in degrees."""
    return _HUES[number] if number < len(_HUES) else round(_HUES[0] + 137.5 * number) % 360


def _legend(one):
    last = next(((x, y) for x, y in reversed(one.points) if math.isfinite(y)), None)
    at_end = bool(one.points) and math.isfinite(one.points[-1][1])
    said = "" if last is None else (f": {last[1]:.4g} at the end" if at_end else
                                    f": {last[1]:.4g} at {last[0]:.12g}, not finite at the end")
    swatch = element("svg", element("g", element("polyline", points="1,6 27,6"),
                                    class_=f"curve dash{one.dash % 4}", style=f"--hue:{hue(one.colour)}"),
                     viewBox="0 0 28 12", class_="swatch", aria_hidden="true")
    return element("li", swatch, one.label + said)


def _note(one, points, above, most, named):
    """Return what is not drawn of a curve, "" for nothing; above: how many values are greater than `most`."""
    gaps = sum(not math.isfinite(y) for _, y in points) - above
    parts = [f"left out: {gaps} of {len(points)} values (not finite, or without a logarithm)"] * bool(gaps)
    if above:
        parts.append(f"{above} of {len(points)} values are above {most:.4g}, {_FAR} times where the "
                     f"curves began, and left out; a log scale shows them")
    if len(points) > MOST_POINTS:
        parts.append(f"of {len(points)} values the extremes of {MOST_POINTS // 4} stretches are drawn")
    return (f"{one.label}: " if named and parts else "") + "; ".join(parts)


def _short(value):
    return f"{value:.2f}".rstrip("0").rstrip(".")


def charts(figures: Sequence[Markup]) -> Markup:
    """Return figures side by side where the page is wide."""
    return element("div", joined(list(figures)), class_="charts")
