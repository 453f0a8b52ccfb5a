"""The results of the reproductions as tables and figures."""

from dataclasses import dataclass, field
from statistics import mean, stdev

import click
from bench_models import find_model
from reproduction import Cell

import minidrop as md


# -- from runs to rows ---------------------------------------------------------------------------------------
def collect(row, cell, store):
    """Return a new row of a method with what its trainings in a cell are: runs, diverged, missing."""
    for seed in range(1, cell.seeds + 1):
        record = store.find(cell.run(row.method, seed))
        if record is None:
            row.missing += 1
        elif record["accuracy"] is None:
            row.diverged += 1
        else:
            row.runs.append(record)
    return row


@dataclass
class Row:
    """One cell and method: what was measured; lists have one entry for each training that did not diverge."""

    cell: Cell
    method: str
    speed_up: float | None = None
    speed: dict = field(default_factory=dict)       # what was measured with it, "ms" for example
    base: "Row | None" = None           # of conventional dropout
    runs: list = field(default_factory=list)
    diverged: int = 0
    missing: int = 0                    # trainings asked for that have not been made

    @classmethod
    def of(cls, cell, store, method):
        """Return the Row of a method, not yet compared with conventional dropout."""
        row = cls(cell, method)
        if method == "conventional":
            others = [found for other in cell.methods[1:] if (found := store.find(cell.speed(other)))]
            if others:
                row.speed_up = 1.0
                row.speed = {name.removeprefix("conventional_"): value for name, value in others[0].items()
                             if name.startswith("conventional_")}
        elif speed := store.find(cell.speed(method)):
            row.speed_up, row.speed = speed["speed_up"], speed
        return collect(row, cell, store)

    def values(self, name):
        """The values of all trainings; accuracies and F1 in %."""
        return [run[name] * (100 if name in ("accuracy", "f1") else 1) for run in self.runs]

    def to_base(self, name):
        """The mean value and that of conventional dropout, or None."""
        if self.base is None or not (self.base.runs and self.runs) or self.diverged:
            return None
        return mean(self.values(name)), mean(self.base.values(name))

    @property
    def difference(self):
        """Of the mean accuracy to that of conventional dropout, in points, or None."""
        both = self.to_base("accuracy")
        return both and both[0] - both[1]

    @property
    def bound(self):
        """What the operations of its products allow."""
        return find_model(self.cell.net).bound(self.method, self.cell.rate)


def compared(rows):
    """Return rows, each compared with that of conventional dropout, which is the first if it is there."""
    for row in rows[1:] if rows and rows[0].method == "conventional" else ():
        row.base = rows[0]
    return rows


def rows_of(cells, store):
    """Return a Row for every cell and method that has a run."""
    return [row for cell in cells
            for row in compared([Row.of(cell, store, method) for method in cell.methods])
            if row.speed_up is not None or row.runs or row.diverged]


# -- tables and figures --------------------------------------------------------------------------------------
def times(value):
    """Return a ratio for a table, as 1.23x."""
    return "-" if value is None else f"{value:.2f}x"


def signed(value):
    """Return a difference for a table, as +1.23."""
    return "-" if value is None else f"{value:+.2f}"


def spread(row, name):
    """Return mean and standard deviation, and how many trainings are missing or have diverged."""
    values = row.values(name)
    if not values:
        return "diverged" if row.diverged else "-"
    return mean_of(values) + notes(row)


def mean_of(values, digits=2):
    """Return mean and standard deviation for a table, as 1.23 ± 0.45; "-" of none."""
    text = f"{mean(values):.{digits}f}" if values else "-"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def notes(row):
    """Return how many trainings of a row have diverged or are missing, for a table; "" if none."""
    found = [f"{count} {what}" for count, what in ((row.diverged, "diverged"), (row.missing, "missing"))
             if count]
    return f" ({', '.join(found)})" if found else ""


def seconds(row):
    """Return the mean seconds of trainings that had the same number of threads."""
    alike = len({run["threads"] for run in row.runs}) == 1
    return f"{mean(row.values('seconds')):.1f}" if alike else "-"


def relative(row):
    """Return how the mean perplexity differs from that of conventional dropout."""
    both = row.to_base("perplexity")
    return f"{100 * (both[0] / both[1] - 1):+.2f} %" if both else "-"


COLUMNS = {"net": lambda row: row.cell.net, "p": lambda row: f"{row.cell.rate:g}",
           "method": lambda row: row.method, "speed-up": lambda row: times(row.speed_up),
           "bound": lambda row: times(row.bound), "difference": lambda row: signed(row.difference)}


def markdown(rows, *heads):
    """Return a Markdown table, aligned; `heads` of COLUMNS, or pairs (head, text of a row)."""
    columns = dict((head, COLUMNS[head]) if isinstance(head, str) else head for head in heads)
    lines = [tuple(columns), *(tuple(text(row) for text in columns.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


# told apart by all eyes
COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31", "#666666")


def color_of(number):
    """Return the color of the number-th method."""
    return COLORS[number % len(COLORS)]


def tidy(axes, axis="both"):
    """Give the panel of a figure a light grid and no frame."""
    axes.grid(axis=axis, color="#dddddd", linewidth=0.7, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure, handles, columns, path):
    """Write a figure with a legend of {name: handle} above it."""
    figure.legend(list(handles.values()), list(handles), loc="outside upper center",
                  ncols=min(columns, len(handles)), frameon=False)
    figure.savefig(path, dpi=150)


def draw_losses(rows, path, label):
    """Draw the test loss, called `label`, against seconds of training; returns whether it did.

    A panel for each net and rate. The first seed of each method. ImportError without matplotlib.
    """
    from matplotlib.figure import Figure
    rows, panels = [row for row in rows if row.runs], {}
    for row in rows:
        panel = row.cell.net, row.cell.rate, row.cell.training["iterations"]
        panels.setdefault(panel, {}).setdefault(row.method, row)
    if not panels:
        return False
    methods = list(dict.fromkeys(row.method for row in rows))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(1.2 + 4 * columns, 0.8 + 3.2 * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    handles = {}
    for ((net, rate, _), own), one in zip(panels.items(), axes, strict=False):
        for method, row in own.items():
            _, x, _, y, *_ = zip(*row.runs[0]["curve"], strict=True)
            handles[method], = one.plot(x, y, ".-", color=color_of(methods.index(method)))
        one.set(title=f"{net}, dropout rate {rate:g}", xlabel="seconds of training",
                ylabel=label)
        tidy(one)
    for one in axes[len(panels):]:
        one.set_visible(False)
    save(figure, handles, 2 * columns, path)
    return True


def report(rows, store, text_of, draw):
    """Print the tables, and write them and the figure beside the store: table.md and figure.png."""
    if not rows:
        raise md.DataError(f"{store.path}: holds none of these runs; leave out --report to make them")
    table, figure = store.path.with_name("table.md"), store.path.with_name("figure.png")
    table.write_text(text := text_of(rows), encoding="utf-8")
    click.echo(f"\n{text}")
    try:
        drawn = draw(rows, figure)
    except ImportError:
        click.echo("no figure: it needs matplotlib; run: python -m pip install 'minidrop[plot]'", err=True)
    else:
        click.echo(f"{table}, {figure}" if drawn else table)
