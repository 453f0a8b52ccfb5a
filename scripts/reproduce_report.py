"""The results of reproduce_mlp.py as tables and as a figure, beside what the paper reports."""

from dataclasses import dataclass, field
from itertools import product
from statistics import mean, stdev

PAPER = {       # (rate, net): method -> (accuracy in %, conventional and with the method; speed-up)
    (0.5, "1024x64"): {"ROW": (98.39, 97.87, 1.18), "TILE": (98.32, 97.78, 1.12)},
    (0.5, "1024x1024"): {"ROW": (98.50, 98.01, 1.19), "TILE": (98.26, 98.02, 1.19)},
    (0.5, "2048x2048"): {"ROW": (98.44, 97.58, 1.45), "TILE": (98.29, 98.08, 1.54)},
    (0.5, "4096x4096"): {"ROW": (98.37, 98.00, 1.48), "TILE": (98.26, 98.07, 1.62)},
    (0.7, "1024x64"): {"ROW": (98.19, 97.80, 1.27), "TILE": (98.30, 97.51, 1.19)},
    (0.7, "1024x1024"): {"ROW": (98.33, 98.03, 1.45), "TILE": (98.26, 97.76, 1.22)},
    (0.7, "2048x2048"): {"ROW": (98.42, 97.82, 1.77), "TILE": (98.23, 97.81, 1.60)},
    (0.7, "4096x4096"): {"ROW": (98.48, 98.02, 1.95), "TILE": (98.29, 97.58, 2.16)},
}
"""Song and Jiang, arXiv 1805.08939: MNIST, 784-h1-h2-10, 60 000 iterations of Caffe."""

# told apart by all eyes
COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#666666")


@dataclass
class Row:
    """One net, rate and method: what was measured. Accuracies in %, one for each training that did not
    diverge."""

    net: str
    rate: float
    method: str
    speed_up: float | None = None
    bound: float | None = None
    accuracies: list = field(default_factory=list)
    diverged: int = 0
    missing: int = 0                    # trainings asked for that have not been made
    difference: float | None = None     # of the mean accuracy to that of conventional dropout, in points
    learning_rate: float | None = None
    validation: float | None = None

    @property
    def paper(self):
        """(speed-up, difference) in the paper, or None."""
        found = PAPER.get((self.rate, self.net), {}).get(self.method)
        return found and (found[2], found[1] - found[0])


# -- from runs to rows ---------------------------------------------------------------------------------------
def rows_of(selection, store, bound):
    """Return a Row for every cell that has a run; `bound(net, rate, method)` counts what its products
    allow."""
    rows = []
    for net, rate in product(selection.nets, selection.rates):
        cell = [_row(selection, store, net, rate, method) for method in selection.methods]
        _compare(cell)
        for row in cell:
            if row.speed_up is not None or row.accuracies or row.diverged:
                row.bound = bound(net, rate, row.method)
                rows.append(row)
    return rows


def best_of(selection, store, net, method):
    """Return the validation record of the best rate and learning rate; None until all are there, or where all
    diverge."""
    records = [store.find(key) for key in selection.validations(net, method)]
    if None in records:
        return None
    return max((record for record in records if record["accuracy"] is not None),
               key=lambda record: record["accuracy"], default=None)


def best_rows(selection, store):
    """Return a Row for every net and method whose best settings are known."""
    rows = []
    for net in selection.nets:
        found = [(method, best_of(selection, store, net, method)) for method in selection.methods]
        cell = []
        for method, best in found:
            if best:
                row = _row(selection, store, net, best["rate"], method, best["learning_rate"])
                row.validation = 100 * best["accuracy"]
                cell.append(row)
        _compare(cell)
        rows += cell
    return rows


def _row(selection, store, net, rate, method, learning_rate=None):
    row = Row(net, rate, method, learning_rate=learning_rate)
    if method == "conventional":
        measured = any(store.find(selection.speed(net, rate, other)) for other in selection.methods[1:])
        row.speed_up = 1.0 if measured else None
    elif speed := store.find(selection.speed(net, rate, method)):
        row.speed_up = speed["speed_up"]
    for seed in selection.all_seeds:
        record = store.find(selection.run(net, rate, method, seed, learning_rate))
        if record is None:
            row.missing += 1
        elif record["accuracy"] is None:
            row.diverged += 1
        else:
            row.accuracies.append(100 * record["accuracy"])
    return row


def _compare(cell):
    base = next((row for row in cell if row.method == "conventional" and row.accuracies), None)
    for row in cell:
        if base and row is not base and row.accuracies and not row.diverged:
            row.difference = mean(row.accuracies) - mean(base.accuracies)


