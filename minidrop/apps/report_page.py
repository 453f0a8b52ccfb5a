"""The report of trainings as one HTML page, which needs nothing but itself: no script, no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files

from minidrop.apps.charts import Series, chart, charts
from minidrop.apps.confusion import Confusion
from minidrop.apps.curves import Curves, chosen
from minidrop.apps.markup import Markup, element, joined
from minidrop.apps.run_report import Extremes, RunReport, extremes

_MOST_TEXT = 200_000        # characters of a configuration file that are shown
_MOST_CLASSES = 100         # a larger confusion matrix is not shown cell by cell


def page(runs: Sequence[RunReport], title: str, log_scale: bool = False, made: str = "") -> str:
    """Return the page of runs: their curves together, their values in a table, then each on its own.

    made: by what it was made and when, as text.
    """
    curves = [run.curves for run in runs]
    body = [element("h1", title),
            element("p", f"{len(runs)} run{'s' * (len(runs) != 1)}{', ' * bool(made)}{made}", class_="note"),
            element("h2", "Curves"),
            charts([chart(name, _series(curves, name), log_scale) for name in chosen(curves)]),
            element("h2", "Values"), _values(curves)]
    for run in runs:
        body.append(_run(run))
    style = files("minidrop.apps").joinpath("report.css").read_text(encoding="utf-8")
    # Should anything get past the escaping, a browser loads and runs nothing.
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = element("head", element("meta", charset="utf-8"),
                   element("meta", http_equiv="Content-Security-Policy", content=policy),
                   element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                   element("title", title), element("style", Markup(style)))
    content = element("body", element("main", joined(body)))
    return "<!DOCTYPE html>\n" + element("html", head, content, lang="en") + "\n"


def _series(runs: Sequence[Curves], name: str) -> list[Series]:
    """Return the curves of a quantity; of one run phases differ by colour, of several runs by dashes."""
    found = []
    for i, run in enumerate(runs):
        for phase, points in run.points.get(name, {}).items():
            k = 0 if phase == "train" else 1 + int(phase.partition(" ")[2] or 0)
            found.append(Series(phase, k, 0, points) if len(runs) == 1 else
                         Series(f"{run.name}, {phase}", i, k, points))
    return found


def _values(runs):
    rows = [[run.name] * (len(runs) > 1) + _row(one) for run in runs for one in extremes(run)]
    head = ["run"] * (len(runs) > 1) + ["quantity", "phase", "values", "last", "lowest", "highest"]
    return table(head, rows, len(head) - 4)


def _row(one: Extremes):
    return [one.quantity, one.phase, f"{one.count:,}", *map(_point, (one.last, one.least, one.greatest))]


def _point(point):
    if point is None or not math.isfinite(point[1]):
        return "not finite"
    return f"{point[1]:.6g} at {point[0]:.12g}"


def _run(run: RunReport):
    parts = [element("h2", run.curves.name)]
    parts += [element("p", note, class_="warning") for note in run.notes]
    if run.facts:
        parts.append(table([], [list(fact) for fact in run.facts], 2))
    if run.net is not None:
        parts += [element("h3", "Net"), _layers(run.net)]
    if run.kept or (run.net is not None and run.net.drops):
        parts += [element("h3", "Drops"), _drops(run)]
    if run.confusion is not None:
        parts += [element("h3", "Confusion"), _confusion(run.confusion)]
    for name, text in run.texts.items():
        cut = f"\n... and {len(text) - _MOST_TEXT:,} characters more" if len(text) > _MOST_TEXT else ""
        parts.append(element("details", element("summary", name), element("pre", text[:_MOST_TEXT] + cut)))
    return element("section", joined(parts))


def _layers(net):
    rows = [[layer.name, layer.type, ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}"
                                               for name, shape in layer.outputs.items()),
             f"{layer.parameters:,}" if layer.parameters else "",
             f"{layer.dense / 1e6:,.4g}" if layer.dense else "",
             f"{layer.expected / 1e6:,.4g}" if layer.dense else ""] for layer in net.layers]
    rows.append(["total", "", "", f"{net.parameters:,}", f"{net.dense / 1e6:,.4g}",
                 f"{net.expected / 1e6:,.4g}"])
    return joined([table(["layer", "type", "output", "parameters", "MFLOP dense", "with drops"], rows, 3),
                   element("p", "MFLOP: millions of operations in products of matrices, forward and "
                                "backward, one batch; with drops: expected over the patterns.",
                           class_="note")])


def _drops(run: RunReport):
    shares = {one.layer: one for one in run.kept}
    rows = []
    for drop in run.net.drops if run.net is not None else ():
        one = shares.get(drop.layer)
        rows.append([drop.layer, drop.kind, *([f"{one.mean:.4f}", f"{one.least:.4f}", f"{one.greatest:.4f}",
                                               f"{one.looked:,}"] if one else [""] * 4),
                     f"nothing: {drop.reason}" if drop.reason else f"{drop.share:.1%} of the dense net's "
                     f"operations"])
    return joined([table(["drop", "pattern", "kept, mean", "least", "most", "iterations looked at", "saves"],
                         rows, 2),
                   element("p", "Kept: the share that lives in an iteration and a group of samples, drawn "
                                "again from the run's seed.", class_="note")])


def _confusion(found: Confusion):
    counts, total = found.counts, int(found.counts.sum())
    correct = int(counts.trace())
    said = element("p", f"{found.scores} against {found.labels}, {total:,} records of the test net, weights "
                        f"of {found.weights}: {correct:,} right, {correct / max(total, 1):.4%}.")
    if len(counts) > _MOST_CLASSES:
        return joined([said, element("p", f"{len(counts)} classes are too many for a table.", class_="note")])
    cells = [[f"{label}", *map(str, row)] for label, row in enumerate(counts.tolist())]
    return joined([said, table(["label \\ predicted", *map(str, range(len(counts)))], cells, 1, "matrix")])


def table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int,
          class_: str = "values") -> Markup:
    """Return a table that scrolls where it is wide; columns behind the first `texts` hold numbers."""
    def cell(name, k, value):
        return element(name, value, **({"class_": "number"} if k >= texts else {}))

    lines = [element("tr", *(cell("td", k, value) for k, value in enumerate(row))) for row in rows]
    body = element("tbody", joined(lines))
    if not head:
        parts, class_ = [body], "facts"
    else:
        top = element("tr", *(cell("th", k, value) for k, value in enumerate(head)))
        parts = [element("thead", top), body]
    return element("div", element("table", *parts, class_=class_), class_="scrolls", tabindex="0")