# -- tables --------------------------------------------------------------------------------------------------
def text_of(selection, rows, best):
    """Return the tables as Markdown."""
    seeds = f"{selection.seeds} seeds, mean ± standard deviation" if selection.seeds > 1 else "one seed"
    parts = [f"MNIST, 784-h1-h2-10; {selection.iterations} iterations of batch 128, learning rate "
             f"{selection.learning_rate:g} falling to 0 (models/mnist_mlp); {seeds}.\n"
             "Speed-up: a whole training step, conventional dropout over the method, in one run. Bound: the "
             "same for the operations of the products.\n"
             "Difference: of the test accuracy to conventional dropout, in points. The paper: arXiv "
             "1805.08939, Caffe, 60000 iterations.",
             markdown(("net", "p", "method", "speed-up", "bound", "test accuracy %", "difference",
                       "paper: speed-up", "paper: difference"),
                      [(*_names(row), _times(row.speed_up), _times(row.bound), accuracy_text(row),
                        _points(row.difference), _times(row.paper and row.paper[0]),
                        _points(row.paper and row.paper[1])) for row in rows])]
    if best:
        parts += ["Each method at its own best rate and learning rate: chosen on the last sixth of the "
                  "training records, trained on all:",
                  markdown(("net", "p", "method", "learning rate", "validation accuracy %", "test accuracy %",
                            "difference", "speed-up"),
                           [(*_names(row), f"{row.learning_rate:g}", f"{row.validation:.2f}",
                             accuracy_text(row), _points(row.difference), _times(row.speed_up))
                            for row in best])]
    return "\n\n".join(parts) + "\n"


def accuracy_text(row):
    """Return mean and standard deviation in %, and how many trainings are missing or have diverged."""
    if not row.accuracies:
        return "diverged" if row.diverged else "-"
    text = f"{mean(row.accuracies):.2f}"
    if len(row.accuracies) > 1:
        text += f" ± {stdev(row.accuracies):.2f}"
    notes = [f"{count} {what}" for count, what in ((row.diverged, "diverged"), (row.missing, "missing"))
             if count]
    return f"{text} ({', '.join(notes)})" if notes else text


def markdown(heads, rows):
    """Return a Markdown table whose columns line up as plain text too."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
    return "\n".join([line(heads), "|" + "|".join("-" * (width + 2) for width in widths) + "|",
                      *map(line, rows)])


def _names(row):
    return row.net, f"{row.rate:g}", row.method


def _times(value):
    return "-" if value is None else f"{value:.2f}x"


def _points(value):
    return "-" if value is None else f"{value:+.2f}"


# -- figure --------------------------------------------------------------------------------------------------
def draw(rows, path):
    """Draw speed-ups above and differences of accuracy below, a column for each rate. ImportError without
    matplotlib."""
    from matplotlib.figure import Figure
    rows = [row for row in rows if row.method != "conventional"]
    nets, rates, methods = (list(dict.fromkeys(getattr(row, name) for row in rows))
                            for name in ("net", "rate", "method"))
    panels = [(label, value, number, base) for label, value, number, base in (
        ("speed-up over conventional dropout", lambda row: row.speed_up, 0, 1),
        ("test accuracy − conventional, points", lambda row: row.difference, 1, 0))
        if any(value(row) is not None for row in rows)]
    if not panels:
        return
    width = 1.2 + len(rates) * max(3.5, 0.17 * len(nets) * (len(methods) + 1.5))
    figure = Figure(figsize=(width, 0.8 + 3.2 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), len(rates), squeeze=False, sharex=True, sharey="row")
    handles = {}
    for i, (label, value, number, base) in enumerate(panels):
        axes[i][0].set_ylabel(label)
        for j, rate in enumerate(rates):
            _panel(axes[i][j], [row for row in rows if row.rate == rate], nets, methods, value, number, base,
                   handles)
    for j, rate in enumerate(rates):
        axes[0][j].set_title(f"dropout rate {rate:g}")
        axes[-1][j].set_xticks(range(len(nets)), nets)
    names = [name for name in (*methods, "paper") if name in handles]
    columns = max(1, int(width / (0.6 + 0.09 * max(map(len, names)))))
    figure.legend([handles[name] for name in names], names, loc="outside upper center",
                  ncols=min(columns, len(names)), frameon=False)
    figure.savefig(path, dpi=150)


def _panel(axes, rows, nets, methods, value, number, base, handles):
    """Draw the bars of one rate: a group for each net; a diamond is the paper's figure."""
    bar = 0.84 / len(methods)
    for row in rows:
        if value(row) is None:
            continue
        place = methods.index(row.method)
        x = nets.index(row.net) + (place - (len(methods) - 1) / 2) * bar
        spread = stdev(row.accuracies) if number == 1 and len(row.accuracies) > 1 else None
        bars = axes.bar(x, value(row), 0.9 * bar, color=COLORS[place % len(COLORS)], yerr=spread, zorder=2,
                        error_kw={"elinewidth": 0.9, "capsize": 1.5, "ecolor": "#333333"})
        handles.setdefault(row.method, bars[0])
        if row.paper:
            handles["paper"], = axes.plot(x, row.paper[number], "D", markersize=4.5, markerfacecolor="white",
                                          color="black", linestyle="none", zorder=3)
    axes.axhline(base, color="black", linewidth=0.8, zorder=2.5)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    axes.set_xlim(-0.6, len(nets) - 0.4)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
